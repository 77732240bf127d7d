// Package tokenbroker implements a Vault secrets engine that exchanges long-lived credentials of API
// vendors for short-lived access tokens. The lease of a token ends before the token expires.
package tokenbroker

import (
	"context"
	"errors"
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
	"vault-plugin-secrets-tokenbroker/internal/subject"
	"vault-plugin-secrets-tokenbroker/internal/sysview"
	"vault-plugin-secrets-tokenbroker/internal/version"
	"vault-plugin-secrets-tokenbroker/provider"
)

// operationPrefix is the prefix of the engine's operation IDs in OpenAPI.
const operationPrefix = "token-broker"

// Options replace the network in tests.
type Options struct {
	// Transport sends requests to vendors. If nil, the default HTTP transport is used.
	Transport http.RoundTripper

	// Dial opens connections to vendors. If nil, the network is used.
	Dial provider.DialFunc
}

type backend struct {
	*framework.Backend
	broker     *broker.Broker
	metrics    *metrics.Metrics
	events     *events.Queue
	mountPoint atomic.Pointer[string]
	roles      roleCache
	store      *credential.Store
	subjects   *subject.Verifier
	unreaped   map[string]unreaped // by name; only for reap, which does not run twice at a time
}

// Factory returns the engine of one mount. It does not use storage or the system view, as Vault also
// calls it to register a plugin.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := New(Options{})
	if err := b.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return b, nil
}

// New returns an engine. The caller must call Setup before use.
func New(o Options) logical.Backend {
	b := &backend{roles: roleCache{roles: map[string]*role{}}, subjects: subject.NewVerifier()}
	b.store, b.broker = credential.New(credential.Options{
		BuiltIn: builtIn, Transport: o.Transport, Dial: o.Dial, IdentityToken: b.identityToken, Logger: b.Logger, Ended: b.consentEnded, Rotated: b.rotated,
	}, observer{b})
	b.metrics = metrics.New(sortedKeys(written), b.store.Statuses, b.broker.Pacer().Limited)
	b.events = events.NewQueue(b.sendEvent, b.eventsDropped)
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		RunningVersion: version.Version,
		BackendType:    logical.TypeLogical,
		PathsSpecial:   &logical.Paths{SealWrapStorage: storage.Sealed(), Unauthenticated: append([]string{callbackPath}, jwksPaths...)},
		Paths: shareSchemas(describeValues(framework.PathAppend(
			b.pathCreds(), // first, as they are routed most often
			b.pathToken(),
			b.pathConfig(),
			b.pathVendors(),
			b.pathClients(),
			b.pathKeypair(),
			b.pathJWKS(),
			b.pathRoles(),
			b.pathExchange(),
			b.pathRefresh(),
			b.pathStatus(),
			b.pathHosts(),
			b.pathMetrics(),
			[]*framework.Path{b.pathAuthorize(), b.pathCallback()},
		))),
		Secrets:      []*framework.Secret{b.accessToken()},
		PeriodicFunc: b.periodic,
		Invalidate:   b.invalidate,
		Clean:        b.clean,
	}
	return b
}

// Setup sets up the framework with a cached system view, so that reads do not call the server.
func (b *backend) Setup(ctx context.Context, config *logical.BackendConfig) error {
	own := *config
	if config.System != nil {
		own.System = sysview.Cache(config.System)
	}
	return b.Backend.Setup(ctx, &own)
}

// identityToken requests an identity token of the server for the mount.
func (b *backend) identityToken(ctx context.Context, audience string, ttl time.Duration) (string, error) {
	return sysview.IdentityToken(ctx, b.System(), audience, ttl)
}

// HandleRequest checks the input before the framework sees it, as the framework ignores unknown
// fields and quotes values, including secrets, in its errors. A node that cannot write forwards the
// request unchecked, since the active node may run another version of the plugin.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (resp *logical.Response, err error) {
	defer func() {
		if recovered := recover(); recovered != nil {
			resp, err = nil, broker.Panicked(b.Logger().With("path", req.Path), recovered)
		}
	}()
	b.setMountPoint(req)
	isOurs := verbs[req.Operation] != "" && b.WriteSafeReplicationState()
	if isOurs {
		if err := checkPathName(req.Path); err != nil {
			return logical.ErrorResponse(err.Error()), nil
		}
	}
	hasFields := req.Operation != logical.ListOperation && req.Operation != logical.DeleteOperation
	if isOurs && hasFields && len(req.Data) > 0 {
		switch path := b.Route(req.Path); {
		case path == nil || path.Operations[req.Operation] == nil:
		case req.Path == callbackPath || strings.HasPrefix(req.Path, jwksPrefix):
			req.Data = onlyTexts(path, req.Data)
		default:
			fields, err := b.fieldsOf(ctx, req, path)
			if err != nil {
				return failure("", err)
			}
			if err := checkInput(fields, req.Operation, req.Data); err != nil {
				return logical.ErrorResponse(err.Error()), nil
			}
			req.Data = withoutEmptyMaps(fields, req.Data)
		}
	}
	if req.Operation == logical.HelpOperation {
		if help, err := b.vendorHelp(ctx, req); help != nil || err != nil {
			return help, err
		}
	}
	if read, data := b.directRead(req); isOurs && read != nil {
		resp, err = read(ctx, req, data)
	} else {
		resp, err = b.Backend.HandleRequest(ctx, req)
	}
	if err != nil && isOurs {
		err = b.explain(ctx, req, err)
	}
	return resp, err
}

