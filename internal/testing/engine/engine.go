// Package engine is a test harness. It mounts the secrets engine with simulated vendors and
// in-memory storage, advances time, restarts the engine, makes its storage fail, and searches
// everything that leaves the engine for secrets.
package engine

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// The credentials that the simulated vendors accept, and the path of the mount.
const (
	RefreshToken = "refresh-token-of-kensho-0123456789"
	APIKey       = "01-4d3c2b1a-0f9e8d7c6b5a49382716051423324150617283940a1"
	ClientID     = "0oa1clientid2"
	MountPoint   = "kensho/"
)

// PrivateKey returns an RSA key that is generated once per process, as generation is slow.
var PrivateKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// PrivateKeyPEM returns PrivateKey as a PKCS #1 PEM block.
func PrivateKeyPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(PrivateKey())}))
}

// Unreplicated is the replication state of a server without replication.
const Unreplicated = consts.ReplicationPerformanceDisabled | consts.ReplicationDRDisabled

// Engine is a mount of the engine, with simulated vendors and storage in memory.
type Engine struct {
	T       *testing.T
	Sim     *vendorsim.Sim
	Storage logical.Storage
	System  *logical.StaticSystemView
	Backend logical.Backend

	Transport http.RoundTripper
	Dial      provider.DialFunc // used if Transport is nil
	Outside   *Outside
	Logger    hclog.Logger

	// Entities are the readers that Vault knows, by ID.
	Entities map[string]*logical.Entity

	// IdentityToken returns the server's identity tokens; nil on a server of the community edition.
	IdentityToken func(context.Context, *pluginutil.IdentityTokenRequest) (string, error)
}

// New mounts an engine like NewUnchecked. At the end of the test it fails the test if the engine
// sent a request that no vendor documents, or if a secret left the engine.
func New(t *testing.T) *Engine {
	t.Helper()
	e := NewUnchecked(t)
	t.Cleanup(func() {
		for e.Sim.InFlight() > 0 { // an exchange continues after its reader has gone
			time.Sleep(time.Second)
		}
		e.Request(logical.ReadOperation, "metrics", map[string]any{"names": "all"}) // adds the metrics to what is searched
		assert.Empty(t, e.Sim.Violations(), "requests that no vendor documents")
		assert.Empty(t, e.Outside.Leaks(t, e), "guarantee 6: secrets outside")
	})
	return e
}

// NewUnchecked mounts an engine whose vendors accept RefreshToken, APIKey, and ClientID with
// PrivateKey.
func NewUnchecked(t *testing.T) *Engine {
	t.Helper()
	e := &Engine{
		T:       t,
		Sim:     vendorsim.New(),
		Storage: &logical.InmemStorage{},
		Outside: &Outside{},
		System:  &logical.StaticSystemView{DefaultLeaseTTLVal: 24 * time.Hour, MaxLeaseTTLVal: 32 * 24 * time.Hour, ReplicationStateVal: Unreplicated},
	}
	e.Sim.AddRefreshToken("link-streaming", RefreshToken)
	e.Sim.AddAPIKey(APIKey)
	e.Sim.AddClient(ClientID, &PrivateKey().PublicKey, "")
	e.Transport, e.Logger = e.Sim.Transport(), e.Outside.logger()
	e.Restart()
	return e
}

// Restart replaces the backend by a new one on the same storage, as after a crash.
func (e *Engine) Restart() {
	e.T.Helper()
	e.Backend = tokenbroker.New(tokenbroker.Options{Transport: e.Transport, Dial: e.Dial})
	require.NoError(e.T, e.Backend.Setup(context.Background(), &logical.BackendConfig{
		Logger:      e.Logger,
		System:      identities{e.System, e},
		StorageView: e.Storage,
		BackendUUID: "test",

		EventsSender: e.Outside,
	}))
}

// Request sends a request as Vault's core does. It returns the response, and the HTTP status and
// error message that a client sees.
func (e *Engine) Request(op logical.Operation, path string, data map[string]any) (resp *logical.Response, status int, message string) {
	e.T.Helper()
	return e.RequestWithin(context.Background(), op, path, data)
}

