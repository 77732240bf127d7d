// Package engine is the harness of the tests: it mounts the engine with simulated vendors and storage
// in memory, passes time, restarts it, breaks its storage, and watches what leaves it.
package engine

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// The credentials that the vendors of New know.
const (
	RefreshToken = "refresh-token-of-kensho-0123456789"
	APIKey       = "01-4d3c2b1a-0f9e8d7c6b5a49382716051423324150617283940a1"
	ClientID     = "0oa1clientid2"
	MountPoint   = "kensho/"
)

// PrivateKey is made once: keys are slow to make, and any will do.
var PrivateKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// PrivateKeyPEM returns PrivateKey in PEM.
func PrivateKeyPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(PrivateKey())}))
}

// Unreplicated is what a server without replication says of itself.
const Unreplicated = consts.ReplicationPerformanceDisabled | consts.ReplicationDRDisabled

// Engine is a mount of the engine, with simulated vendors and storage in memory.
type Engine struct {
	T       *testing.T
	Sim     *vendorsim.Sim
	Storage logical.Storage
	System  *logical.StaticSystemView
	Backend logical.Backend

	Transport http.RoundTripper
	Dial      provider.DialFunc // where transport is nil
	Outside   *Outside
	Logger    hclog.Logger
}

// New mounts an engine, and sees that it asks its vendors for nothing that they do
// not document, and that no secret leaves it.
func New(t *testing.T) *Engine {
	t.Helper()
	e := NewUnchecked(t)
	t.Cleanup(func() {
		for e.Sim.InFlight() > 0 { // exchanges outlive their readers
			time.Sleep(time.Second)
		}
		e.Request(logical.ReadOperation, "metrics", nil) // which a standby leaves to the active node
		assert.Empty(t, e.Sim.Violations(), "requests that no vendor documents")
		assert.Empty(t, e.Outside.Leaks(t, e), "guarantee 6: secrets outside")
	})
	return e
}

// NewUnchecked mounts an engine whose vendors know refreshToken, apiKey and clientID with
// privateKey.
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

// Restart begins anew with what is in storage, as after a crash.
func (e *Engine) Restart() {
	e.T.Helper()
	e.Backend = tokenbroker.New(tokenbroker.Options{Transport: e.Transport, Dial: e.Dial})
	require.NoError(e.T, e.Backend.Setup(context.Background(), &logical.BackendConfig{
		Logger:      e.Logger,
		System:      e.System,
		StorageView: e.Storage,
		BackendUUID: "test",

		EventsSender: e.Outside,
	}))
}

// Request sends a request as Vault's core does, and returns the HTTP status and
// the message that a client would see.
func (e *Engine) Request(op logical.Operation, path string, data map[string]any) (resp *logical.Response, status int, message string) {
	e.T.Helper()
	return e.RequestWithin(context.Background(), op, path, data)
}

