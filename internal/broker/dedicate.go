package broker

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/provider"
)

// ErrShared means that the vendor returned a token that another reader has.
var ErrShared = errors.New("the vendor returns the same token until it expires, so the role cannot be dedicated; set dedicated=false")

// A Dedication holds the limits of a dedicated role. Each of its readers gets a token of its own.
type Dedication struct {
	Role string // the name of the role

	// Series is the part of the leases' storage keys that changes when an operator forgets the
	// leases. Only leases of the current series count against MaxLeases.
	Series string

	// MaxLeases is the maximum number of leases at a time; zero sets no limit. MaxExchanges is the
	// maximum number of exchanges within the lifetime of a token.
	MaxLeases    int
	MaxExchanges int

	revokes bool // whether the vendor revokes the token when its lease ends
}

// Dedicate exchanges the named credential for a token that is not shared or cached. It returns the
// token and the storage key of its lease, for RevokeLease. A transient failure counts only against
// the role; the rest of the result counts for all readers of the credential. The errors are those
// of Read, ErrTooManyWaiting, ErrShared, and of type *TooManyLeasesError and
// *TooManyExchangesError.
func (b *Broker) Dedicate(ctx context.Context, s logical.Storage, name string, request ReadRequest, d Dedication) (issued *IssuedToken, lease string, err error) {
	issued, lease, err = b.dedicate(ctx, s, name, request, d)
	if err == nil && ctx.Err() != nil {
		// The request is canceled, so Vault creates no lease, and nothing else would revoke the
		// token.
		err = errors.Join(ctx.Err(), b.RevokeLease(context.WithoutCancel(ctx), s, name, lease))
	}
	return issued, lease, err
}

func (b *Broker) dedicate(ctx context.Context, s logical.Storage, name string, request ReadRequest, d Dedication) (issued *IssuedToken, lease string, err error) {
	done := b.await(name, pacing.Awaited)
	unlockName, err := b.locks.lockDedicated(ctx, name, d.Role)
	done()
	if err != nil {
		return nil, "", err
	}
	r, unlock := b.withRecord(name, unlockName)
	defer unlock()
	defer b.contain(r, &err)
	r.noteNeeded()
	r.setRunning(operation{isDedicated: true, since: time.Now(), urgency: pacing.Awaited})
	defer r.setRunning(operation{})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
	defer cancel()
	snap, err := b.load(ctx, s, r)
	if err != nil {
		return nil, "", err
	}
	v := snap.of(request.Scope)
	if v.backingOff(time.Now()) {
		return nil, "", v.backOffError()
	}
	if err := v.roleBackOffError(d.Role, time.Now()); err != nil {
		return nil, "", err
	}
	// An unsaved state may have the only refresh token that works.
	if v.unsaved.writeFor(v.scope) != nil {
		if snap, err = b.saveUnsavedScope(ctx, s, r, v); err != nil {
			return nil, "", err
		}
		v = snap.of(request.Scope)
	}
	// The credential may have changed since the role was written.
	ctx = r.admit(ctx)
	revokes, err := snap.dedicable(ctx)
	if err != nil {
		failure := asProviderError(err)
		if failure.NotSent {
			return nil, "", b.unsent(v, Exchange{Err: failure})
		}
		if countsForRole(failure) { // of a request for the vendor's metadata
			_, err = r.noteRoleFailure(v, d.Role, failure, time.Now())
		}
		return nil, "", err
	}
	others, err := readLeases(ctx, s, name)
	if err != nil {
		return nil, "", err
	}
	if err := others.checkLimit(name, d); err != nil {
		return nil, "", err
	}
	if ctx.Err() != nil {
		return nil, "", ErrBusy
	}
	giveBack, err := r.takeAllowance(d, time.Now())
	if err != nil {
		return nil, "", err
	}
	d.revokes = revokes
	return b.exchangeDedicated(ctx, s, r, v, request, d, others, giveBack)
}

