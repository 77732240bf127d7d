package broker

import (
	"context"
	"iter"
	"slices"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"

	"github.com/hashicorp/vault/sdk/logical"
)

// A Status is what operators see of a credential, as of the time when they ask. It is computed from
// the snapshot, and holds no secret.
type Status struct {
	Vendor string

	// State is "unused" (never exchanged), "ok", "degraded" (the last exchange failed or could not
	// be stored, but readers get a valid token; or rotations fail) or "failed" (some readers get none).
	State string

	// IsUnusable is whether the credential is damaged, was written by a newer engine, or lacks its
	// key pair, and IsUnread whether nothing has read it since the start or a change. No other field is then set. Only
	// Statuses returns such a Status.
	IsUnusable, IsUnread bool

	ExpireTime           time.Time // of the token; zero if there is none
	ExchangeTime         time.Time // of the last successful exchange
	Exchanges            int
	Failure              Failure // the last, of any scope; its Time is zero if there was none
	OwnFailure           Failure // the last that concerns the credential's own scope
	IsRejected           bool    // whether the operator must write a new credential
	CredentialExpireTime time.Time
	CredentialWriteTime  time.Time
	SecretExpireTime     time.Time      // as Credential.Expires
	Description          string         // the operator's
	Client               string         // the OAuth client that it shares; "" if none
	URLs                 []string       // to which its exchanges send its secrets; only ReadStatus sets it
	ClockSkew            *time.Duration // nil if no answer has shown it

	// CanConsent is whether a person's consent can yield the credential's secret, and NeedsConsent whether
	// one must consent, or soon will have to.
	CanConsent, NeedsConsent bool

	// StorageError is why the vendor's answer is not in storage; nil if it is.
	StorageError error

	// Rotation is that of the secret; nil if there is none. Keypair is the key pair that the credential uses; "" if it
	// uses none.
	Rotation *RotationStatus
	Keypair  string

	// Revocation is the last attempt to revoke dropped tokens; nil if there was none.
	Revocation *Revocation

	// Roles are the failures that count only against a dedicated role, by role; nil if none.
	Roles map[string]Failure

	// Variants is the number of tokens for one reader each, of roles that depend on the reader.
	Variants int

	// Scopes are the narrower scopes that roles have requested, as provider.ShownKey has them; nil if none.
	Scopes map[string]ScopeStatus
}

// A ScopeStatus is the health of a narrower scope.
type ScopeStatus struct {
	ExpireTime time.Time // of the token; zero if there is none
	Failure    Failure   // its Count is zero if there was none
	IsRejected bool      // whether only another scope, or a new credential, will help

	// StorageError is why the scope's token is not in storage; nil if it is.
	StorageError error
}

// Statuses returns the status of each credential by name: in full of those in memory, and else without its details, such
// as counts, times of the past and the description. It changes a Status that it has yielded. It holds no lock between two
// of them.
func (b *Broker) Statuses() iter.Seq2[string, *Status] {
	return func(yield func(string, *Status) bool) {
		now := time.Now()
		s := &Status{}
		for _, k := range b.all() {
			if !b.statusOf(k, s, now) {
				*s = Status{IsUnread: true}
			}
			if !yield(k.name, s) {
				return
			}
		}
	}
}

// statusOf sets s to the status of a credential. It reports whether anything is known.
func (b *Broker) statusOf(k known, s *Status, now time.Time) bool {
	if k.record != nil {
		switch snap := k.record.get(); snap.presence {
		case loaded:
			*s = *newStatus(snap, now)
			s.Variants = b.countVariants(k.name)
			return true
		case unusable:
			*s = Status{IsUnusable: true}
			return true
		case absent, unloaded:
		}
	}
	if k.summary != nil {
		k.summary.status(s, now)
	}
	return k.summary != nil
}

// BriefStatus is ReadStatus, but without details unless they are in memory, as of Statuses. So it reads storage only for
// a name that nothing has read since the start or a change.
func (b *Broker) BriefStatus(ctx context.Context, s logical.Storage, name string) (*Status, error) {
	status := &Status{}
	if isKnown, err := b.statusInMemory(name, status); isKnown || err != nil {
		return status, err
	}
	return b.ReadStatus(ctx, s, name)
}

