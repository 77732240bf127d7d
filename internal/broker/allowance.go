package broker

import (
	"fmt"
	"maps"
	"time"

	"golang.org/x/time/rate"

	"vault-plugin-secrets-tokenbroker/provider"
)

// The engine limits the exchanges of each dedicated role. Transient failures count only against the
// role. Neither is stored.

// A TooManyExchangesError means that a dedicated role has used all its exchanges.
type TooManyExchangesError struct {
	Max  int           // maximum number of exchanges within Per
	Per  time.Duration // the lifetime of a token
	Next time.Time     // when the next exchange is possible
}

func (e *TooManyExchangesError) Error() string {
	return fmt.Sprintf("%d tokens have been exchanged within the lifetime of one (%s)", e.Max, e.Per)
}

// An allowance limits the exchanges of a dedicated role.
type allowance struct {
	limiter  *rate.Limiter
	lifetime time.Duration // of the role's last token
}

// takeAllowance takes one exchange from the allowance of a role. It returns giveBack, which undoes
// that. A role has no limit until the lifetime of its tokens is known. The error is of type
// *TooManyExchangesError. The caller holds the lock of the name.
func (r *record) takeAllowance(d Dedication, now time.Time) (giveBack func(), err error) {
	a := r.allowances[d.Role]
	if a == nil {
		return func() {}, nil
	}
	a.set(d.MaxExchanges, a.lifetime, now)
	reservation := a.limiter.ReserveN(now, 1)
	giveBack = func() { reservation.CancelAt(now) } // at a later time, the exchange would count as used
	if wait := reservation.DelayFrom(now); wait > 0 {
		giveBack()
		return nil, &TooManyExchangesError{Max: d.MaxExchanges, Per: a.lifetime, Next: now.Add(wait)}
	}
	return giveBack, nil
}

// setAllowance sets the allowance of a role to fit the lifetime of a token that it got.
func (r *record) setAllowance(d Dedication, token provider.Token, now time.Time) {
	maps.DeleteFunc(r.allowances, func(role string, a *allowance) bool { return role != d.Role && isFull(a.limiter, now) })
	lifetime := max(token.ExpireTime.Sub(token.IssueTime), time.Second).Round(time.Second)
	a := r.allowances[d.Role]
	if a == nil {
		if r.allowances == nil {
			r.allowances = map[string]*allowance{}
		}
		a = &allowance{limiter: rate.NewLimiter(0, d.MaxExchanges)}
		a.limiter.AllowN(now, 1) // for this token's exchange
		r.allowances[d.Role] = a
	}
	a.set(d.MaxExchanges, lifetime, now)
}

func (a *allowance) set(most int, lifetime time.Duration, now time.Time) {
	a.lifetime = lifetime
	a.limiter.SetBurstAt(now, most)
	a.limiter.SetLimitAt(now, rate.Limit(float64(most)/lifetime.Seconds()))
}

// countsForRole reports whether a failure of a dedicated exchange counts only against the role: it
// is transient or does not concern the credential.
func countsForRole(failure *provider.Error) bool {
	return failure.Kind == provider.Unavailable || failure.Kind == provider.InvalidResponse
}

// roleBackOffError returns why the engine backs off for a dedicated role, or nil if it does not.
func (v scopeSnapshot) roleBackOffError(role string, now time.Time) error {
	failure := v.roleFailures[role].asOf(now)
	if !now.Before(failure.NextAttempt) {
		return nil
	}
	return v.readError(failure)
}

// noteRoleFailure records that an exchange for a dedicated role failed. It returns the failure,
// also as an error for readers.
func (r *record) noteRoleFailure(v scopeSnapshot, role string, err *provider.Error, now time.Time) (Failure, error) {
	failure := Failure{Kind: err.Kind, Reason: err.Reason, Time: now.Round(0).UTC()}
	failure.countAfter(v.roleFailures[role], err)
	if _, err := r.update(v.epoch, func(snap *snapshot) { snap.roleFailures = withKey(snap.roleFailures, role, failure) }); err != nil {
		return failure, err
	}
	return failure, v.readError(failure)
}

// noteRoleSuccess records that an exchange for a dedicated role succeeded.
func (r *record) noteRoleSuccess(epoch uint64, role string) {
	_, _ = r.update(epoch, func(snap *snapshot) { // if the credential has changed, the failures are gone
		snap.roleFailures = withoutKeys(snap.roleFailures, func(failed string, _ Failure) bool { return failed == role })
	})
}
