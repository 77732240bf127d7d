package tokenbroker_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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

func TestATokenIsServedFromTheCacheUntilItDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		require.Equal(t, 1, e.exchanges(), "the exchange that verified the credential")

		first := e.creds("prod").Data["access_token"]
		until(0, 59, 0)
		assert.Equal(t, first, e.creds("prod").Data["access_token"])
		assert.Equal(t, 1, e.exchanges())

		until(1, 0, 5)
		assert.NotEqual(t, first, e.creds("prod").Data["access_token"])
		assert.Equal(t, 2, e.exchanges())
	})
}

func TestGuarantee10ATokenIsServedAgainAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		token := e.creds("prod").Data["access_token"]
		exchanges := e.exchanges()

		e.restart()
		assert.Equal(t, token, e.creds("prod").Data["access_token"])
		assert.Equal(t, exchanges, e.exchanges())
	})
}

func TestGuarantee2ReadersShareOneExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		before := e.exchanges()
		e.sim.Behave(vendorsim.Conduct{Latency: 500 * time.Millisecond})

		var readers sync.WaitGroup
		for range 100 {
			readers.Go(func() { e.creds("prod") })
		}
		readers.Wait()
		assert.Equal(t, before+1, e.exchanges())
		assert.Equal(t, 1, e.sim.MostInFlight())
	})
}

func TestAReaderWhoHangsUpTakesNobodyDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		until(0, 10, 0)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "verify": false})
		e.sim.Behave(vendorsim.Conduct{Latency: 2 * time.Second})

		impatient, hangUp := context.WithTimeout(t.Context(), time.Second)
		defer hangUp()
		_, err := e.backend.HandleRequest(impatient, &logical.Request{Operation: logical.ReadOperation, Path: "creds/prod", Storage: e.storage})
		require.ErrorIs(t, err, context.DeadlineExceeded)

		e.creds("prod")
		assert.Equal(t, 1, e.exchanges(), "the next reader joins the exchange that was under way")
	})
}

func TestGuarantee8AConfigWriteCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		older := e.creds("prod").Data["access_token"]

		e.write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		newer := e.creds("prod").Data["access_token"]
		assert.NotEqual(t, older, newer)
		e.restart()
		assert.Equal(t, newer, e.creds("prod").Data["access_token"], "after a restart too")
	})
}

func TestGuarantee8ADeletedConfigHasNoTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.creds("prod")

		_, status, _ := e.request(logical.DeleteOperation, "config/kensho/prod", nil)
		require.Equal(t, 200, status)
		_, status, message := e.request(logical.ReadOperation, "creds/prod", nil)
		assert.Equal(t, 400, status)
		assert.Contains(t, message, `"prod" is no role and no credential`)
		left, err := logical.CollectKeys(t.Context(), e.storage)
		require.NoError(t, err)
		assert.Empty(t, left)
	})
}

func TestTheFactoryTouchesNothing(t *testing.T) {
	_, err := tokenbroker.Factory(t.Context(), &logical.BackendConfig{})
	assert.NoError(t, err, "Vault calls it with an empty config to register the plugin")
}

func TestMountsShareWhatTheirPathsTakeAndAnswer(t *testing.T) {
	first, second := tokenbroker.Paths(tokenbroker.New(tokenbroker.Options{})), tokenbroker.Paths(tokenbroker.New(tokenbroker.Options{}))
	same := func(a, b any) bool { return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() }
	for i, path := range second {
		assert.True(t, same(path.Fields, first[i].Fields), path.Pattern)
		for operation, handler := range path.Operations {
			other := first[i].Operations[operation]
			assert.True(t, same(handler.Properties().Responses, other.Properties().Responses), "%s %s", operation, path.Pattern)
			assert.False(t, same(handler, other), "%s %s: what answers is each mount's own", operation, path.Pattern)
		}
	}
}

func TestWhatAnotherNodeWroteIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		older := e.creds("prod").Data["access_token"]
		standby := e.backend

		e.restart() // the active node, on the same storage
		e.write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		newer := e.creds("prod").Data["access_token"]
		require.NotEqual(t, older, newer)

		active := e.backend
		e.backend = standby
		e.backend.InvalidateKey(t.Context(), "config/kensho/prod")
		assert.Equal(t, newer, e.creds("prod").Data["access_token"])

		e.backend = active
		e.write("refresh/prod", nil)
		newest := e.creds("prod").Data["access_token"]
		require.NotEqual(t, newer, newest)
		e.backend = standby
		e.backend.InvalidateKey(t.Context(), "state/prod/own")
		assert.Equal(t, newest, e.creds("prod").Data["access_token"])
	})
}

func TestAllSecretsThatAreStoredAreSealWrapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.write("refresh/prod", nil)
		e.keypair("prod", nil)
		stored, err := logical.CollectKeys(t.Context(), e.storage)
		require.NoError(t, err)
		require.Len(t, stored, 3)
		for _, key := range stored {
			assert.True(t, slices.ContainsFunc(e.backend.SpecialPaths().SealWrapStorage, func(prefix string) bool {
				return strings.HasSuffix(prefix, "/") && strings.HasPrefix(key, prefix)
			}), key)
		}
	})
}