// exchangeDedicated exchanges the credential for the token of one reader. others are the current
// leases of the credential. It revokes the token if it returns an error, and calls giveBack if the
// vendor issued no token.
func (b *Broker) exchangeDedicated(ctx context.Context, s logical.Storage, r *record, v scopeSnapshot, request ReadRequest, d Dedication, others leases, giveBack func()) (issued *IssuedToken, lease string, err error) {
	// If the request is canceled, the issued token must still be leased or revoked.
	ctx, cancel := exchangeContext(ctx)
	defer cancel()
	latest := v.latestState()
	next, x, accessToken := callVendor(ctx, v.credential, latest, v.scope, provider.Token{})
	b.logSkew(r, next)
	if accessToken == "" {
		giveBack()
	}
	if x.isUnsent() {
		return nil, "", b.unsent(v, x)
	}
	x.IsDedicated = true
	token := next.Tokens[v.scope]
	isShared := accessToken != "" && others.has(accessToken)
	for _, shared := range latest.Tokens {
		isShared = isShared || shared.AccessToken == accessToken
	}
	if x.Err == nil && !isShared {
		next, x = v.checkUsable(next, x, false)
	}
	if x.isInvalid() {
		return nil, "", x.Err
	}
	after := v.withSnapshot(snapshot{credential: v.credential, state: next})
	if accessToken != "" && !isShared && d.revokes {
		defer func() {
			if err != nil {
				b.revokeUndelivered(ctx, after, accessToken)
			}
		}()
	}
	next = next.withTokens(latest.Tokens) // the other readers keep the shared tokens
	switch {
	case x.Err == nil:
		r.setAllowance(d, token, time.Now())
		r.noteRoleSuccess(v.epoch, d.Role)
	case countsForRole(x.Err):
		return nil, "", b.dedicatedFailed(ctx, s, r, v, next, x, d.Role)
	default:
		_, err := b.exchangeFailed(ctx, s, r, v, next, x)
		return nil, "", err
	}
	b.report(x)
	_, err = b.save(ctx, s, r, v.snapshot, v.scope, next)
	b.reportFinished(x, err == nil)
	if err != nil {
		return nil, "", err
	}
	if isShared {
		return nil, "", ErrShared
	}
	issued = after.issued(time.Now(), request.MinTTL)
	if issued == nil {
		return nil, "", after.expiredMeanwhile(time.Now())
	}
	if lease, err = putLease(ctx, s, v.credential, d, issued.Token); err != nil {
		return nil, "", err
	}
	if issued = after.issued(time.Now(), request.MinTTL); issued == nil { // the write was slow
		return nil, "", after.expiredMeanwhile(time.Now())
	}
	issued.Outcome = Exchanged
	if !d.revokes {
		issued.Warnings = append(issued.Warnings, "the vendor cannot revoke this token: it stays valid until "+FormatTime(issued.ExpireTime)+", also if its lease ends before")
	}
	return issued, lease, nil
}

// dedicatedFailed records a failure that counts only against the role, and stores the new grant, if
// the vendor returned one. It returns the failure as an error for the reader.
func (b *Broker) dedicatedFailed(ctx context.Context, s logical.Storage, r *record, v scopeSnapshot, next *State, x Exchange, role string) error {
	failure, err := r.noteRoleFailure(v, role, x.Err, time.Now())
	x.Failures, x.NextAttempt = failure.Count, failure.NextAttempt
	b.report(x)
	defer b.reportFinished(x, false)
	if !next.hasSameGrants(v.latestState()) {
		if _, err := b.save(ctx, s, r, v.snapshot, v.scope, next); err != nil {
			return err
		}
	}
	return err
}

// revokeUndelivered revokes a token that no reader received. It logs a failure.
func (b *Broker) revokeUndelivered(ctx context.Context, v scopeSnapshot, accessToken string) {
	ctx, cancel := exchangeContext(ctx)
	defer cancel()
	if err := v.revoke(ctx, accessToken); err != nil {
		b.logger(v).Warn("a dedicated token that no reader received cannot be revoked", "error", err)
	}
}