func (b *Broker) statusInMemory(name string, s *Status) (isKnown bool, err error) {
	defer func() {
		if recovered := recover(); recovered != nil {
			isKnown, err = false, Panicked(b.source.Logger().With("name", name), recovered)
		}
	}()
	return b.statusOf(b.find(name), s, time.Now()) && !s.IsUnusable, nil
}

// UnusedHorizon is how long before a credential expires from disuse its operator learns of it.
const UnusedHorizon = 48 * time.Hour

// SecretHorizon is how long before the end of a secret its operator learns of it: replacing one takes a person
// and the vendor.
const SecretHorizon = 14 * 24 * time.Hour

// An Expiry is when a credential expires: from disuse, and when its secret expires according to the
// operator. A time is zero if it is unknown or the credential is unusable.
type Expiry struct {
	Vendor string
	Unused time.Time
	Secret time.Time

	// CanConsent is whether a person's consent can replace the secret.
	CanConsent bool
}

// ReportExpiries calls report with the expiry of each credential for which it may be news: it was read or has changed, or
// a horizon has passed. An expiry that is not done is reported again.
func (b *Broker) ReportExpiries(report func(name string, x Expiry) (isDone bool)) {
	b.mu.Lock()
	pending := b.expiries
	b.expiries = map[string]Expiry{}
	b.mu.Unlock()
	for name, x := range pending {
		if report(name, x) {
			continue
		}
		b.mu.Lock()
		if _, isNewer := b.expiries[name]; !isNewer && b.entries[name] != nil {
			b.expiries[name] = x
		}
		b.mu.Unlock()
	}
}

// expiry returns the expiry of a loaded credential.
func (snap snapshot) expiry(now time.Time) Expiry {
	return Expiry{snap.credential.VendorName, snap.state.unusedExpireTime(now), snap.credential.Expires, provider.ConsentOf(snap.credential.Vendor) != nil}
}

// ReadStatus returns the status of the named credential. It neither calls the vendor nor waits for
// a call. It is ErrPanicked if the credential triggers a bug in the engine, so that a list of all
// statuses has the others.
func (b *Broker) ReadStatus(ctx context.Context, s logical.Storage, name string) (status *Status, err error) {
	defer func() {
		if recovered := recover(); recovered != nil {
			status, err = nil, Panicked(b.source.Logger().With("name", name), recovered)
		}
	}()
	snap, err := b.lookup(ctx, s, name)
	if err != nil {
		return nil, err
	}
	status = newStatus(snap, time.Now())
	status.Variants = b.countVariants(name)
	to := snap.credential.Vendor.Destinations()
	status.URLs = append(slices.Clone(to.URLs), to.Issuer)
	return status, nil
}

// The values of Status.State.
const (
	stateUnused   = "unused"
	stateOK       = "ok"
	stateDegraded = "degraded"
	stateFailed   = "failed"
	stateConsent  = "consent_required"
)

// isSoon reports whether a time is known and within a horizon.
func isSoon(t time.Time, horizon time.Duration, now time.Time) bool {
	return !t.IsZero() && t.Before(now.Add(horizon))
}

func newStatus(snap snapshot, now time.Time) *Status {
	own := snap.of(ownScope)
	s := &Status{
		Vendor:               snap.credential.VendorName,
		ExpireTime:           own.token().At(now).ExpireTime,
		ExchangeTime:         snap.state.ExchangeTime,
		Exchanges:            snap.state.Exchanges,
		Failure:              snap.state.Failure.asOf(now),
		OwnFailure:           own.lastFailure(now),
		IsRejected:           snap.state.isRejected(ownScope),
		CredentialExpireTime: snap.state.unusedExpireTime(now),
		CredentialWriteTime:  snap.credential.WriteTime,
		SecretExpireTime:     snap.credential.Expires,
		Description:          snap.credential.Description,
		Client:               snap.credential.Client,
		ClockSkew:            snap.state.ClockSkew,
		Revocation:           snap.state.Revocation,
		Keypair:              snap.credential.Keypair,
	}
	consent := provider.ConsentOf(snap.credential.Vendor)
	hasNoSecret := consent != nil && consent.IsMissing()
	if consent != nil {
		s.CanConsent = true
		s.NeedsConsent = hasNoSecret || s.IsRejected && !snap.state.Failure.AboutClient || isSoon(s.SecretExpireTime, SecretHorizon, now)
	}
	s.StorageError = snap.unsaved.err()
	isFailing := s.Failure.Count > 0 || s.StorageError != nil
	hasToken, lacksToken := s.addScopes(snap, now) // for any scope
	if s.addRoles(snap, now) {
		lacksToken = true
	}
	if s.addDelegated(snap, now) {
		lacksToken = true
	}
	isFailing = isFailing || s.Failure.Count > 0 || lacksToken
	switch {
	case hasNoSecret && !hasToken && !isFailing:
		s.State = stateConsent
	case isFailing && hasToken && !lacksToken:
		s.State = stateDegraded
	case isFailing:
		s.State = stateFailed
	case s.Exchanges == 0:
		s.State = stateUnused
	default:
		s.State = stateOK
	}
	s.SetRotation(snap.credential.Rotation.at(now))
	return s
}

