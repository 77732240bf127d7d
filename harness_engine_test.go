package tokenbroker_test

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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

const nextClientID = "0oa2clientid3"

func (e *engine) activate(data map[string]any) (status int, message string) {
	e.t.Helper()
	_, status, message = e.request(logical.UpdateOperation, "keypair/prod/activate", data)
	return status, message
}

func (e *engine) tokens() map[string]any {
	e.t.Helper()
	return map[string]any{"prod": e.creds("prod").Data["access_token"], "scribe": e.creds("scribe").Data["access_token"]}
}

const (
	refreshToken = "refresh-token-of-kensho-0123456789"
	apiKey       = "01-4d3c2b1a-0f9e8d7c6b5a49382716051423324150617283940a1"
	clientID     = "0oa1clientid2"
	mountPoint   = "kensho/"
)

// privateKey is made once: keys are slow to make, and any will do.
var privateKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func privateKeyPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(privateKey())}))
}

// unreplicated is what a server without replication says of itself.
const unreplicated = consts.ReplicationPerformanceDisabled | consts.ReplicationDRDisabled

// engine is a mount of the engine, with simulated vendors and storage in memory.
type engine struct {
	t       *testing.T
	sim     *vendorsim.Sim
	storage logical.Storage
	system  *logical.StaticSystemView
	backend logical.Backend

	transport http.RoundTripper
	dial      provider.DialFunc // where transport is nil
	outside   *outside
	logger    hclog.Logger
}

// newEngine mounts an engine, and sees that it asks its vendors for nothing that they do
// not document, and that no secret leaves it.
func newEngine(t *testing.T) *engine {
	t.Helper()
	e := mount(t)
	t.Cleanup(func() {
		for e.sim.InFlight() > 0 { // exchanges outlive their readers
			time.Sleep(time.Second)
		}
		e.request(logical.ReadOperation, "metrics", nil) // which a standby leaves to the active node
		assert.Empty(t, e.sim.Violations(), "requests that no vendor documents")
		assert.Empty(t, e.outside.leaks(t, e), "promise 6: secrets outside")
	})
	return e
}

// mount mounts an engine whose vendors know refreshToken, apiKey and clientID with
// privateKey.
func mount(t *testing.T) *engine {
	t.Helper()
	e := &engine{
		t:       t,
		sim:     vendorsim.New(),
		storage: &logical.InmemStorage{},
		outside: &outside{},
		system:  &logical.StaticSystemView{DefaultLeaseTTLVal: 24 * time.Hour, MaxLeaseTTLVal: 32 * 24 * time.Hour, ReplicationStateVal: unreplicated},
	}
	e.sim.AddRefreshToken("link-streaming", refreshToken)
	e.sim.AddAPIKey(apiKey)
	e.sim.AddClient(clientID, &privateKey().PublicKey, "")
	e.transport, e.logger = e.sim.Transport(), e.outside.logger()
	e.restart()
	return e
}

// restart begins anew with what is in storage, as after a crash.
func (e *engine) restart() {
	e.t.Helper()
	e.backend = tokenbroker.New(tokenbroker.Options{Transport: e.transport, Dial: e.dial})
	require.NoError(e.t, e.backend.Setup(context.Background(), &logical.BackendConfig{
		Logger:      e.logger,
		System:      e.system,
		StorageView: e.storage,
		BackendUUID: "test",

		EventsSender: e.outside,
	}))
}

// request sends a request as Vault's core does, and returns the HTTP status and
// the message that a client would see.
func (e *engine) request(op logical.Operation, path string, data map[string]any) (resp *logical.Response, status int, message string) {
	e.t.Helper()
	return e.requestWithin(context.Background(), op, path, data)
}

