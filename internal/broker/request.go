package broker

import (
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A ReadRequest holds a reader's requirements.
type ReadRequest struct {
	// Scope is the key of the token's narrowing (provider.Narrowing); "" is the credential's own scope.
	Scope string

	// IsChosen is whether the reader has chosen the scope, so that max_variants limits it.
	IsChosen bool

	// MinTTL is the remaining lifetime that the reader requires. To meet it, the engine exchanges a
	// valid token at most once, and only if a new one would be longer.
	MinTTL time.Duration
}

// An IssuedToken is a token for a reader, with the time for which it can be used.
type IssuedToken struct {
	provider.Token
	Vendor string
	API    *provider.API // how the vendor's API takes the token; nil for the usual way

	// TTL is the longest possible lease. It leaves the margin before the token expires, and is a
	// positive number of whole seconds.
	TTL time.Duration

	// Reread is the time until a reader without a lease should read again. Vault Agent reads one
	// second later: then there is a newer token, or this one is about to expire. Reread is a
	// positive number of whole seconds, and ends before the token expires.
	Reread time.Duration

	// Outcome is the source of the token.
	Outcome Outcome

	// Warnings explain why no newer token is available, or in what the token falls short of the
	// request.
	Warnings []string
}

// An Outcome is the source of the token that a read returned.
type Outcome int

const (
	// Cached is a token from memory.
	Cached Outcome = iota
	// Exchanged is a token for which the reader waited for the vendor.
	Exchanged
	// Stale is a valid token whose renewal is overdue, because of the vendor or of storage.
	Stale
)

// An ExchangeError is why a read returned no token.
type ExchangeError struct {
	Path  string // of the credential, or of its client if the vendor rejects that
	Scope string // the key of the narrowing; "" is the credential's own scope
	Err   *provider.Error

	// IsVariant is whether the token is that of a variant, so that the credential may be valid.
	IsVariant bool

	// NextAttempt is when the vendor may be called again.
	NextAttempt time.Time
}

func (e *ExchangeError) Error() string { return e.Err.Error() }
func (e *ExchangeError) Unwrap() error { return e.Err }

// stale marks a token whose renewal is slow.
func (t *IssuedToken) stale(now time.Time) *IssuedToken {
	t.Warnings = append(t.Warnings, fmt.Sprintf("the vendor has not answered yet; this token is valid until %s", FormatTime(t.ExpireTime)))
	t.Reread, t.Outcome = rereadTTL(t.Token, now, now), Stale
	return t
}

// minReread is the least time until a reader whose renewal was not sent reads again.
const minReread = 5 * time.Second

// unrenewed marks a token whose renewal was not sent. Other failures are known to withWarnings.
func (t *IssuedToken) unrenewed(err error) *IssuedToken {
	if !isUnsent(err) {
		return t
	}
	var unsent *ExchangeError
	errors.As(err, &unsent)
	now := time.Now()
	t.Reread = rereadTTL(t.Token, maxTime(unsent.NextAttempt, now.Add(minReread)), now)
	t.Warnings = append(t.Warnings, fmt.Sprintf("the vendor issues no newer token (%s); this one is valid until %s; next attempt at %s",
		unsent.Err.Reason, FormatTime(t.ExpireTime), FormatNext(unsent.NextAttempt)))
	t.Outcome = Stale
	return t
}

// withWarnings adds the warnings for a reader that requires minTTL.
func (t *IssuedToken) withWarnings(v scopeSnapshot, now time.Time, minTTL time.Duration) *IssuedToken {
	token, failure, write := t.Token, v.lastFailure(now), v.unsaved.writeFor(v.scope)
	isLate := t.TTL < minTTL || isExpiring(token, now) || isRenewalDue(token, now)
	switch {
	case write != nil:
		t.Outcome = Stale
		t.Warnings = []string{fmt.Sprintf("a newer token cannot be stored (%s); this one is valid until %s", write.err, FormatTime(token.ExpireTime))}
	case failure.Count > 0 && isLate:
		t.Outcome = Stale
		t.Warnings = []string{fmt.Sprintf("the vendor issues no newer token (%s); this one is valid until %s; next attempt at %s",
			failure.Reason, FormatTime(token.ExpireTime), FormatNext(failure.NextAttempt))}
	case t.TTL < minTTL:
		t.Warnings = []string{fmt.Sprintf("min_ttl is %s, and this token is valid for %s; %s", minTTL, t.TTL, longerTokenHint(v, now, minTTL))}
	}
	t.Warnings = append(t.Warnings, scopeWarnings(token, v.credential.keyOf(v.scope))...)
	t.Warnings = append(t.Warnings, token.Warnings...)
	return t
}

// longerTokenHint explains to a reader whose token is too short when a longer-lived one is
// possible.
func longerTokenHint(v scopeSnapshot, now time.Time, minTTL time.Duration) string {
	t := v.token()
	switch {
	case canMeet(t, now, minTTL) && now.Before(v.earlyTime()):
		return fmt.Sprintf("min_ttl allows %d exchanges within a token's lifetime, and all are used; the next is possible at %s", earlyExchanges, FormatNext(v.earlyTime()))
	case t.NotRenewable:
		return "the token cannot be renewed"
	case !t.RenewableFrom.IsZero():
		return "a longer one is available from " + FormatTime(t.RenewableFrom.Add(time.Second-1))
	}
	return fmt.Sprintf("a new one would be valid for %s", leaseTTL(t, t.IssueTime))
}
