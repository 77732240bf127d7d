package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// VariantMark is between the name of a credential and the digest of a narrowing in the name of a variant. No
// name of a credential has it.
const VariantMark = "~"

// VariantName returns the name of a credential's variant.
func VariantName(name, digest string) string { return name + VariantMark + digest }

// BaseName returns the name of the credential that a name is a variant of, or the name itself.
func BaseName(name string) string {
	base, _, _ := strings.Cut(name, VariantMark)
	return base
}

func isVariant(name string) bool { return strings.Contains(name, VariantMark) }

// A TooManyVariantsError means that a credential has as many narrower tokens as it may have.
type TooManyVariantsError struct {
	Path string // of the credential
	Max  int
}

func (e *TooManyVariantsError) Error() string {
	return fmt.Sprintf("%s has %d narrower tokens, its max_variants; wait until some that nobody reads have expired, or raise max_variants", e.Path, e.Max)
}

// checkVariants returns a *TooManyVariantsError if a token that a reader has chosen would be one too many.
func (b *Broker) checkVariants(v scopeSnapshot) error {
	most := v.credential.MaxVariants
	if v.scope == ownScope || most == 0 {
		return nil
	}
	scopes := v.narrowerScopes()
	if scopes[v.scope] || len(scopes)+b.countVariants(v.credential.Name) < most {
		return nil
	}
	return &TooManyVariantsError{Path: v.credential.Path, Max: most}
}

// narrowerScopes returns the scopes of which a credential itself has state, besides its own.
func (snap snapshot) narrowerScopes() map[string]bool {
	current := *snap.latestState()
	current.prune(time.Now())
	scopes := current.scopes()
	delete(scopes, ownScope)
	return scopes
}

// CountNarrower returns the number of narrower tokens that a loaded credential has, those of its variants aside.
func (b *Broker) CountNarrower(name string) int {
	r := b.cached(name)
	if r == nil {
		return 0
	}
	snap := r.get()
	if snap.presence != loaded {
		return 0
	}
	return len(snap.narrowerScopes())
}

// isRefused reports whether the vendor was not called, as the credential cannot have such a token.
func isRefused(err error) bool {
	var many *TooManyVariantsError
	var e *provider.Error
	return errors.As(err, &many) || errors.As(err, &e) && e.Kind == provider.Invalid
}

// variantsOf returns the records of the variants of a credential.
func (b *Broker) variantsOf(name string) []*record {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := make([]*record, 0, len(b.variants[name]))
	for _, e := range b.variants[name] {
		if e.record != nil {
			all = append(all, e.record)
		}
	}
	return all
}

// countVariants returns the number of variants of a credential in memory.
func (b *Broker) countVariants(name string) (n int) {
	for _, r := range b.variantsOf(name) {
		if r.get().presence == loaded {
			n++
		}
	}
	return n
}

// IsLoaded reports whether a name is in memory and can be exchanged.
func (b *Broker) IsLoaded(name string) bool {
	r := b.cached(name)
	return r != nil && r.get().presence == loaded
}

// Loaded returns a credential in memory; nil if it is not loaded.
func (b *Broker) Loaded(name string) *Credential {
	r := b.cached(name)
	if r == nil {
		return nil
	}
	return r.get().credential
}

// LoadIfFree loads a name, unless it is loaded, or its lock is held. A failure shows when the name is read.
func (b *Broker) LoadIfFree(ctx context.Context, s logical.Storage, name string) {
	if b.Loaded(name) == nil {
		_, _ = b.loadUnlocked(ctx, s, name)
	}
}

// IdleVariants returns variants that nobody reads any more: their token has expired for longer than its
// lifetime, they never had one, or the credential cannot have them. It returns at most the given number.
func (b *Broker) IdleVariants(most int) []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var idle []string
	now := time.Now()
	for name := range b.idle {
		if len(idle) == most {
			break
		}
		if e := b.entries[name]; isVariant(name) && e != nil && e.record != nil && e.record.isIdle(now) {
			idle = append(idle, name)
		}
	}
	return idle
}

func (r *record) isIdle(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := r.idleFromLocked(now)
	return !from.IsZero() && !now.Before(from)
}

// idleFromLocked returns from when on nobody reads a variant any more, unless that changes; the zero time while it is in
// use.
func (r *record) idleFromLocked(now time.Time) time.Time {
	snap := r.current
	switch {
	case !r.running.since.IsZero():
		return time.Time{}
	case snap.presence == unusable:
		return maxTime(snap.panicPause, now)
	case snap.presence != loaded || snap.unsaved != nil || len(r.uses) > 0:
		return time.Time{}
	}
	token := snap.state.Tokens[ownScope].At(now)
	from := maxTime(token.ExpireTime.Add(token.ExpireTime.Sub(token.IssueTime)), snap.of(ownScope).lastFailure(now).NextAttempt)
	for _, tokens := range snap.state.Dropped {
		for _, dropped := range tokens {
			from = maxTime(from, dropped.At(now).ExpireTime)
		}
	}
	return maxTime(maxTime(from, snap.panicPause), time.Unix(0, 0)) // at any time if it never had a token
}

