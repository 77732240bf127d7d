package broker

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Dedication is what has to do with a token that has one reader alone.
type Dedication struct {
	// Admit refuses another token before the vendor is asked for it. Keep writes down
	// that there is one, before its reader gets it: one that cannot be written down is
	// revoked. Neither runs twice at once for a credential.
	Admit func(context.Context) error
	Keep  func(context.Context, *Reading) error
}

// Dedicate exchanges the named credential for a token that nobody shares. Nothing is
// cached: to be rid of it is its reader's matter. What the exchange tells of the
// credential counts for all.
func (b *Broker) Dedicate(ctx context.Context, s logical.Storage, name string, wish Wish, d Dedication) (*Reading, error) {
	e, err := b.known(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if err := e.acquire(ctx); err != nil {
		return nil, err
	}
	defer e.release()
	// Once it has begun it is seen through: there is a token to be kept or revoked.
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
	if err := d.Admit(ctx); err != nil {
		return nil, err
	}
	reading, err := b.dedicate(ctx, s, e, v, wish)
	if err != nil {
		return nil, err
	}
	if err := d.Keep(ctx, reading); err != nil {
		return nil, errors.Join(err, v.revoke(ctx, reading.AccessToken))
	}
	return reading, nil
}

func (b *Broker) dedicate(ctx context.Context, s logical.Storage, e *entry, v view, wish Wish) (*Reading, error) {
	next, err := exchange(ctx, v.credential, v.state, v.scope)
	b.noteSkew(e, next)
	var failure *provider.Error
	if errors.As(err, &failure) {
		if failure.Kind != provider.Invalid {
			_, err = b.failed(ctx, s, e, v, next, failure)
		}
		return nil, err
	}
	reading := v.with(memory{credential: v.credential, state: next}).lease(time.Now(), wish.MinTTL)
	b.logger(e, v).Info("exchange succeeded", "dedicated", true, "expire_time", stamp(next.Tokens[v.scope].ExpireTime))
	if _, err := b.save(ctx, s, e, v.memory, next.sharing(v.state.Tokens)); err != nil {
		return nil, errors.Join(err, v.revoke(ctx, next.Tokens[v.scope].AccessToken))
	}
	if reading == nil {
		return nil, provider.Errorf(provider.Nonsense, "the vendor's access token lives too short to be leased")
	}
	return reading, nil
}
