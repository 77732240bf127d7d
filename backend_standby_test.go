package tokenbroker_test

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	sdkplugin "github.com/hashicorp/vault/sdk/plugin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// A node is one server of a cluster: it runs the plugin in its role, on the cluster's
// storage. As on a real one, the plugin is served over gRPC, which keeps the text of an
// error and not its identity.
type node struct {
	*engine.Engine
	backend logical.Backend
	storage *engine.FaultyStorage
}

// newNode serves the plugin to a server of a role. Storage takes no write of a server that
// is not active.
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

// handle has the node answer a request, as its server does after it has checked whether
// what is written exists.
func (n *node) handle(req logical.Request) (*logical.Response, error) {
	n.T.Helper()
	req.MountPoint, req.Data = engine.MountPoint, maps.Clone(req.Data)
	if req.Operation == logical.CreateOperation || req.Operation == logical.UpdateOperation {
		_, _, err := n.backend.HandleExistenceCheck(n.T.Context(), &req)
		require.NoError(n.T, err, "%s %s", req.Operation, req.Path)
	}
	return n.backend.HandleRequest(n.T.Context(), &req)
}

// quiet fails the test if what is done on the node writes to storage or calls a vendor.
func (n *node) quiet(do func()) {
	n.T.Helper()
	calls := len(n.Sim.Calls())
	do()
	assert.Len(n.T, n.Sim.Calls(), calls, "no vendor is called")
	assert.Empty(n.T, slices.DeleteFunc(n.storage.Calls(), func(c engine.StorageCall) bool { return !c.Writes() }), "nothing is written")
}

// A cluster has one of everything that the engine stores.
type cluster struct {
	*engine.Engine
	shared, dedicated *logical.Response // leases that the active node gave
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

// damaged is the cluster's storage with no entry that can be decoded.
func (c *cluster) damaged() logical.Storage {
	c.T.Helper()
	storage := &logical.InmemStorage{}
	for key := range c.Dump() {
		require.NoError(c.T, storage.Put(c.T.Context(), &logical.StorageEntry{Key: key, Value: []byte(`{"active":7,"fields":[`)}))
	}
	return storage
}

// pathOf is a path that a definition matches.
func pathOf(t *testing.T, b logical.Backend, path *framework.Path, name string) string {
	t.Helper()
	concrete := strings.NewReplacer(framework.GenericNameRegex("name"), name, "/?$", "/", "^", "", "$", "").Replace(path.Pattern)
	require.Same(t, path, tokenbroker.Route(b, concrete), "%s is not matched by %s: this test has to fill in its pattern", concrete, path.Pattern)
	return concrete
}

// everyPath yields a path of each definition for each kind of name, and the definition.
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

// An unknown field does not keep a request from being forwarded: the active node may run a
// newer version of the plugin.
func TestGuarantee11EveryOperationIsForwardedToTheActiveNode(t *testing.T) {
	c := newCluster(t)
	for roleName, role := range readOnlyRoles {
		for storageName, storage := range map[string]logical.Storage{"healthy": c.Storage, "damaged": c.damaged()} {
			t.Run(roleName+" with "+storageName+" storage", func(t *testing.T) {
				n := newNode(c.Engine, role, storage)
				forwarded := 0
				n.quiet(func() {
					for path, definition := range everyPath(c.Engine) {
						require.Empty(t, definition.Callbacks, "%s: the SDK does not forward what is defined by Callbacks", path)
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

// Help is the same on each node, so that a standby answers it.
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

// What the SDK does not forward: a server asks for it by itself, or about a lease.
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
				// There is nothing to end, on no node: other readers have the same token.
				require.NoError(t, revoke(c.shared.Secret))

				for _, damaged := range []map[string]any{
					nil, {}, {"secret_type": 7}, {"secret_type": "access_token"},
					{"secret_type": "access_token", "lease": 7}, {"secret_type": "access_token", "lease": "", "config": 7},
				} {
					_ = revoke(&logical.Secret{InternalData: damaged}) // which must not panic
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
	assert.False(t, c.Sim.Accepts(engine.TokenOf(c.dedicated)), "the active node ends the same lease")
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
				assert.Empty(t, n.storage.Calls(), "not even a read")
			})
		}
	}
}
