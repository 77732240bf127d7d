package broker

import (
	"fmt"
	"strings"
	"time"
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

// checkVariants returns a *TooManyVariantsError if a token for a scope would be one too many.
func (v scopeSnapshot) checkVariants() error {
	most := v.credential.MaxVariants
	if v.scope == ownScope || most == 0 {
		return nil
	}
	current := *v.latestState()
	current.prune(time.Now())
	scopes := current.scopes()
	delete(scopes, ownScope)
	if scopes[v.scope] || len(scopes) < most {
		return nil
	}
	return &TooManyVariantsError{Path: v.credential.Path, Max: most}
}

// IsLoaded reports whether a name is in memory and can be exchanged.
func (b *Broker) IsLoaded(name string) bool {
	r := b.cached(name)
	return r != nil && r.get().presence == loaded
}

// VariantsOf returns the number of variants of each credential in memory.
func (b *Broker) VariantsOf() map[string]int {
	counts := map[string]int{}
	for _, r := range b.allCached() {
		if isVariant(r.name) && r.get().presence == loaded {
			counts[BaseName(r.name)]++
		}
	}
	return counts
}

// forgetVariants clears what is cached of the variants of a credential, which a change has made void.
func (b *Broker) forgetVariants(name string) {
	if isVariant(name) {
		return
	}
	prefix := name + VariantMark
	for _, r := range b.allCached() {
		if strings.HasPrefix(r.name, prefix) {
			r.forget()
		}
	}
}

// IdleVariants returns variants that nobody reads any more: their token has expired for longer than its
// lifetime, or they never had one. It returns at most the given number.
func (b *Broker) IdleVariants(most int) []string {
	var idle []string
	now := time.Now()
	for _, r := range b.allCached() {
		if len(idle) == most {
			break
		}
		if isVariant(r.name) && r.isIdle(now) {
			idle = append(idle, r.name)
		}
	}
	return idle
}

func (r *record) isIdle(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	snap := r.current
	if snap.presence != loaded || snap.unsaved != nil || !r.running.since.IsZero() || len(r.uses) > 0 {
		return false
	}
	return !wasRecentlyValid(snap.state.Tokens[ownScope], now) && !now.Before(snap.state.Failure.asOf(now).NextAttempt)
}
