package broker

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// ErrShared means that the vendor answers with a token that somebody has already, so that
// no reader can have one to himself.
var ErrShared = errors.New("the vendor answers with the same token until it dies: no reader can have one of his own")

// A Dedication is what has to do with a token that has one reader alone.
type Dedication struct {
	// Role is the role's name, and Most how many tokens it may have exchanged within the
	// lifetime of one.
	Role string
	Most int

	// Admit refuses another token before the vendor is asked for it. IsLeased is, after
	// that, whether a reader of a dedicated role has an access token already. Keep writes
	// down that there is one, before its reader gets it: one that cannot be written down is
	// revoked. None runs twice at once for a credential.
	Admit    func(context.Context) error
	IsLeased func(accessToken string) bool
	Keep     func(context.Context, *Reading) error
}

// Dedicate exchanges the named credential for a token that nobody shares. Nothing is
// cached: to be rid of it is its reader's matter. What the exchange tells of the
// credential counts for all, and a failure that passes by itself for the role only. Its error
// is of type *TooManyError if the role has had as many tokens as it may.
func (b *Broker) Dedicate(ctx context.Context, s logical.Storage, name string, wish Wish, d Dedication) (reading *Reading, err error) {
	e, err := b.known(ctx, s, name)
	if err != nil {
		return nil, err
	}
	release, err := b.acquireDedicated(ctx, e, d.Role)
	if err != nil {
		return nil, err
	}
	defer release()
	defer b.contain(e, &err)
	e.renewing(renewal{dedicated: true, since: time.Now()})
	defer e.renewing(renewal{})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
	defer cancel()
	m, err := b.current(ctx, s, e)
	if err != nil {
		return nil, err
	}
	v := m.view(wish.Scope)
	if v.held(time.Now()) {
		return nil, v.refusal()
	}
	if err := v.heldRole(d.Role, time.Now()); err != nil {
		return nil, err
	}
	// What is not stored yet may hold the only refresh token that works.
	if v.unwritten() != nil {
		if m, err = b.settle(ctx, s, e, v); err != nil {
			return nil, err
		}
		v = m.view(wish.Scope)
	}
	// The credential may have been changed since the role was written.
	if err := m.revocable(ctx); err != nil {
		if failure := asProviderError(err); isOfRole(failure) { // of the vendor's metadata
			_, err = e.failedRole(v, d.Role, failure, time.Now())
		}
		return nil, err
	}
	if err := d.Admit(ctx); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ErrBusy
	}
	giveBack, err := e.take(d, time.Now())
	if err != nil {
		return nil, err
	}
	return b.dedicate(ctx, s, e, v, wish, d, giveBack)
}

// discard revokes, as well as it can, a token that no reader gets.
func (b *Broker) discard(ctx context.Context, e *entry, v view, accessToken string) {
	ctx, cancel := seenThrough(ctx)
	defer cancel()
	if err := v.revoke(ctx, accessToken); err != nil {
		b.logger(e, v).Warn("a dedicated token that nobody has cannot be revoked", "error", err)
	}
}

// dedicate exchanges the credential for a token of one reader. One that the vendor issued,
// and that nobody gets after all, is revoked; giveBack is called if it issued none.
func (b *Broker) dedicate(ctx context.Context, s logical.Storage, e *entry, v view, wish Wish, d Dedication, giveBack func()) (reading *Reading, err error) {
	// Once it has begun it is seen through: there is a token to be kept or revoked.
	ctx, cancel := seenThrough(ctx)
	defer cancel()
	latest := v.latest()
	next, x, accessToken := call(ctx, v.credential, latest, v.scope, provider.Token{})
	b.noteSkew(e, next)
	if accessToken == "" {
		giveBack()
	}
	x.Dedicated = true
	token := next.Tokens[v.scope]
	isShared := accessToken != "" && d.IsLeased(accessToken)
	for _, shared := range latest.Tokens {
		isShared = isShared || shared.AccessToken == accessToken
	}
	if x.Err == nil && !isShared {
		next, x = v.judged(next, x, false)
	}
	if x.invalid() {
		return nil, x.Err
	}
	after := v.with(memory{credential: v.credential, state: next})
	if accessToken != "" && !isShared {
		defer func() {
			if err != nil {
				b.discard(ctx, e, after, accessToken)
			}
		}()
	}
	switch {
	case x.Err == nil:
		e.taken(d, token, time.Now())
		e.succeededRole(v.epoch, d.Role)
	case isOfRole(x.Err):
		return nil, b.failedDedicated(ctx, s, e, v, next.sharing(latest.Tokens), x, d.Role)
	default:
		_, err := b.failed(ctx, s, e, v, next.sharing(latest.Tokens), x)
		return nil, err
	}
	b.tell(x)
	_, err = b.save(ctx, s, e, v.memory, v.scope, next.sharing(latest.Tokens))
	b.kept(x, err == nil)
	if err != nil {
		return nil, err
	}
	if isShared {
		return nil, ErrShared
	}
	reading = after.lease(time.Now(), wish.MinTTL)
	if reading == nil {
		return nil, after.tooLate(time.Now())
	}
	if err := d.Keep(ctx, reading); err != nil {
		return nil, err
	}
	if reading = after.lease(time.Now(), wish.MinTTL); reading == nil { // the write took long
		return nil, after.tooLate(time.Now())
	}
	reading.Outcome = Exchanged
	return reading, nil
}

// failedDedicated keeps what the vendor answered to an exchange whose failure counts against
// its role only.
func (b *Broker) failedDedicated(ctx context.Context, s logical.Storage, e *entry, v view, next *State, x Exchange, role string) error {
	noted, refusal := e.failedRole(v, role, x.Err, time.Now())
	x.Failures, x.NextAttempt = noted.Count, noted.NextAttempt
	b.tell(x)
	defer b.kept(x, false)
	if !next.sameGrants(v.latest()) {
		if _, err := b.save(ctx, s, e, v.memory, v.scope, next); err != nil {
			return err
		}
	}
	return refusal
}
