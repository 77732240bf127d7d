package tokenbroker_test

import (
	"context"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	sdkplugin "github.com/hashicorp/vault/sdk/plugin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestATokenIsCachedUntilItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		require.Equal(t, 1, e.Exchanges(), "the write verifies the credential")

		first := e.Creds("prod").Data["access_token"]
		engine.Until(0, 59, 0)
		assert.Equal(t, first, e.Creds("prod").Data["access_token"])
		assert.Equal(t, 1, e.Exchanges())

		engine.Until(1, 0, 5)
		assert.NotEqual(t, first, e.Creds("prod").Data["access_token"])
		assert.Equal(t, 2, e.Exchanges())
	})
}

func TestACanceledReadDoesNotCancelTheExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 10, 0)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		e.Sim.Behave(vendorsim.Conduct{Latency: 2 * time.Second})

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := e.Backend.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/prod", Storage: e.Storage})
		require.ErrorIs(t, err, context.DeadlineExceeded)

		e.Creds("prod")
		assert.Equal(t, 1, e.Exchanges(), "the next read joins the exchange in flight")
	})
}

func TestTheFactoryAcceptsAnEmptyConfig(t *testing.T) {
	_, err := tokenbroker.Factory(t.Context(), &logical.BackendConfig{})
	assert.NoError(t, err, "Vault registers the plugin with an empty config")
}

func TestMountsShareFieldAndResponseSchemas(t *testing.T) {
	first, second := tokenbroker.Paths(tokenbroker.New(tokenbroker.Options{})), tokenbroker.Paths(tokenbroker.New(tokenbroker.Options{}))
	same := func(a, b any) bool { return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() }
	for i, path := range second {
		assert.True(t, same(path.Fields, first[i].Fields), path.Pattern)
		for operation, handler := range path.Operations {
			other := first[i].Operations[operation]
			assert.True(t, same(handler.Properties().Responses, other.Properties().Responses), "%s %s", operation, path.Pattern)
			assert.False(t, same(handler, other), "%s %s: each mount needs its own handler", operation, path.Pattern)
		}
	}
}

func TestAnInvalidatedEntryIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		older := e.Creds("prod").Data["access_token"]
		standby := e.Backend

		e.Restart() // acts as the active node on the same storage
		e.Write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		newer := e.Creds("prod").Data["access_token"]
		require.NotEqual(t, older, newer)

		active := e.Backend
		e.Backend = standby
		e.Backend.InvalidateKey(t.Context(), "config/kensho/prod")
		assert.Equal(t, newer, e.Creds("prod").Data["access_token"])

		e.Backend = active
		e.Write("refresh/prod", nil)
		newest := e.Creds("prod").Data["access_token"]
		require.NotEqual(t, newer, newest)
		e.Backend = standby
		e.Backend.InvalidateKey(t.Context(), "state/prod/own")
		assert.Equal(t, newest, e.Creds("prod").Data["access_token"])
	})
}

func TestAllSecretsThatAreStoredAreSealWrapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Write("refresh/prod", nil)
		e.Keypair("prod", nil)
		e.Write("clients/crm", map[string]any{
			"vendor": "oauth2", "grant_type": "refresh_token", "token_url": vendorsim.OAuthTokenURL, "authorization_url": "https://auth.example.com/authorize",
			"client_id": engine.ClientID, "client_secret": engine.ClientSecret, "redirect_uri": "https://vault.example.com/v1/saas/callback",
		})
		e.Write("config/oauth2/alice", map[string]any{"client": "crm"})
		e.Write("authorize/alice", nil)
		stored := e.Dump()
		require.Len(t, stored, 6)
		for key := range stored {
			assert.True(t, slices.ContainsFunc(e.Backend.SpecialPaths().SealWrapStorage, func(prefix string) bool {
				return strings.HasSuffix(prefix, "/") && strings.HasPrefix(key, prefix)
			}), key)
		}
	})
}

// node is one server of a cluster. It runs the plugin in its role on the cluster's storage.
// As on a real server, the plugin is served over gRPC, which keeps the text of an error but
// not its identity.
type node struct {
	*engine.Engine
	backend logical.Backend
	storage *engine.FaultyStorage
}

