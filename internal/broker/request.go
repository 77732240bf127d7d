package broker

import (
	"fmt"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A ReadRequest is what a reader asks of a credential.
type ReadRequest struct {
	// Scope is the scope of the token, as provider.JoinScope has it; "" is the credential's own.
	Scope string

	// MinTTL is how long the reader wants the token to be valid for at least. A valid token is
	// exchanged for a newer one at most once to meet it, and only if that can help.
	MinTTL time.Duration
}

// An IssuedToken is a token and how long it may be used.
type IssuedToken struct {
	provider.Token
	Vendor string

	// TTL is the longest lease that ends the margin before the token expires, in whole seconds,
	// at least one.
	TTL time.Duration

	// Reread is for a reader without a lease. After Reread and one second, which Vault Agent
	// adds, there is a newer token, or this one is about to expire. It is in whole seconds, at
	// least one, and ends before the token does.
	Reread time.Duration

	// Outcome is where the token came from.
	Outcome Outcome

	// Warnings are why there is no newer token where one is due, and why this one is less than
	// the reader asked for.
	Warnings []string
}

// An Outcome is where the token of a read came from.
type Outcome int

const (
	// Cached is a token from memory.
	Cached Outcome = iota
	// Exchanged is a token that the reader waited for the vendor to issue.
	Exchanged
	// Stale is a valid token for which the vendor or storage has not given a newer one that is
	// due.
	Stale
)

// An ExchangeError is why a read got no token.
type ExchangeError struct {
	Path  string // of the credential
	Scope string // "" is the credential's own
	Err   *provider.Error

	// NextAttempt is when the vendor may be called again.
	NextAttempt time.Time
}

func (e *ExchangeError) Error() string { return e.Err.Error() }
func (e *ExchangeError) Unwrap() error { return e.Err }

// stale marks a token as one whose renewal takes long.
func (t *IssuedToken) stale(now time.Time) *IssuedToken {
	t.Warnings = append(t.Warnings, fmt.Sprintf("the vendor has not answered yet; this token is valid until %s", FormatTime(t.ExpireTime)))
	t.Reread, t.Outcome = rereadTTL(t.Token, now, now), Stale
	return t
}

// withWarnings adds what a reader that asked for minTTL must know.
func (t *IssuedToken) withWarnings(v scopeSnapshot, now time.Time, minTTL time.Duration) *IssuedToken {
	token, failure, write := t.Token, v.lastFailure(now), v.pendingWrite()
	isLate := t.TTL < minTTL || isExpiring(token, now) || isRenewalDue(token, now)
	switch {
	case write != nil:
		t.Outcome = Stale
		t.Warnings = []string{fmt.Sprintf("a newer token cannot be stored (%s); this one is valid until %s", write.err, FormatTime(token.ExpireTime))}
	case failure.Count > 0 && isLate:
		t.Outcome = Stale
		t.Warnings = []string{fmt.Sprintf("the vendor issues no newer token (%s); this one is valid until %s; next attempt at %s",
			failure.Reason, FormatTime(token.ExpireTime), FormatTime(failure.NextAttempt))}
	case t.TTL < minTTL:
		t.Warnings = []string{fmt.Sprintf("min_ttl is %s, and this token is valid for %s; %s", minTTL, t.TTL, longerTokenHint(v, now, minTTL))}
	}
	t.Warnings = append(t.Warnings, scopeWarnings(token, v.scope)...)
	return t
}

// longerTokenHint returns what a reader can have that finds a token too short.
func longerTokenHint(v scopeSnapshot, now time.Time, minTTL time.Duration) string {
	t := v.token()
	switch {
	case canMeet(t, now, minTTL) && now.Before(v.earlyTime()):
		return fmt.Sprintf("min_ttl allows %d exchanges within a token's lifetime, and all are used; the next is possible at %s", earlyExchanges, FormatTime(v.earlyTime().Add(time.Second-1)))
	case t.NotRenewable:
		return "the token cannot be renewed"
	case !t.RenewableFrom.IsZero():
		return "a longer one is available from " + FormatTime(t.RenewableFrom.Add(time.Second-1))
	}
	return fmt.Sprintf("a new one would be valid for %s", leaseTTL(t, t.IssueTime))
}
