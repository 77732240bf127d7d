package broker

import (
	"fmt"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A ReadRequest is what a reader asks of a credential.
type ReadRequest struct {
	// Scope is what the token is to be for, as provider.JoinScope has it; "" is the
	// credential's own scope.
	Scope string

	// MinTTL is how long the reader wants the token to be good for at least. A good
	// token is exchanged for a fresher one at most once to meet it, and only if that
	// can.
	MinTTL time.Duration
}

// An IssuedToken is a token and for how long it may be leased.
type IssuedToken struct {
	provider.Token
	Provider string

	// TTL is the longest lease that ends before the token may be dead less the
	// margin, in whole seconds, at least one.
	TTL time.Duration

	// Reread is for a reader without a lease: in Reread and one second, which Vault
	// Agent adds, there will be a fresher token, or this one is about to die. In
	// whole seconds, at least one, and never past the token's life.
	Reread time.Duration

	// Outcome is how it came about.
	Outcome Outcome

	// Warnings are why there is no fresher token, if there ought to be one, and why
	// it falls short of the reader's request.
	Warnings []string
}

// An Outcome is how a reader came by a token.
type Outcome int

const (
	// Cached is out of memory.
	Cached Outcome = iota
	// Exchanged is after waiting for the vendor.
	Exchanged
	// Stale is a good token though there ought to be a fresher one, which the vendor, or
	// the storage, has failed to give so far.
	Stale
)

// An ExchangeError is why there is no token of a credential.
type ExchangeError struct {
	Name     string // of the credential
	Provider string
	Scope    string // "" is the credential's own
	Err      *provider.Error

	// NextAttempt is when the vendor may be called again, whoever asks.
	NextAttempt time.Time
}

func (e *ExchangeError) Error() string { return e.Err.Error() }
func (e *ExchangeError) Unwrap() error { return e.Err }

// late says of a reading why it is not of a fresher token, which is to be had soon.
func (r *IssuedToken) late(now time.Time) *IssuedToken {
	r.Warnings = append(r.Warnings, fmt.Sprintf("the vendor has not answered yet; this token is good until %s", FormatTime(r.ExpireTime)))
	r.Reread, r.Outcome = rereadTTL(r.Token, now, now), Stale
	return r
}

// warned is the reading with what a reader is to know who wants a token for minTTL.
func (r *IssuedToken) warned(v view, now time.Time, minTTL time.Duration) *IssuedToken {
	token, failure, unwritten := r.Token, v.failure(now), v.unwritten()
	isLate := r.TTL < minTTL || dying(token, now) || overdue(token, now)
	switch {
	case unwritten != nil:
		r.Outcome = Stale
		r.Warnings = []string{fmt.Sprintf("a fresher token cannot be stored (%s); this one is good until %s", unwritten.err, FormatTime(token.ExpireTime))}
	case failure.Count > 0 && isLate:
		r.Outcome = Stale
		r.Warnings = []string{fmt.Sprintf("the vendor gives no fresher token (%s); this one is good until %s; next attempt at %s",
			failure.Reason, FormatTime(token.ExpireTime), FormatTime(failure.NextAttempt))}
	case r.TTL < minTTL:
		r.Warnings = []string{fmt.Sprintf("min_ttl is %s, and this token is good for %s; %s", minTTL, r.TTL, prospect(v, now, minTTL))}
	}
	r.Warnings = append(r.Warnings, scopeWarnings(token, v.scope)...)
	return r
}

// prospect is what could be had in place of a token that a reader finds too short.
func prospect(v view, now time.Time, minTTL time.Duration) string {
	t := v.token()
	switch {
	case renewable(t, now, minTTL) && now.Before(v.earlyTime()):
		return fmt.Sprintf("readers have caused as many exchanges by their min_ttl as they may, %d within the lifetime of a token; the next may be at %s", earlyExchanges, FormatTime(v.earlyTime().Add(time.Second-1)))
	case t.NotRenewable:
		return "there is no other"
	case !t.RenewableFrom.IsZero():
		return "one that lives longer can be had from " + FormatTime(t.RenewableFrom.Add(time.Second-1))
	}
	return fmt.Sprintf("a fresh one would be for %s", leaseTTL(t, t.IssueTime))
}