// RequestWithin is Request with a context, for a client that disconnects.
func (e *Engine) RequestWithin(ctx context.Context, op logical.Operation, path string, data map[string]any) (resp *logical.Response, status int, message string) {
	e.T.Helper()
	// Clone the data, because the framework keeps and changes it.
	reader, _ := ctx.Value(readerKey{}).(string)
	req := &logical.Request{Operation: op, Path: path, MountPoint: MountPoint, Data: maps.Clone(data), Storage: e.Storage, EntityID: reader}
	if op == logical.UpdateOperation {
		checked, exists, err := e.Backend.HandleExistenceCheck(ctx, req)
		if err != nil && !errors.Is(err, logical.ErrUnsupportedPath) {
			return nil, http.StatusInternalServerError, err.Error()
		}
		if checked && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := e.Backend.HandleRequest(ctx, req)
	status, err = logical.RespondErrorCommon(req, resp, err)
	logical.AdjustErrorStatusCode(&status, err)
	if status == 0 {
		status = 200
	}
	if err != nil {
		message = err.Error()
	}
	e.Outside.Answered(e.T, path, data, resp, message)
	return resp, status, message
}

// Write writes to a path, and fails the test unless the write succeeds.
func (e *Engine) Write(path string, data map[string]any) {
	e.T.Helper()
	_, status, message := e.Request(logical.UpdateOperation, path, data)
	require.Equal(e.T, 200, status, message)
}

// Read reads a path. It fails the test unless the read succeeds and the response matches the
// schema that the path declares.
func (e *Engine) Read(path string) *logical.Response {
	e.T.Helper()
	resp, status, message := e.Request(logical.ReadOperation, path, nil)
	require.Equal(e.T, 200, status, message)
	route := e.Route(path)
	declared := schema.GetResponseSchema(e.T, route, logical.ReadOperation)
	schema.ValidateResponse(e.T, declared, resp, !route.TakesArbitraryInput) // the fields of vendors are not declared
	return resp
}

// Fields returns the fields that a request to a path may have, those of its vendor included.
func (e *Engine) Fields(path string) map[string]*framework.FieldSchema {
	e.T.Helper()
	route := e.Route(path)
	parts := strings.Split(path, "/")
	if !route.TakesArbitraryInput || parts[0] != "config" {
		return route.Fields
	}
	fields := maps.Clone(route.Fields)
	resp, status, message := e.Request(logical.ReadOperation, "vendors/"+parts[1], nil)
	require.Equal(e.T, http.StatusOK, status, message)
	for name, about := range resp.Data["fields"].(map[string]any) {
		isSecret, _ := about.(map[string]any)["secret"].(bool)
		fields[name] = &framework.FieldSchema{DisplayAttrs: &framework.DisplayAttributes{Sensitive: isSecret}}
	}
	return fields
}

// Route returns the framework's definition of a path.
func (e *Engine) Route(path string) *framework.Path {
	return e.Backend.(interface {
		Route(path string) *framework.Path
	}).Route(path)
}

// Dump returns all storage entries by key, bypassing the faults of a FaultyStorage. It leaves out
// those that hold nothing: the probe, by which the engine finds out whether storage accepts a write,
// and the vendors that have had credentials.
func (e *Engine) Dump() map[string]string {
	e.T.Helper()
	storage, ctx := e.Storage, context.Background()
	if faulty, ok := storage.(*FaultyStorage); ok {
		storage = faulty.Storage
	}
	keys, err := logical.CollectKeys(ctx, storage)
	require.NoError(e.T, err)
	all := map[string]string{}
	for _, key := range keys {
		entry, err := storage.Get(ctx, key)
		require.NoError(e.T, err)
		all[key] = string(entry.Value)
	}
	maps.DeleteFunc(all, func(key, _ string) bool { return key == "probe" || strings.HasPrefix(key, "vendor-in-use/") })
	return all
}

// Creds reads creds/<name>. It fails the test unless the vendor accepts the token until the end
// of the lease plus the margin.
func (e *Engine) Creds(name string) *logical.Response {
	e.T.Helper()
	resp := e.Read("creds/" + name)
	expiry := e.Sim.Expiry(resp.Data["access_token"].(string))
	require.False(e.T, expiry.IsZero(), "no vendor issued the token")
	left := time.Until(expiry)
	margin := min(30*time.Second, left/20)
	require.LessOrEqual(e.T, resp.Secret.TTL, left-margin, "guarantee 1: the lease ends less than the margin before the token")
	require.GreaterOrEqual(e.T, resp.Secret.TTL, time.Second)
	return resp
}

// Exchanges returns the number of requests that the vendors have received.
func (e *Engine) Exchanges() int { return len(e.Sim.Calls()) }

// Until sleeps until a time of day (UTC) on the first day of simulated time, 2000-01-01. Hours
// from 24 are on later days.
func Until(hour, minute, second int) {
	time.Sleep(time.Until(time.Date(2000, 1, 1, hour, minute, second, 0, time.UTC)))
}

// ForceRevoke revokes leases while the vendor is down. Every revocation fails, as it does before
// an operator revokes a lease by force, and the tokens stay valid.
func (e *Engine) ForceRevoke(leases ...*logical.Response) {
	e.T.Helper()
	e.Sim.Behave(Down())
	for _, lease := range leases {
		require.Error(e.T, e.Revoke(lease))
	}
	e.Sim.Behave(vendorsim.Conduct{})
}

// ClientSecret is the secret of the OAuth 2.0 client ClientID.
const ClientSecret = "client-secret-0123456789"

// Revoke revokes a lease as Vault's core does.
func (e *Engine) Revoke(lease *logical.Response) error {
	e.T.Helper()
	_, err := e.Backend.HandleRequest(e.T.Context(), &logical.Request{Operation: logical.RevokeOperation, Secret: lease.Secret, Storage: e.Storage})
	return err
}

// TokenOf returns the access token of a lease.
func TokenOf(lease *logical.Response) string { return lease.Data["access_token"].(string) }

// Leased returns the storage keys of dedicated tokens.
func (e *Engine) Leased() []string {
	e.T.Helper()
	keys, err := logical.CollectKeysWithPrefix(e.T.Context(), e.Storage, "lease/")
	require.NoError(e.T, err)
	return keys
}

// Clean unloads the engine, and returns the time that this took. It must be less than a second.
func (e *Engine) Clean() time.Duration {
	e.T.Helper()
	began := time.Now()
	e.Backend.Cleanup(e.T.Context())
	assert.Less(e.T, time.Since(began), time.Second, "Vault holds a lock during Cleanup")
	return time.Since(began)
}

// AnotherToken is a second refresh token of Kensho.
const AnotherToken = "another-refresh-token"

// RequestedScopes returns the scope parameter of each request to the vendors, in order.
func (e *Engine) RequestedScopes() []string {
	e.T.Helper()
	var scopes []string
	for _, call := range e.Sim.Calls() {
		form, err := url.ParseQuery(call.Body)
		require.NoError(e.T, err)
		scopes = append(scopes, form.Get("scope"))
	}
	return scopes
}

// ReadFor reads a token with a min_ttl.
func (e *Engine) ReadFor(path, minTTL string) *logical.Response {
	e.T.Helper()
	resp, status, message := e.Request(logical.ReadOperation, path, map[string]any{"min_ttl": minTTL})
	require.Equal(e.T, http.StatusOK, status, message)
	return resp
}

// Damage overwrites a storage entry with a value that cannot be decoded.
func (e *Engine) Damage(key string) {
	e.T.Helper()
	require.NoError(e.T, e.Storage.Put(e.T.Context(), &logical.StorageEntry{Key: key, Value: []byte("{")}))
}

// Refused reads a path, and fails the test unless the read fails.
func (e *Engine) Refused(path string) (status int, message string) {
	e.T.Helper()
	_, status, message = e.Request(logical.ReadOperation, path, nil)
	require.NotEqual(e.T, http.StatusOK, status)
	return status, message
}

// KeyPairFields returns the fields of a Kensho credential with a private key.
func KeyPairFields() map[string]any {
	return map[string]any{"client_id": ClientID, "private_key": PrivateKeyPEM()}
}

// AssertStorageEmpty asserts that Dump returns no entry.
func AssertStorageEmpty(t *testing.T, e *Engine) {
	t.Helper()
	assert.Empty(t, e.Dump(), "entries left in storage")
}

// Drop is the data of a refresh that drops the cached tokens first.
var Drop = map[string]any{"drop": true}

// Token reads token/<name>. It fails the test unless the vendor accepts the token for at least
// the ttl of the response.
func (e *Engine) Token(name string) *logical.Response {
	e.T.Helper()
	resp := e.Read("token/" + name)
	require.Nil(e.T, resp.Secret)
	left := time.Until(e.Sim.Expiry(resp.Data["access_token"].(string)))
	require.LessOrEqual(e.T, TTLOf(resp), left, "ttl exceeds the token's lifetime")
	require.GreaterOrEqual(e.T, TTLOf(resp), time.Second)
	return resp
}

// SetVersion sets the format version of a storage entry.
func (e *Engine) SetVersion(version int, key string) {
	e.T.Helper()
	entry, err := e.Storage.Get(e.T.Context(), key)
	require.NoError(e.T, err)
	require.NotNil(e.T, entry, key)
	fields := map[string]any{}
	require.NoError(e.T, json.Unmarshal(entry.Value, &fields))
	fields["version"] = version
	entry, err = logical.StorageEntryJSON(key, fields)
	require.NoError(e.T, err)
	require.NoError(e.T, e.Storage.Put(e.T.Context(), entry))
}

// RestartWith replaces the backend by a new one on the same storage, with another system view.
func (e *Engine) RestartWith(system logical.SystemView) {
	e.T.Helper()
	e.Backend = tokenbroker.New(tokenbroker.Options{Transport: e.Transport})
	require.NoError(e.T, e.Backend.Setup(e.T.Context(), &logical.BackendConfig{Logger: e.Logger, System: system, StorageView: e.Storage}))
}

// TTLOf returns the ttl of a response of token/<name>.
func TTLOf(resp *logical.Response) time.Duration {
	return time.Duration(resp.Data["ttl"].(int64)) * time.Second
}
