package broker

import (
	"fmt"
	"maps"
	"time"

	"golang.org/x/time/rate"

	"vault-plugin-secrets-tokenbroker/provider"
)

// The readers of a dedicated role cause exchanges of their own. They are bounded by role, and
// what fails of them by itself counts against the role only: no reader of it may use up the
// vendor's patience with all others. Neither is stored: a restart costs an attempt too early.

// A TooManyError means that a dedicated role has had as many tokens as it may.
type TooManyError struct {
	Most int           // tokens
	Per  time.Duration // the lifetime of one
	Next time.Time     // when there may be another
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("%d tokens have been exchanged within the lifetime of one (%s)", e.Most, e.Per)
}

// An allowance is how many tokens a dedicated role may have yet.
type allowance struct {
	limiter  *rate.Limiter
	lifetime time.Duration // of the last token
}

// take takes one token from the allowance of a role, if there is one left, and returns what
// gives it back. There is no limit before the lifetime of one is known. The caller has the
// exclusive right to the name.
func (e *entry) take(d Dedication, now time.Time) (giveBack func(), err error) {
	a := e.allowances[d.Role]
	if a == nil {
		return func() {}, nil
	}
	a.set(d.MaxExchanges, a.lifetime, now)
	reservation := a.limiter.ReserveN(now, 1)
	giveBack = func() { reservation.CancelAt(now) } // a reservation of the past would stay
	if wait := reservation.DelayFrom(now); wait > 0 {
		giveBack()
		return nil, &TooManyError{Most: d.MaxExchanges, Per: a.lifetime, Next: now.Add(wait)}
	}
	return giveBack, nil
}

// taken notes how long a token of a role is valid, of which so many may be exchanged meanwhile.
func (e *entry) taken(d Dedication, token provider.Token, now time.Time) {
	maps.DeleteFunc(e.allowances, func(role string, a *allowance) bool { return role != d.Role && a.isFull(now) })
	lifetime := max(token.ExpireTime.Sub(token.IssueTime), time.Second).Round(time.Second)
	a := e.allowances[d.Role]
	if a == nil {
		a = &allowance{limiter: rate.NewLimiter(0, d.MaxExchanges)}
		a.limiter.AllowN(now, 1) // which was taken before there was a limit
		e.allowances[d.Role] = a
	}
	a.set(d.MaxExchanges, lifetime, now)
}

// isFull is whether a role has exchanged nothing for as long as it counts.
func (a *allowance) isFull(now time.Time) bool {
	return a.limiter.TokensAt(now) >= float64(a.limiter.Burst())
}

func (a *allowance) set(most int, lifetime time.Duration, now time.Time) {
	a.lifetime = lifetime
	a.limiter.SetBurstAt(now, most)
	a.limiter.SetLimitAt(now, rate.Limit(float64(most)/lifetime.Seconds()))
}

// isOfRole is whether a failure of an exchange counts against its dedicated role only: it
// passes by itself, or says nothing of the credential.
func isOfRole(failure *provider.Error) bool {
	return failure.Kind == provider.Unavailable || failure.Kind == provider.InvalidResponse
}

// heldRole is why a dedicated role gets no token for now; nil if it may.
func (v view) heldRole(role string, now time.Time) error {
	failure := v.dedicated[role].seen(now)
	if !now.Before(failure.NextAttempt) {
		return nil
	}
	return v.refusalOf(failure)
}

// failedRole notes a failure of a dedicated role's exchange, and returns it.
func (e *entry) failedRole(v view, role string, failure *provider.Error, now time.Time) (Failure, error) {
	noted := Failure{Kind: failure.Kind, Reason: failure.Reason, Time: now.Round(0).UTC()}
	noted.count(v.dedicated[role], failure)
	_, err := e.change(v.epoch, func(m *memory) { m.dedicated = with(m.dedicated, role, noted) })
	if err != nil {
		return noted, err
	}
	return noted, v.refusalOf(noted)
}

// succeededRole notes that the exchanges of a dedicated role do not fail any more.
func (e *entry) succeededRole(epoch uint64, role string) {
	_, _ = e.change(epoch, func(m *memory) { // what was changed meanwhile is forgotten anyway
		m.dedicated = without(m.dedicated, func(failed string, _ Failure) bool { return failed == role })
	})
}