// HandleExistenceCheck ignores the input. HandleRequest checks it and returns a 400; Vault would
// turn an error of the existence check into a 500.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (bool, bool, error) {
	if checkPathName(req.Path) != nil { // storage may reject it as a key
		return true, false, nil
	}
	bare := *req
	bare.Data = nil
	return b.Backend.HandleExistenceCheck(ctx, &bare)
}

// setMountPoint records the mount point for the log. Only requests carry it; Vault itself sends one
// every minute.
func (b *backend) setMountPoint(req *logical.Request) {
	if last := b.mountPoint.Load(); req.MountPoint != "" && (last == nil || *last != req.MountPoint) {
		mountPoint := req.MountPoint
		b.mountPoint.Store(&mountPoint)
	}
}

// Logger returns the mount's logger. Each line has the mount point, as mounts share a log.
func (b *backend) Logger() hclog.Logger {
	if mountPoint := b.mountPoint.Load(); mountPoint != nil {
		return b.Backend.Logger().With("mount", *mountPoint)
	}
	return b.Backend.Logger()
}

// maxSweep is how long a sweep may take for the consents to be looked at after it, within the time that Vault
// waits (guarantee 11).
const maxSweep = 15 * time.Second

// periodic does the background work if this node may write. Vault calls it every minute.
//
// The engine does not use the SDK's write-ahead log. A rotation writes its record ahead of the request to the
// vendor, too, but as part of the entry that it changes (credential.Rotation): so the record and the secret change in one
// write, an operator sees it, and it is found by name. A refresh token that the vendor has just rotated is not
// known before the exchange; it is stored right after it, and the broker checks before the exchange that storage
// accepts writes.
func (b *backend) periodic(ctx context.Context, req *logical.Request) error {
	if !b.WriteSafeReplicationState() {
		return nil
	}
	b.store.ExpireUnstoredGrants()
	began := time.Now()
	err := b.broker.Sweep(ctx, req.Storage)
	b.broker.ReportExpiries(func(name string, x broker.Expiry) bool { return b.events.Expiring(name, x, time.Now()) })
	b.metrics.Swept(time.Since(began))
	if time.Since(began) < maxSweep { // otherwise storage or a vendor is slow, and the next minute will do
		b.store.SaveConsents(ctx, req.Storage)
		err = errors.Join(err, b.store.SweepRotations(ctx, req.Storage), b.store.ResumeDevices(ctx, req.Storage), b.store.SweepKeypairs(ctx, req.Storage), b.store.SweepClients(ctx, req.Storage), b.reap(ctx, req.Storage), b.store.PruneVariants(ctx, req.Storage))
	}
	return err
}

// invalidate drops cached data of an entry that another node has written.
func (b *backend) invalidate(_ context.Context, key string) {
	switch kind, name := storage.ParseKey(key); kind {
	case storage.Credential:
		b.broker.Forget(name)
		b.roles.forget(name)
	case storage.Vendor:
		b.store.ForgetVendor(name)
	case storage.Keypair: // any credential may use it
		b.store.ForgetKeypair(name)
		b.broker.ForgetAll()
	case storage.Client:
		b.broker.ForgetAll()
	case storage.State:
		b.broker.Forget(name)
	case storage.Variant:
		b.store.ForgetVariant(key)
	case storage.Role:
		b.roles.forget(name)
	case storage.VendorInUse:
		b.store.ForgetVendorsInUse()
	case storage.Host: // the next use of a credential loads the limits
		b.store.ForgetHosts()
		b.broker.ForgetAll()
	}
}

// clean stops the engine. Vault waits for it when it unloads the mount.
func (b *backend) clean(ctx context.Context) {
	b.store.Close()
	b.broker.Close(ctx)
	b.store.SaveRotations(ctx)
	b.events.Close()
}

// An observer records exchanges in the metrics and sends their events.
type observer struct{ *backend }

func (o observer) Exchanged(x broker.Exchange) { o.metrics.Exchanged(x) }
func (o observer) Finished(x broker.Exchange)  { o.events.Exchanged(x) }

// rotated counts a rotation that has ended, and sends its event.
func (b *backend) rotated(r credential.RotationReport) {
	b.metrics.Rotated(r.Vendor, r.Err == nil)
	b.events.Rotated(r)
}

func (b *backend) sendEvent(e events.Event) {
	if err := events.Send(b, e); err != nil {
		b.Logger().Debug("cannot send an event", "event", e.Kind, "error", err)
	}
}

func (b *backend) eventsDropped() {
	b.Logger().Warn("the event queue is full; dropping events")
}

const backendHelp = `
The token broker exchanges long-lived credentials of API vendors (API keys, client
secrets, refresh tokens, key pairs) for short-lived access tokens.

Store a credential at config/<vendor>/<name>, then read creds/<name> for an access
token with a lease that ends before the token expires. token/<name> returns the same
token without a lease. Readers share the cached token, so the engine calls the vendor
about once per token lifetime. A role at roles/<name> is a narrower view of a credential.
exchange/<name> exchanges a caller's own token for one of the vendor.
`