// checkOwn returns an error if the vendor has issued a variant's token for the credential itself or for
// another variant, which has other values of fields. (Guarantee 14.)
func (b *Broker) checkOwn(r *record, c *Credential, t provider.Token) *provider.Error {
	if c.Narrowing == "" {
		return nil
	}
	r.setPending(t.AccessToken) // first, as another variant may do the same now
	others := b.variantsOf(BaseName(c.Name))
	if base := b.cached(BaseName(c.Name)); base != nil {
		others = append(others, base)
	}
	for _, other := range others {
		if other != r && other.hasWider(t.AccessToken, c) {
			return newWidenedError("returned a token that it has issued for another reader as well, so it does not narrow by what the role has; give the role a credential of its own")
		}
	}
	return nil
}

// fieldsOf returns the values of the fields that roles can set, for a token of a scope.
func (c *Credential) fieldsOf(scope string) map[string]any {
	fields := maps.Clone(c.RoleFields)
	if fields == nil {
		fields = map[string]any{}
	}
	maps.Copy(fields, provider.ParseNarrowing(c.keyOf(scope)).Fields)
	return fields
}

// hasWider reports whether a name has a token, or is about to have it, for other values of fields than a variant, or
// for scopes that the variant does not have.
func (r *record) hasWider(accessToken string, variant *Credential) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current.presence != loaded {
		return false
	}
	c := r.current.credential
	if r.pending == accessToken && variant.isNarrower(c, ownScope, nil) {
		return true
	}
	for scope, token := range r.current.state.Tokens {
		if token.AccessToken == accessToken && variant.isNarrower(c, scope, token.Scope) {
			return true
		}
	}
	return false
}

// isNarrower reports whether a variant has other values of fields than the token of a scope of another credential, or
// lacks one of the scopes that this was granted; the vendor may not have stated them.
func (c *Credential) isNarrower(other *Credential, scope string, granted []string) bool {
	if !reflect.DeepEqual(c.fieldsOf(ownScope), other.fieldsOf(scope)) {
		return true
	}
	asked := provider.ParseNarrowing(c.Narrowing).Scope
	if len(asked) == 0 {
		return false
	}
	whole := cmp.Or(c.WholeScope, c.Scope)
	if len(granted) == 0 {
		granted = provider.ParseNarrowing(other.keyOf(scope)).Scope
	}
	if len(granted) == 0 {
		granted = strings.Fields(whole)
	}
	return len(granted) == 0 || len(extraScopes(granted, provider.JoinScope(asked), whole)) > 0
}

func (r *record) setPending(accessToken string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = accessToken
}

// isKnownOfClient reports whether another variant of the credential has shown that the vendor rejects the
// client.
func (b *Broker) isKnownOfClient(r *record) bool {
	return slices.ContainsFunc(b.variantsOf(BaseName(r.name)), func(other *record) bool {
		snap := other.get()
		return other != r && snap.presence == loaded && snap.state.Failure.isFinal() && snap.state.Failure.AboutClient
	})
}

// unnamed returns a failure without the values of fields that identify the reader of a variant.
func (c *Credential) unnamed(e *provider.Error) *provider.Error {
	if e == nil || c.Narrowing == "" || e.Kind == provider.Invalid {
		return e
	}
	var known, values []string
	for _, value := range c.RoleFields {
		known = appendTexts(known, value)
	}
	for _, value := range provider.ParseNarrowing(c.Narrowing).Fields {
		values = appendTexts(values, value)
	}
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) }) // one may be a part of another
	next := *e
	for _, value := range values {
		if len(value) < minShown || slices.Contains(known, value) {
			continue
		}
		next.Reason = regexp.MustCompile("(?i)"+regexp.QuoteMeta(value)).ReplaceAllLiteralString(next.Reason, "(the reader)")
	}
	return &next
}

// minShown is the length of texts that do not identify a reader.
const minShown = 3

// appendTexts appends the texts in a value.
func appendTexts(all []string, value any) []string {
	switch value := value.(type) {
	case string:
		return append(all, value)
	case []any:
		for _, one := range value {
			all = appendTexts(all, one)
		}
	case map[string]any:
		for _, one := range value {
			all = appendTexts(all, one)
		}
	}
	return all
}