// SetRotation sets the rotation. One that keeps failing degrades the credential long before its secret expires.
func (s *Status) SetRotation(r *RotationStatus) {
	s.Rotation = r
	if r != nil && r.IsDegraded {
		s.degrade()
	}
}

// SetStorageError sets why a new secret of the credential is not in storage.
func (s *Status) SetStorageError(err error) {
	s.StorageError = err
	s.degrade()
}

func (s *Status) degrade() {
	if s.State == stateOK || s.State == stateUnused {
		s.State = stateDegraded
	}
}

// addScopes adds the status of each scope. It reports whether some scope has a valid token, and
// whether some scope that was rejected, or whose token cannot be stored, has none.
func (s *Status) addScopes(snap snapshot, now time.Time) (hasToken, lacksToken bool) {
	scopes := snap.state.scopes()
	if snap.unsaved != nil {
		addKeys(scopes, snap.unsaved.scopeWrites)
	}
	for scope := range scopes {
		v := snap.of(scope)
		token, isValid := v.token(), leaseTTL(v.token(), now) > 0
		hasToken = hasToken || isValid
		status := ScopeStatus{ExpireTime: token.At(now).ExpireTime}
		if w := v.unsaved.writeFor(v.scope); w != nil {
			status.StorageError = w.err
			_, isOfScope := snap.unsaved.scopeWrites[scope]
			wasValid := leaseTTL(snap.state.Tokens[scope], now) > 0 // but the vendor has invalidated it
			lacksToken = lacksToken || !isValid && (isOfScope || wasValid || scope == ownScope)
		}
		if failure := snap.state.ScopeFailures[scope].asOf(now); failure != (Failure{}) && !failure.isOutdated(scope, now) {
			lacksToken = lacksToken || !isValid
			s.noteFailure(failure)
			status.Failure, status.IsRejected = failure, failure.isFinal()
		}
		if scope != ownScope && (status.Failure != (Failure{}) || status.StorageError != nil || snap.state.Tokens[scope].AccessToken != "") {
			if s.Scopes == nil {
				s.Scopes = map[string]ScopeStatus{}
			}
			s.Scopes[provider.ShownKey(scope)] = status
		}
	}
	return hasToken, lacksToken
}

// addDelegated adds the health of the exchanges for callers, and reports whether the last one failed. For a
// credential without a token of its own, that is its whole health.
func (s *Status) addDelegated(snap snapshot, now time.Time) (isFailing bool) {
	failure := snap.delegated.failure.asOf(now)
	if provider.OnlyDelegates(snap.credential.Vendor) {
		s.Exchanges, s.ExchangeTime = snap.delegated.count, snap.delegated.time
		s.IsRejected = failure.isFinal()
	} else if now.After(failure.NextAttempt.Add(failureRetention)) {
		return false // nobody has tried since
	}
	if failure.Count > 0 {
		s.noteFailure(failure)
	}
	return failure.Count > 0
}

// addRoles adds the failures of dedicated roles, and reports whether there are any.
func (s *Status) addRoles(snap snapshot, now time.Time) (areFailing bool) {
	for role, failure := range snap.roleFailures {
		failure = failure.asOf(now)
		if now.After(failure.NextAttempt.Add(failureRetention)) {
			continue // the role has not been read since
		}
		s.noteFailure(failure)
		s.Roles = withKey(s.Roles, role, failure)
	}
	return len(s.Roles) > 0
}

// noteFailure replaces the last failure if f is later.
func (s *Status) noteFailure(f Failure) {
	if f.Time.After(s.Failure.Time) || s.Failure.Count == 0 {
		s.Failure = f
	}
}
