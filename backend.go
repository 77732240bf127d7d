// Package tokenbroker is a Vault secrets engine that turns the long-lived
// credentials of API vendors into short-lived access tokens, leased for as long as
// they are good.
package tokenbroker

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/metrics"
	"vault-plugin-secrets-tokenbroker/internal/version"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/kensho"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
	"vault-plugin-secrets-tokenbroker/provider/sitecore"
)

// operationPrefix starts the IDs of the engine's operations in OpenAPI.
const operationPrefix = "token-broker"

// providers are the vendors that the engine knows.
var providers = []provider.Provider{
	kensho.Provider{},
	sitecore.Provider{},
	oauth2.Provider{},
}

// Options are what a test may put in place of the world outside.
type Options struct {
	// Transport carries the requests to the vendors in place of HTTP, if it is not nil.
	Transport http.RoundTripper

	// Dial opens the connections to the vendors in place of the network, if it is not nil.
	Dial provider.DialFunc
}

type backend struct {
	*framework.Backend
	broker    *broker.Broker
	metrics   *metrics.Metrics
	events    events
	mountedAt atomic.Pointer[string]
	names     names
	unstored  unstored
	clocks    provider.Clocks
	options   Options
}

// Factory makes the engine of one mount. It touches neither storage nor the
// system view: Vault calls it on registering a plugin, too.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := New(Options{})
	if err := b.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return b, nil
}

// New makes an engine that has yet to be set up.
func New(o Options) logical.Backend {
	b := &backend{options: o, names: names{roles: map[string]*role{}}, unstored: unstored{grants: map[string]replacement{}}, events: events{told: map[expiry]bool{}}}
	b.broker = broker.New(b, observer{b})
	b.metrics = metrics.New(providerNames(), b.broker.Statuses)
	b.events.send, b.events.full = b.sendEvent, b.eventsFull
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		RunningVersion: version.Version,
		BackendType:    logical.TypeLogical,
		PathsSpecial: &logical.Paths{
			SealWrapStorage: []string{configPrefix, keypairPrefix, broker.StoragePrefix, leasePrefix},
		},
		Paths: sharing(framework.PathAppend(
			b.pathConfig(),
			b.pathKeypair(),
			b.pathRoles(),
			b.pathCreds(),
			b.pathToken(),
			b.pathRefresh(),
			b.pathStatus(),
			b.pathMetrics(),
		)),
		Secrets:      []*framework.Secret{b.accessToken()},
		PeriodicFunc: b.periodic,
		Invalidate:   b.invalidate,
		Clean:        b.clean,
	}
	return b
}

// periodic does what is due though nobody asks, on the one node that may.
//
// There is no write-ahead log: what it could save is a refresh token that the
// vendor has replaced and storage has not got yet, and that is not known before
// the exchange, and is in storage right after it. That storage takes writes is seen to
// before.
func (b *backend) periodic(ctx context.Context, req *logical.Request) error {
	if !b.WriteSafeReplicationState() {
		return nil
	}
	b.unstored.expire()
	began := time.Now()
	err := b.broker.Sweep(ctx, req.Storage)
	b.events.expiring(b.broker.Expiries(), time.Now())
	b.metrics.Swept(time.Since(began))
	return err
}

// clean has the engine end: Vault unloads it, and waits for that.
func (b *backend) clean(ctx context.Context) {
	b.broker.Close(ctx)
	b.events.close()
}

// invalidate drops a name from memory when another node has written about it.
func (b *backend) invalidate(_ context.Context, key string) {
	name := key[strings.LastIndex(key, "/")+1:]
	switch prefix, rest, _ := strings.Cut(key, "/"); prefix + "/" {
	case configPrefix:
		b.broker.Forget(name)
		b.names.forget(name)
	case keypairPrefix: // which any credential may use
		b.broker.ForgetAll()
	case broker.StoragePrefix: // each name has several entries
		name, _, _ := strings.Cut(rest, "/")
		b.broker.Forget(name)
	case rolePrefix:
		b.names.forget(name)
	}
}

const backendHelp = `
The token broker turns the long-lived credentials of API vendors (API keys,
refresh tokens, key pairs) into short-lived access tokens.

Store a credential under config/<provider>/<name>, then read creds/<name>: an
access token, leased for as long as it is good. token/<name> is the same token
without a lease. However many readers there are, the vendor is asked about once in a
token's life. A role, under roles/<name>, is a narrower view of a credential.
`