// requestWithin sends a request of a client who may go away.
func (e *engine) requestWithin(ctx context.Context, op logical.Operation, path string, data map[string]any) (resp *logical.Response, status int, message string) {
	e.t.Helper()
	// The framework keeps what it is given.
	req := &logical.Request{Operation: op, Path: path, MountPoint: mountPoint, Data: maps.Clone(data), Storage: e.storage}
	if op == logical.UpdateOperation {
		checked, exists, err := e.backend.HandleExistenceCheck(ctx, req)
		if err != nil {
			return nil, http.StatusInternalServerError, err.Error()
		}
		if checked && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := e.backend.HandleRequest(ctx, req)
	status, err = logical.RespondErrorCommon(req, resp, err)
	logical.AdjustErrorStatusCode(&status, err)
	if status == 0 {
		status = 200
	}
	if err != nil {
		message = err.Error()
	}
	e.outside.answered(e.t, path, data, resp, message)
	return resp, status, message
}

func (e *engine) write(path string, data map[string]any) {
	e.t.Helper()
	_, status, message := e.request(logical.UpdateOperation, path, data)
	require.Equal(e.t, 200, status, message)
}

// read reads what there must be, in the form that OpenAPI and docs/api.md have.
func (e *engine) read(path string) *logical.Response {
	e.t.Helper()
	resp, status, message := e.request(logical.ReadOperation, path, nil)
	require.Equal(e.t, 200, status, message)
	declared := schema.GetResponseSchema(e.t, tokenbroker.Route(e.backend, path), logical.ReadOperation)
	schema.ValidateResponse(e.t, declared, resp, true)
	return resp
}

// dump is all that is in storage, whatever its mood, but for what is written to see
// whether it takes a write.
func (e *engine) dump() map[string]string {
	e.t.Helper()
	storage, ctx := e.storage, context.Background()
	if moody, ok := storage.(*moodyStorage); ok {
		storage = moody.Storage
	}
	keys, err := logical.CollectKeys(ctx, storage)
	require.NoError(e.t, err)
	all := map[string]string{}
	for _, key := range keys {
		entry, err := storage.Get(ctx, key)
		require.NoError(e.t, err)
		all[key] = string(entry.Value)
	}
	delete(all, "fence")
	return all
}

// creds reads a token, which its vendor must accept until the lease ends.
func (e *engine) creds(name string) *logical.Response {
	e.t.Helper()
	resp := e.read("creds/" + name)
	death := e.sim.Death(resp.Data["access_token"].(string))
	require.False(e.t, death.IsZero(), "the token is no vendor's")
	left := time.Until(death)
	margin := min(30*time.Second, left/20)
	require.LessOrEqual(e.t, resp.Secret.TTL, left-margin, "promise 1: the lease outlives the token less the margin")
	require.GreaterOrEqual(e.t, resp.Secret.TTL, time.Second)
	return resp
}

func (e *engine) exchanges() int { return len(e.sim.Calls()) }

// until waits for a time of day, on the day that simulated time begins with.
func until(hour, minute, second int) {
	time.Sleep(time.Until(time.Date(2000, 1, 1, hour, minute, second, 0, time.UTC)))
}

// revokedByForce are leases that Vault has forgotten, as the vendor would not end their tokens.
func (e *engine) revokedByForce(leases ...*logical.Response) {
	e.t.Helper()
	e.sim.Behave(down())
	for _, lease := range leases {
		require.Error(e.t, e.revoke(lease))
	}
	e.sim.Behave(vendorsim.Conduct{})
}

const clientSecret = "client-secret-0123456789"

func (e *engine) revoke(lease *logical.Response) error {
	e.t.Helper()
	_, err := e.backend.HandleRequest(e.t.Context(), &logical.Request{Operation: logical.RevokeOperation, Secret: lease.Secret, Storage: e.storage})
	return err
}

func tokenOf(lease *logical.Response) string { return lease.Data["access_token"].(string) }

// leased are the keys of the dedicated tokens in storage.
func (e *engine) leased() []string {
	e.t.Helper()
	keys, err := logical.CollectKeysWithPrefix(e.t.Context(), e.storage, "lease/")
	require.NoError(e.t, err)
	return keys
}

// clean unloads the engine, and returns how long that took.
func (e *engine) clean() time.Duration {
	e.t.Helper()
	began := time.Now()
	e.backend.Cleanup(e.t.Context())
	assert.Less(e.t, time.Since(began), time.Second, "Vault holds a lock meanwhile")
	return time.Since(began)
}

const anotherToken = "another-refresh-token"

// asked are the scopes that Kensho was asked for, call by call.
func (e *engine) asked() []string {
	e.t.Helper()
	var scopes []string
	for _, call := range e.sim.Calls() {
		form, err := url.ParseQuery(call.Body)
		require.NoError(e.t, err)
		scopes = append(scopes, form.Get("scope"))
	}
	return scopes
}

// readFor reads a token that is to be good for at least so long.
func (e *engine) readFor(path, minTTL string) *logical.Response {
	e.t.Helper()
	resp, status, message := e.request(logical.ReadOperation, path, map[string]any{"min_ttl": minTTL})
	require.Equal(e.t, http.StatusOK, status, message)
	return resp
}

// damage makes an entry one that cannot be decoded.
func (e *engine) damage(key string) {
	e.t.Helper()
	require.NoError(e.t, e.storage.Put(e.t.Context(), &logical.StorageEntry{Key: key, Value: []byte("{")}))
}

// tick is one turn of Vault's rollback manager.
func (e *engine) tick() error {
	_, err := e.backend.HandleRequest(e.t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: e.storage})
	return err
}

