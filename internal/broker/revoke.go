package broker

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Revocation is the last attempt at revoking tokens that the engine dropped.
type Revocation struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason,omitempty"` // why it failed; empty if it did not
}

// revokeTimeout bounds what revoking the tokens of one credential may take.
const revokeTimeout = 15 * time.Second

// Revocable is nil if tokens of the named credential can be revoked one by one, each
// with an exchange of its own. Its error says why they cannot.
func (b *Broker) Revocable(ctx context.Context, s logical.Storage, name string) error {
	m, err := b.lookup(ctx, s, name)
	if err != nil {
		return err
	}
	return m.revocable(ctx)
}

func (m memory) revocable(ctx context.Context) error {
	revoker, ok := m.credential.Vendor.(provider.Revoker)
	if !ok {
		return provider.Errorf(provider.Invalid, "the vendor documents no way to revoke an access token")
	}
	if err := revoker.Alone(); err != nil {
		return err
	}
	return revoker.Revocable(ctx)
}

// Revoke ends an access token of the named credential at the vendor. ErrUnknown means
// that there is no such credential any more.
func (b *Broker) Revoke(ctx context.Context, s logical.Storage, name, accessToken string) error {
	m, err := b.lookup(ctx, s, name)
	if err != nil {
		return err
	}
	return m.revoke(ctx, accessToken)
}

func (m memory) revoke(ctx context.Context, accessToken string) error {
	revoker, ok := m.credential.Vendor.(provider.Revoker)
	if !ok {
		return nil // nor has there been a way before
	}
	return revoker.Revoke(ctx, accessToken, m.latest().Grant)
}

// Drop revokes, as well as it can, the tokens of a credential that is being deleted.
func (b *Broker) Drop(ctx context.Context, c *Credential, known *State) {
	if c == nil || known == nil {
		return
	}
	m := memory{credential: c, state: known}
	if done := m.revokeAll(ctx, time.Now()); done != nil && done.Reason != "" {
		b.source.Logger().Warn("tokens of a deleted credential cannot be revoked", "name", c.Name, "error", done.Reason)
	}
}

// revokeAll revokes the tokens that live; nil if the vendor cannot, or there are none.
func (m memory) revokeAll(ctx context.Context, now time.Time) *Revocation {
	revoker, ok := m.credential.Vendor.(provider.Revoker)
	if !ok || len(m.latest().Tokens) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	if revoker.Revocable(ctx) != nil {
		return nil
	}
	done := &Revocation{Time: now.Round(0).UTC()}
	for _, token := range m.latest().Tokens {
		if !now.Before(token.ExpireTime) {
			continue
		}
		if err := m.revoke(ctx, token.AccessToken); err != nil {
			failure := asProviderError(err)
			done.Reason = failure.Reason
			if failure.Kind == provider.Unavailable {
				break // who is down for one is down for all
			}
		}
	}
	return done
}

// revokeDropped revokes the tokens that a refresh drops, unless what the next exchange
// needs may end with them.
func (m memory) revokeDropped(ctx context.Context, now time.Time) *Revocation {
	revoker, ok := m.credential.Vendor.(provider.Revoker)
	if !ok || len(m.latest().Tokens) == 0 {
		return nil
	}
	if err := revoker.Alone(); err != nil {
		return &Revocation{Time: now.Round(0).UTC(), Reason: "left alone: " + err.Error()}
	}
	return m.revokeAll(ctx, now)
}

// lookup is what is known of a name, loaded from storage if need be. It waits for
// nobody.
func (b *Broker) lookup(ctx context.Context, s logical.Storage, name string) (memory, error) {
	e, err := b.known(ctx, s, name)
	if err != nil {
		return memory{}, err
	}
	m := e.look()
	if m.credential == nil {
		m.credential, m.state, err = b.load(ctx, s, name)
	}
	return m, err
}