// newNode serves the plugin to a server in a replication role. Storage refuses the writes of
// a server that is not active.
func newNode(e *engine.Engine, role consts.ReplicationState, storage logical.Storage) *node {
	e.T.Helper()
	n := &node{Engine: e, storage: &engine.FaultyStorage{Storage: storage}}
	system := *e.System
	system.ReplicationStateVal = role
	system.PluginEnvironment = &logical.PluginEnvironment{VaultVersion: "2.6.2"}
	if role != active {
		readOnly := func(c engine.StorageCall) engine.Fault {
			if c.Writes() {
				return engine.Fault{Err: logical.ErrReadOnly}
			}
			return engine.Fault{}
		}
		n.storage.OnCall.Store(&readOnly)
	}
	client, _ := plugin.TestPluginGRPCConn(e.T, false, plugin.PluginSet{
		sdkplugin.BackendPluginName: &sdkplugin.GRPCBackendPlugin{
			Logger: e.Logger,
			Factory: func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
				b := tokenbroker.New(tokenbroker.Options{Transport: e.Transport})
				return b, b.Setup(ctx, conf)
			},
		},
	})
	served, err := client.Dispense(sdkplugin.BackendPluginName)
	require.NoError(e.T, err)
	n.backend = served.(logical.Backend)
	e.T.Cleanup(func() {
		n.backend.Cleanup(context.Background())
		assert.NoError(e.T, client.Close())
	})
	require.NoError(e.T, n.backend.Setup(e.T.Context(), &logical.BackendConfig{
		Logger: e.Logger, System: &system, StorageView: n.storage, BackendUUID: "test", EventsSender: e.Outside,
	}))
	return n
}

const (
	active    = consts.ReplicationPerformanceDisabled | consts.ReplicationDRDisabled
	standby   = active | consts.ReplicationPerformanceStandby
	secondary = consts.ReplicationPerformanceSecondary | consts.ReplicationDRDisabled
)

var readOnlyRoles = map[string]consts.ReplicationState{"standby": standby, "secondary": secondary}

// handle sends a request to the node's backend as Vault does: a write is preceded by an
// existence check.
func (n *node) handle(req logical.Request) (*logical.Response, error) {
	n.T.Helper()
	req.MountPoint, req.Data = engine.MountPoint, maps.Clone(req.Data)
	if req.Operation == logical.CreateOperation || req.Operation == logical.UpdateOperation {
		_, _, err := n.backend.HandleExistenceCheck(n.T.Context(), &req)
		require.NoError(n.T, err, "%s %s", req.Operation, req.Path)
	}
	return n.backend.HandleRequest(n.T.Context(), &req)
}

// quiet runs do, and fails the test if the node writes to storage or calls a vendor meanwhile.
func (n *node) quiet(do func()) {
	n.T.Helper()
	calls := len(n.Sim.Calls())
	do()
	assert.Len(n.T, n.Sim.Calls(), calls, "no vendor is called")
	assert.Empty(n.T, slices.DeleteFunc(n.storage.Calls(), func(c engine.StorageCall) bool { return !c.Writes() }), "nothing is written")
}

// cluster is an active node with at least one storage entry of each kind.
type cluster struct {
	*engine.Engine
	shared, dedicated *logical.Response // leases issued by the active node
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{Engine: engine.NewOAuth(t)}
	c.Write("config/kensho/prod", engine.KeyPairFields())
	c.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey})
	c.Keypair("signing", map[string]any{"key_type": "ec-p256"})
	c.Keypair("signing", nil)
	c.shared, c.dedicated = c.Creds("api"), c.Creds("mine")
	return c
}

// damaged returns a copy of the cluster's storage in which no entry can be decoded.
func (c *cluster) damaged() logical.Storage {
	c.T.Helper()
	storage := &logical.InmemStorage{}
	for key := range c.Dump() {
		require.NoError(c.T, storage.Put(c.T.Context(), &logical.StorageEntry{Key: key, Value: []byte(`{"active":7,"fields":[`)}))
	}
	return storage
}

// pathOf returns a path that the definition matches, with the given name in it.
func pathOf(t *testing.T, b logical.Backend, path *framework.Path, name string) string {
	t.Helper()
	concrete := strings.NewReplacer(apipath.NamePattern("name"), name, apipath.HostPattern("host"), name, framework.GenericNameRegex("vendor"), "kensho", "/?$", "/", "^", "", "$", "", `\.`, ".").Replace(path.Pattern)
	require.Same(t, path, tokenbroker.Route(b, concrete), "%s does not match %s: extend the replacements above", concrete, path.Pattern)
	return concrete
}

// everyPath yields each path definition with a concrete path for each kind of name.
func everyPath(e *engine.Engine) iter.Seq2[string, *framework.Path] {
	return func(yield func(string, *framework.Path) bool) {
		for _, path := range tokenbroker.Paths(e.Backend) {
			for _, name := range []string{"api", "mine", "prod", "search", "signing", "unknown"} {
				if !yield(pathOf(e.T, e.Backend, path, name), path) {
					return
				}
			}
		}
	}
}

