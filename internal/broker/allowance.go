package broker

import (
	"fmt"
	"maps"
	"time"

	"golang.org/x/time/rate"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Each read of a dedicated role causes an exchange. Such exchanges are limited by role, and those
// of their failures that pass by themselves count only against the role: no reader of it can use
// up the vendor's patience with all others. Neither is stored, so a restart costs at most an
// attempt too early.

// A TooManyExchangesError means that a dedicated role has had as many tokens as it may.
type TooManyExchangesError struct {
	Max  int           // tokens
	Per  time.Duration // the lifetime of one
	Next time.Time     // when there may be another
}

func (e *TooManyExchangesError) Error() string {
	return fmt.Sprintf("%d tokens have been exchanged within the lifetime of one (%s)", e.Max, e.Per)
}

// An allowance is how many tokens a dedicated role may still have.
type allowance struct {
	limiter  *rate.Limiter
	lifetime time.Duration // of the last token
}

// takeAllowance takes one token from the allowance of a role, and returns what gives it back. There
// is no limit before the lifetime of a token is known. Its error is of type *TooManyExchangesError. The
// caller holds the lock of the name.
func (r *record) takeAllowance(d Dedication, now time.Time) (giveBack func(), err error) {
	a := r.allowances[d.Role]
	if a == nil {
		return func() {}, nil
	}
	a.set(d.MaxExchanges, a.lifetime, now)
	reservation := a.limiter.ReserveN(now, 1)
	giveBack = func() { reservation.CancelAt(now) } // at a later time, it would count as used
	if wait := reservation.DelayFrom(now); wait > 0 {
		giveBack()
		return nil, &TooManyExchangesError{Max: d.MaxExchanges, Per: a.lifetime, Next: now.Add(wait)}
	}
	return giveBack, nil
}

// setAllowance sets the allowance of a role by the lifetime of a token that it got.
func (r *record) setAllowance(d Dedication, token provider.Token, now time.Time) {
	maps.DeleteFunc(r.allowances, func(role string, a *allowance) bool { return role != d.Role && a.isFull(now) })
	lifetime := max(token.ExpireTime.Sub(token.IssueTime), time.Second).Round(time.Second)
	a := r.allowances[d.Role]
	if a == nil {
		a = &allowance{limiter: rate.NewLimiter(0, d.MaxExchanges)}
		a.limiter.AllowN(now, 1) // for this token
		r.allowances[d.Role] = a
	}
	a.set(d.MaxExchanges, lifetime, now)
}

// isFull reports whether none of the tokens of a role counts any more.
func (a *allowance) isFull(now time.Time) bool {
	return a.limiter.TokensAt(now) >= float64(a.limiter.Burst())
}

func (a *allowance) set(most int, lifetime time.Duration, now time.Time) {
	a.lifetime = lifetime
	a.limiter.SetBurstAt(now, most)
	a.limiter.SetLimitAt(now, rate.Limit(float64(most)/lifetime.Seconds()))
}

// countsForRole reports whether a failure counts only against the dedicated role whose exchange it
// was: it passes by itself, or says nothing of the credential.
func countsForRole(failure *provider.Error) bool {
	return failure.Kind == provider.Unavailable || failure.Kind == provider.InvalidResponse
}

// roleBackOffError returns why a dedicated role gets no token now; nil if it may.
func (v scopeSnapshot) roleBackOffError(role string, now time.Time) error {
	failure := v.roleFailures[role].asOf(now)
	if !now.Before(failure.NextAttempt) {
		return nil
	}
	return v.readError(failure)
}

// noteRoleFailure notes a failure of a dedicated role's exchange. It returns it, and as an error for
// readers.
func (r *record) noteRoleFailure(v scopeSnapshot, role string, err *provider.Error, now time.Time) (Failure, error) {
	failure := Failure{Kind: err.Kind, Reason: err.Reason, Time: now.Round(0).UTC()}
	failure.countAfter(v.roleFailures[role], err)
	if _, err := r.update(v.epoch, func(snap *snapshot) { snap.roleFailures = withKey(snap.roleFailures, role, failure) }); err != nil {
		return failure, err
	}
	return failure, v.readError(failure)
}

// noteRoleSuccess notes that an exchange of a dedicated role has succeeded.
func (r *record) noteRoleSuccess(epoch uint64, role string) {
	_, _ = r.update(epoch, func(snap *snapshot) { // a change of the credential drops it anyway
		snap.roleFailures = withoutKeys(snap.roleFailures, func(failed string, _ Failure) bool { return failed == role })
	})
}