// pass lets time pass, with a tick every minute.
func (e *engine) pass(d time.Duration) {
	e.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(time.Minute, time.Until(end)))
		require.NoError(e.t, e.tick())
	}
}

func (e *engine) refused(path string) (status int, message string) {
	e.t.Helper()
	_, status, message = e.request(logical.ReadOperation, path, nil)
	require.NotEqual(e.t, http.StatusOK, status)
	return status, message
}

func keyPair() map[string]any {
	return map[string]any{"client_id": clientID, "private_key": privateKeyPEM()}
}

func assertStorageEmpty(t *testing.T, e *engine) {
	t.Helper()
	left, err := logical.CollectKeys(t.Context(), e.storage)
	require.NoError(t, err)
	assert.Empty(t, left, "nothing is stored")
}

// keypair makes a key pair, and returns what is answered.
func (e *engine) keypair(name string, data map[string]any) *logical.Response {
	e.t.Helper()
	resp, status, message := e.request(logical.UpdateOperation, "keypair/"+name, data)
	require.Equal(e.t, http.StatusOK, status, message)
	declared := schema.GetResponseSchema(e.t, tokenbroker.Route(e.backend, "keypair/"+name), logical.UpdateOperation)
	schema.ValidateResponse(e.t, declared, resp, true)
	return resp
}

// pending makes a pair that is to take the active one's place, and returns what is
// answered of it, in the fields of an active one.
func (e *engine) pending(name string, data map[string]any) *logical.Response {
	e.t.Helper()
	resp := e.keypair(name, data)
	fields := map[string]any{}
	for field, value := range resp.Data {
		if of, isPending := strings.CutPrefix(field, "pending_"); isPending {
			fields[of] = value
		}
	}
	assert.Len(e.t, fields, 5)
	resp.Data = fields
	return resp
}

// publicKey is the key of an answer.
func publicKey(t *testing.T, answer any) any {
	t.Helper()
	block, rest := pem.Decode([]byte(answer.(string)))
	require.NotNil(t, block)
	assert.Empty(t, rest)
	assert.Equal(t, "PUBLIC KEY", block.Type)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	require.NoError(t, err)
	return key
}

// register has Kensho know the public half of an answer by a client ID.
func (e *engine) register(client string, answer any) {
	e.t.Helper()
	e.sim.AddClient(client, publicKey(e.t, answer).(*rsa.PublicKey), "")
}

// drop has a refresh drop the cached tokens first.
var drop = map[string]any{"drop": true}

// token reads a token without a lease, which its vendor must accept for ttl seconds.
func (e *engine) token(name string) *logical.Response {
	e.t.Helper()
	resp := e.read("token/" + name)
	require.Nil(e.t, resp.Secret)
	left := time.Until(e.sim.Death(resp.Data["access_token"].(string)))
	require.LessOrEqual(e.t, ttlOf(resp), left, "ttl is past the token's life")
	require.GreaterOrEqual(e.t, ttlOf(resp), time.Second)
	return resp
}

// as has an entry be of a format.
func (e *engine) as(version int, key string) {
	e.t.Helper()
	entry, err := e.storage.Get(e.t.Context(), key)
	require.NoError(e.t, err)
	require.NotNil(e.t, entry, key)
	fields := map[string]any{}
	require.NoError(e.t, json.Unmarshal(entry.Value, &fields))
	fields["version"] = version
	entry, err = logical.StorageEntryJSON(key, fields)
	require.NoError(e.t, err)
	require.NoError(e.t, e.storage.Put(e.t.Context(), entry))
}

// seeing mounts the engine again, in a server of its own.
func (e *engine) seeing(system logical.SystemView) {
	e.t.Helper()
	e.backend = tokenbroker.New(tokenbroker.Options{Transport: e.transport})
	require.NoError(e.t, e.backend.Setup(e.t.Context(), &logical.BackendConfig{Logger: e.logger, System: system, StorageView: e.storage}))
}

func ttlOf(resp *logical.Response) time.Duration {
	return time.Duration(resp.Data["ttl"].(int64)) * time.Second
}