// Requests with unknown fields are forwarded too: the active node may run a newer version of
// the plugin.
func TestGuarantee11EveryOperationIsForwardedToTheActiveNode(t *testing.T) {
	c := newCluster(t)
	for roleName, role := range readOnlyRoles {
		for storageName, storage := range map[string]logical.Storage{"healthy": c.Storage, "damaged": c.damaged()} {
			t.Run(roleName+" with "+storageName+" storage", func(t *testing.T) {
				n := newNode(c.Engine, role, storage)
				forwarded := 0
				n.quiet(func() {
					for path, definition := range everyPath(c.Engine) {
						require.Empty(t, definition.Callbacks, "%s: the SDK does not forward Callbacks", path)
						for operation := range definition.Operations {
							for _, data := range []map[string]any{nil, {"of_a_newer_version": "1"}} {
								_, err := n.handle(logical.Request{Operation: operation, Path: path, Data: data})
								assert.EqualError(t, err, logical.ErrReadOnly.Error(), "%s %s", operation, path)
								forwarded++
							}
						}
					}
				})
				assert.Greater(t, forwarded, 300)
				for _, call := range n.storage.Calls() {
					assert.Equal(t, "get", call.Op, "only existence checks read storage")
				}
			})
		}
	}
}

// Help is the same on every node, so a standby can answer it.
func TestAStandbyAnswersHelpByItself(t *testing.T) {
	c := newCluster(t)
	n := newNode(c.Engine, standby, c.Storage)
	n.quiet(func() {
		_, err := n.handle(logical.Request{Operation: logical.HelpOperation})
		require.NoError(t, err)
		for path := range everyPath(c.Engine) {
			_, err := n.handle(logical.Request{Operation: logical.HelpOperation, Path: path})
			require.NoError(t, err, path)
		}
	})
	assert.Empty(t, n.storage.Calls())
}

// The SDK does not forward these operations: the server sends them itself, or for a lease.
func TestGuarantee11NoLeaseEndsOnAStandby(t *testing.T) {
	c := newCluster(t)
	for roleName, role := range readOnlyRoles {
		t.Run(roleName, func(t *testing.T) {
			n := newNode(c.Engine, role, c.Storage)
			n.quiet(func() {
				revoke := func(secret *logical.Secret) error {
					_, err := n.handle(logical.Request{Operation: logical.RevokeOperation, Secret: secret})
					return err
				}
				require.EqualError(t, revoke(c.dedicated.Secret), logical.ErrReadOnly.Error())
				// Revoking a shared lease does nothing on any node: other readers have the token.
				require.NoError(t, revoke(c.shared.Secret))

				for _, damaged := range []map[string]any{
					nil, {}, {"secret_type": 7}, {"secret_type": "access_token"},
					{"secret_type": "access_token", "lease": 7}, {"secret_type": "access_token", "lease": "", "config": 7},
				} {
					_ = revoke(&logical.Secret{InternalData: damaged}) // must not panic
				}
				require.Error(t, revoke(nil))

				_, err := n.handle(logical.Request{Operation: logical.RenewOperation, Secret: c.dedicated.Secret})
				require.ErrorContains(t, err, logical.ErrUnsupportedOperation.Error())
				_, err = n.handle(logical.Request{Operation: logical.RotationOperation})
				require.ErrorContains(t, err, logical.ErrUnsupportedOperation.Error())
			})
			assert.True(t, c.Sim.Accepts(engine.TokenOf(c.dedicated)))
		})
	}
	n := newNode(c.Engine, active, c.Storage)
	_, err := n.handle(logical.Request{Operation: logical.RevokeOperation, Secret: c.dedicated.Secret})
	require.NoError(t, err)
	assert.False(t, c.Sim.Accepts(engine.TokenOf(c.dedicated)), "the active node revokes the same lease")
}

func TestGuarantee11AStandbyDoesNoBackgroundWork(t *testing.T) {
	c := newCluster(t)
	for roleName, role := range readOnlyRoles {
		for storageName, storage := range map[string]logical.Storage{"healthy": c.Storage, "damaged": c.damaged()} {
			t.Run(roleName+" with "+storageName+" storage", func(t *testing.T) {
				n := newNode(c.Engine, role, storage)
				n.quiet(func() {
					require.NoError(t, n.backend.Initialize(t.Context(), &logical.InitializationRequest{}))
					invalidated := []string{"", "/", "config", "config/", "config/oauth2", "config//", "role/", "unknown/api", "keypair/"}
					for _, key := range slices.AppendSeq(invalidated, maps.Keys(c.Dump())) {
						_, err := n.handle(logical.Request{Operation: logical.RollbackOperation})
						require.NoError(t, err)
						n.backend.InvalidateKey(t.Context(), key)
					}
					n.backend.Cleanup(t.Context())
				})
				assert.Empty(t, n.storage.Calls(), "storage is not read either")
			})
		}
	}
}
