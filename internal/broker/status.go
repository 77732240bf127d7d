package broker

import (
	"context"
	"iter"
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
	// key pair. No other field is then set. Only Statuses returns such a Status.
	IsUnusable bool

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

// Statuses returns the status of each credential in memory, by name. It holds no lock between two
// of them.
func (b *Broker) Statuses() iter.Seq2[string, *Status] {
	return func(yield func(string, *Status) bool) {
		now := time.Now()
		for _, r := range b.allCached() {
			if isVariant(r.name) {
				continue
			}
			var s *Status
			switch snap := r.get(); snap.presence {
			case loaded:
				s = newStatus(snap, now)
				s.Variants = b.countVariants(r.name)
			case unusable:
				s = &Status{IsUnusable: true}
			default:
				continue
			}
			if !yield(r.name, s) {
				return
			}
		}
	}
}

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

// Expiries returns the expiry of each credential in memory, by name. It holds no lock between two
// of them.
func (b *Broker) Expiries() iter.Seq2[string, Expiry] {
	return func(yield func(string, Expiry) bool) {
		for _, r := range b.allCached() {
			if isVariant(r.name) {
				continue
			}
			var x Expiry
			switch snap := r.get(); snap.presence {
			case loaded:
				x = Expiry{snap.credential.VendorName, snap.state.unusedExpireTime(time.Now()), snap.credential.Expires, provider.ConsentOf(snap.credential.Vendor) != nil}
			case unloaded, absent:
				continue
			}
			if !yield(r.name, x) {
				return
			}
		}
	}
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
	return status, nil
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
		s.NeedsConsent = hasNoSecret || s.IsRejected && !snap.state.Failure.AboutClient || !s.SecretExpireTime.IsZero() && s.SecretExpireTime.Before(now.Add(SecretHorizon))
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
		s.State = "consent_required"
	case isFailing && hasToken && !lacksToken:
		s.State = "degraded"
	case isFailing:
		s.State = "failed"
	case s.Exchanges == 0:
		s.State = "unused"
	default:
		s.State = "ok"
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
	if s.State == "ok" || s.State == "unused" {
		s.State = "degraded"
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
