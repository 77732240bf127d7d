// Package tokenbroker is a Vault secrets engine that exchanges long-lived credentials of API
// vendors for short-lived access tokens, leased for as long as they are valid.
package tokenbroker

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/events"
	"vault-plugin-secrets-tokenbroker/internal/metrics"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/internal/sysview"
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

func providerNames() []string {
	names := make([]string, len(providers))
	for i, p := range providers {
		names[i] = p.Name()
	}
	return names
}

// Options replace parts of the outside world in tests.
type Options struct {
	// Transport sends the requests to the vendors; nil is HTTP.
	Transport http.RoundTripper

	// Dial opens the connections to the vendors; nil is the network.
	Dial provider.DialFunc
}

type backend struct {
	*framework.Backend
	broker     *broker.Broker
	metrics    *metrics.Metrics
	events     *events.Queue
	mountPoint atomic.Pointer[string]
	names      names
	store      *credential.Store
}

// Factory returns the engine of one mount. It uses neither storage nor the system view, since
// Vault also calls it to register a plugin.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := New(Options{})
	if err := b.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return b, nil
}

// New returns an engine that is not set up yet.
func New(o Options) logical.Backend {
	b := &backend{names: names{roles: map[string]*role{}}}
	b.store, b.broker = credential.New(providers, credential.Options{Transport: o.Transport, Dial: o.Dial, Logger: b.Logger}, observer{b})
	b.metrics = metrics.New(providerNames(), b.broker.Statuses)
	b.events = events.NewQueue(b.sendEvent, b.eventsDropped)
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		RunningVersion: version.Version,
		BackendType:    logical.TypeLogical,
		PathsSpecial:   &logical.Paths{SealWrapStorage: storage.Sealed()},
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

// Setup gives the framework, too, a view of the server that does not ask it on each read.
func (b *backend) Setup(ctx context.Context, config *logical.BackendConfig) error {
	own := *config
	if config.System != nil {
		own.System = sysview.Cache(config.System)
	}
	return b.Backend.Setup(ctx, &own)
}

// HandleRequest checks the input before the framework does, which ignores unknown fields and
// quotes values in its errors, secrets included. A node that may not write forwards the request
// unchecked: the active node may run another version of the plugin.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (resp *logical.Response, err error) {
	defer func() {
		if recovered := recover(); recovered != nil {
			resp, err = nil, broker.Panicked(b.Logger().With("path", req.Path), recovered)
		}
	}()
	b.noteMountPoint(req)
	switch req.Operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation, logical.ReadOperation:
		if !b.WriteSafeReplicationState() {
			break
		}
		if err := checkPathName(req.Path); err != nil {
			return logical.ErrorResponse(err.Error()), nil
		}
		if len(req.Data) == 0 {
			break
		}
		if path := b.Route(req.Path); path != nil {
			if err := checkInput(path.Fields, req.Operation, req.Data); err != nil {
				return logical.ErrorResponse(err.Error()), nil
			}
			req.Data = withoutEmptyMaps(path.Fields, req.Data)
		}
	}
	return b.Backend.HandleRequest(ctx, req)
}

// HandleExistenceCheck does not check the input. HandleRequest does that, and answers bad input
// with a 400; Vault turns an error of an existence check into a 500.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (bool, bool, error) {
	if checkPathName(req.Path) != nil { // which storage may not take as a key
		return true, false, nil
	}
	bare := *req
	bare.Data = nil
	return b.Backend.HandleExistenceCheck(ctx, &bare)
}

// noteMountPoint keeps the mount point for the log. Only requests have it; Vault itself makes
// one each minute.
func (b *backend) noteMountPoint(req *logical.Request) {
	if last := b.mountPoint.Load(); req.MountPoint != "" && (last == nil || *last != req.MountPoint) {
		mountPoint := req.MountPoint
		b.mountPoint.Store(&mountPoint)
	}
}

// Logger returns the mount's logger. Each line has the mount point, since many mounts share a
// log.
func (b *backend) Logger() hclog.Logger {
	if mountPoint := b.mountPoint.Load(); mountPoint != nil {
		return b.Backend.Logger().With("mount", *mountPoint)
	}
	return b.Backend.Logger()
}

// periodic does the background work, on the one node that may. Vault calls it each minute.
//
// There is no write-ahead log. It could only save a refresh token that the vendor has rotated
// and that is not in storage yet. That token is not known before the exchange, and is written
// right after it; the broker checks before the exchange that storage takes writes.
func (b *backend) periodic(ctx context.Context, req *logical.Request) error {
	if !b.WriteSafeReplicationState() {
		return nil
	}
	b.store.ExpireRotations()
	began := time.Now()
	err := b.broker.Sweep(ctx, req.Storage)
	b.events.Expiring(b.broker.Expiries(), time.Now())
	b.metrics.Swept(time.Since(began))
	return err
}

// invalidate drops what is cached of an entry that another node has written.
func (b *backend) invalidate(_ context.Context, key string) {
	switch kind, name := storage.ParseKey(key); kind {
	case storage.Credential:
		b.broker.Forget(name)
		b.names.forget(name)
	case storage.Keypair: // which any credential may use
		b.broker.ForgetAll()
	case storage.State:
		b.broker.Forget(name)
	case storage.Role:
		b.names.forget(name)
	}
}

// clean ends the engine. Vault waits for it when it unloads the mount.
func (b *backend) clean(ctx context.Context) {
	b.broker.Close(ctx)
	b.events.Close()
}

// An observer counts exchanges and sends their events.
type observer struct{ *backend }

func (o observer) Exchanged(x broker.Exchange) { o.metrics.Exchanged(x) }
func (o observer) Stored(x broker.Exchange)    { o.events.Exchanged(x) }

func (b *backend) sendEvent(e events.Event) {
	if err := events.Send(b, e); err != nil {
		b.Logger().Debug("the server did not take an event", "event", e.Kind, "error", err)
	}
}

func (b *backend) eventsDropped() {
	b.Logger().Warn("the server is slow to take events, and some are dropped")
}

const backendHelp = `
The token broker exchanges long-lived credentials of API vendors (API keys, refresh
tokens, key pairs) for short-lived access tokens.

Store a credential at config/<vendor>/<name>, then read creds/<name>: it returns an
access token, leased for as long as the token is valid. token/<name> returns the same
token without a lease. However many readers there are, the vendor is called about once
in a token's lifetime. A role at roles/<name> is a narrower view of a credential.
`
