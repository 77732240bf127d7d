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

// A Dedication is what a role allows its readers, each of which gets a token of its own.
type Dedication struct {
	Role string // its name

	// Series is the part of the storage keys of the leases that count against MaxLeases.
	Series string

	// MaxLeases is how many tokens may be leased at once; zero sets no limit. MaxExchanges is how
	// many may be exchanged within the lifetime of one.
	MaxLeases    int
	MaxExchanges int
}

// Dedicate exchanges the named credential for a token that nobody shares, and returns the key of
// its lease, for RevokeLease. Nothing is cached. What the exchange tells about the credential
// counts for all readers, and a failure that passes by itself only for the role. Its errors are
// those of Read, of type *TooManyLeasesError and *TooManyError, and ErrCrowded and ErrShared.
func (b *Broker) Dedicate(ctx context.Context, s logical.Storage, name string, request ReadRequest, d Dedication) (reading *IssuedToken, lease string, err error) {
	reading, lease, err = b.dedicate(ctx, s, name, request, d)
	if err == nil && ctx.Err() != nil {
		// The reader has gone: no lease comes of it, and nothing else would revoke the token.
		err = errors.Join(ctx.Err(), b.RevokeLease(context.WithoutCancel(ctx), s, name, lease))
	}
	return reading, lease, err
}

func (b *Broker) dedicate(ctx context.Context, s logical.Storage, name string, request ReadRequest, d Dedication) (reading *IssuedToken, lease string, err error) {
	e, err := b.known(ctx, s, name)
	if err != nil {
		return nil, "", err
	}
	release, err := b.acquireDedicated(ctx, e, d.Role)
	if err != nil {
		return nil, "", err
	}
	defer release()
	defer b.contain(e, &err)
	e.renewing(renewal{dedicated: true, since: time.Now()})
	defer e.renewing(renewal{})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
	defer cancel()
	m, err := b.current(ctx, s, e)
	if err != nil {
		return nil, "", err
	}
	v := m.view(request.Scope)
	if v.held(time.Now()) {
		return nil, "", v.refusal()
	}
	if err := v.heldRole(d.Role, time.Now()); err != nil {
		return nil, "", err
	}
	// What is not stored yet may hold the only refresh token that works.
	if v.unwritten() != nil {
		if m, err = b.settle(ctx, s, e, v); err != nil {
			return nil, "", err
		}
		v = m.view(request.Scope)
	}
	// The credential may have been changed since the role was written.
	if err := m.revocable(ctx); err != nil {
		if failure := asProviderError(err); isOfRole(failure) { // of the vendor's metadata
			_, err = e.failedRole(v, d.Role, failure, time.Now())
		}
		return nil, "", err
	}
	others, err := readLeases(ctx, s, name)
	if err != nil {
		return nil, "", err
	}
	if err := others.admit(name, d); err != nil {
		return nil, "", err
	}
	if ctx.Err() != nil {
		return nil, "", ErrBusy
	}
	giveBack, err := e.take(d, time.Now())
	if err != nil {
		return nil, "", err
	}
	return b.exchangeDedicated(ctx, s, e, v, request, d, others, giveBack)
}

// discard revokes, as well as it can, a token that no reader gets.
func (b *Broker) discard(ctx context.Context, e *entry, v view, accessToken string) {
	ctx, cancel := seenThrough(ctx)
	defer cancel()
	if err := v.revoke(ctx, accessToken); err != nil {
		b.logger(e, v).Warn("a dedicated token that nobody has cannot be revoked", "error", err)
	}
}

// exchangeDedicated exchanges the credential for a token of one reader; others are the tokens
// that are leased already. A token that the vendor issued, and that no reader gets after all, is
// revoked. It calls giveBack if the vendor issued none.
func (b *Broker) exchangeDedicated(ctx context.Context, s logical.Storage, e *entry, v view, request ReadRequest, d Dedication, others leases, giveBack func()) (reading *IssuedToken, lease string, err error) {
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
	isShared := accessToken != "" && others.holds(accessToken)
	for _, shared := range latest.Tokens {
		isShared = isShared || shared.AccessToken == accessToken
	}
	if x.Err == nil && !isShared {
		next, x = v.judged(next, x, false)
	}
	if x.invalid() {
		return nil, "", x.Err
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
		return nil, "", b.failedDedicated(ctx, s, e, v, next.sharing(latest.Tokens), x, d.Role)
	default:
		_, err := b.failed(ctx, s, e, v, next.sharing(latest.Tokens), x)
		return nil, "", err
	}
	b.tell(x)
	_, err = b.save(ctx, s, e, v.memory, v.scope, next.sharing(latest.Tokens))
	b.kept(x, err == nil)
	if err != nil {
		return nil, "", err
	}
	if isShared {
		return nil, "", ErrShared
	}
	reading = after.lease(time.Now(), request.MinTTL)
	if reading == nil {
		return nil, "", after.tooLate(time.Now())
	}
	if lease, err = putLease(ctx, s, v.credential, d, reading.Token); err != nil {
		return nil, "", err
	}
	if reading = after.lease(time.Now(), request.MinTTL); reading == nil { // the write took long
		return nil, "", after.tooLate(time.Now())
	}
	reading.Outcome = Exchanged
	return reading, lease, nil
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