// RequestWithin sends a request of a client who may go away.
func (e *Engine) RequestWithin(ctx context.Context, op logical.Operation, path string, data map[string]any) (resp *logical.Response, status int, message string) {
	e.T.Helper()
	// The framework keeps what it is given.
	req := &logical.Request{Operation: op, Path: path, MountPoint: MountPoint, Data: maps.Clone(data), Storage: e.Storage}
	if op == logical.UpdateOperation {
		checked, exists, err := e.Backend.HandleExistenceCheck(ctx, req)
		if err != nil {
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

// Write writes to a path that must take it.
func (e *Engine) Write(path string, data map[string]any) {
	e.T.Helper()
	_, status, message := e.Request(logical.UpdateOperation, path, data)
	require.Equal(e.T, 200, status, message)
}

// Read reads what there must be, in the form that OpenAPI and docs/api.md have.
func (e *Engine) Read(path string) *logical.Response {
	e.T.Helper()
	resp, status, message := e.Request(logical.ReadOperation, path, nil)
	require.Equal(e.T, 200, status, message)
	declared := schema.GetResponseSchema(e.T, e.Backend.(interface {
		Route(path string) *framework.Path
	}).Route(path), logical.ReadOperation)
	schema.ValidateResponse(e.T, declared, resp, true)
	return resp
}

// Route returns the definition of a path.
func (e *Engine) Route(path string) *framework.Path {
	return e.Backend.(interface {
		Route(path string) *framework.Path
	}).Route(path)
}

// Dump is all that is in storage, whatever its mood, but for what is written to see
// whether it takes a write.
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
	delete(all, "fence")
	return all
}

// Creds reads a token, which its vendor must accept until the lease ends.
func (e *Engine) Creds(name string) *logical.Response {
	e.T.Helper()
	resp := e.Read("creds/" + name)
	death := e.Sim.Death(resp.Data["access_token"].(string))
	require.False(e.T, death.IsZero(), "the token is no vendor's")
	left := time.Until(death)
	margin := min(30*time.Second, left/20)
	require.LessOrEqual(e.T, resp.Secret.TTL, left-margin, "guarantee 1: the lease outlives the token less the margin")
	require.GreaterOrEqual(e.T, resp.Secret.TTL, time.Second)
	return resp
}

// Exchanges returns how many requests the vendors have had.
func (e *Engine) Exchanges() int { return len(e.Sim.Calls()) }

// Until waits for a time of day, on the day that simulated time begins with.
func Until(hour, minute, second int) {
	time.Sleep(time.Until(time.Date(2000, 1, 1, hour, minute, second, 0, time.UTC)))
}

// RevokedByForce are leases that Vault has forgotten, as the vendor would not end their tokens.
// Revoke ends a lease, as Vault does.
func (e *Engine) RevokedByForce(leases ...*logical.Response) {
	e.T.Helper()
	e.Sim.Behave(Down())
	for _, lease := range leases {
		require.Error(e.T, e.Revoke(lease))
	}
	e.Sim.Behave(vendorsim.Conduct{})
}

// ClientSecret is the secret of the OAuth client.
const ClientSecret = "client-secret-0123456789"

// Revoke ends a lease, as Vault does.
func (e *Engine) Revoke(lease *logical.Response) error {
	e.T.Helper()
	_, err := e.Backend.HandleRequest(e.T.Context(), &logical.Request{Operation: logical.RevokeOperation, Secret: lease.Secret, Storage: e.Storage})
	return err
}

// TokenOf returns the access token of a lease.
func TokenOf(lease *logical.Response) string { return lease.Data["access_token"].(string) }

// Leased are the keys of the dedicated tokens in storage.
func (e *Engine) Leased() []string {
	e.T.Helper()
	keys, err := logical.CollectKeysWithPrefix(e.T.Context(), e.Storage, "lease/")
	require.NoError(e.T, err)
	return keys
}

// Clean unloads the engine, and returns how long that took.
func (e *Engine) Clean() time.Duration {
	e.T.Helper()
	began := time.Now()
	e.Backend.Cleanup(e.T.Context())
	assert.Less(e.T, time.Since(began), time.Second, "Vault holds a lock meanwhile")
	return time.Since(began)
}

// AnotherToken is a second refresh token of Kensho.
const AnotherToken = "another-refresh-token"

// Asked are the scopes that Kensho was asked for, call by call.
func (e *Engine) Asked() []string {
	e.T.Helper()
	var scopes []string
	for _, call := range e.Sim.Calls() {
		form, err := url.ParseQuery(call.Body)
		require.NoError(e.T, err)
		scopes = append(scopes, form.Get("scope"))
	}
	return scopes
}

// ReadFor reads a token that is to be good for at least so long.
func (e *Engine) ReadFor(path, minTTL string) *logical.Response {
	e.T.Helper()
	resp, status, message := e.Request(logical.ReadOperation, path, map[string]any{"min_ttl": minTTL})
	require.Equal(e.T, http.StatusOK, status, message)
	return resp
}

// Damage makes an entry one that cannot be decoded.
func (e *Engine) Damage(key string) {
	e.T.Helper()
	require.NoError(e.T, e.Storage.Put(e.T.Context(), &logical.StorageEntry{Key: key, Value: []byte("{")}))
}

// Tick is one turn of Vault's rollback manager.
func (e *Engine) Tick() error {
	_, err := e.Backend.HandleRequest(e.T.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: e.Storage})
	return err
}

// Pass lets time pass, with a tick every minute.
func (e *Engine) Pass(d time.Duration) {
	e.T.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(time.Minute, time.Until(end)))
		require.NoError(e.T, e.Tick())
	}
}

// Refused reads a path that must fail.
func (e *Engine) Refused(path string) (status int, message string) {
	e.T.Helper()
	_, status, message = e.Request(logical.ReadOperation, path, nil)
	require.NotEqual(e.T, http.StatusOK, status)
	return status, message
}

// KeyPairFields returns the fields of a Kensho credential with a key pair.
func KeyPairFields() map[string]any {
	return map[string]any{"client_id": ClientID, "private_key": PrivateKeyPEM()}
}

// AssertStorageEmpty asserts that nothing is stored.
func AssertStorageEmpty(t *testing.T, e *Engine) {
	t.Helper()
	left, err := logical.CollectKeys(t.Context(), e.Storage)
	require.NoError(t, err)
	assert.Empty(t, left, "nothing is stored")
}

// Drop has a refresh drop the cached tokens first.
var Drop = map[string]any{"drop": true}

// Token reads a token without a lease, which its vendor must accept for ttl seconds.
func (e *Engine) Token(name string) *logical.Response {
	e.T.Helper()
	resp := e.Read("token/" + name)
	require.Nil(e.T, resp.Secret)
	left := time.Until(e.Sim.Death(resp.Data["access_token"].(string)))
	require.LessOrEqual(e.T, TTLOf(resp), left, "ttl is past the token's life")
	require.GreaterOrEqual(e.T, TTLOf(resp), time.Second)
	return resp
}

// As has an entry be of a format.
func (e *Engine) As(version int, key string) {
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

// Seeing mounts the engine again, in a server of its own.
func (e *Engine) Seeing(system logical.SystemView) {
	e.T.Helper()
	e.Backend = tokenbroker.New(tokenbroker.Options{Transport: e.Transport})
	require.NoError(e.T, e.Backend.Setup(e.T.Context(), &logical.BackendConfig{Logger: e.Logger, System: system, StorageView: e.Storage}))
}

// TTLOf returns the ttl of an answer of token/<name>.
func TTLOf(resp *logical.Response) time.Duration {
	return time.Duration(resp.Data["ttl"].(int64)) * time.Second
}
