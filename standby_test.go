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
)

// A node is one server of a cluster: it runs the plugin in its role, on the cluster's
// storage. As on a real one, the plugin is served over gRPC, which keeps the text of an
// error and not its identity.
type node struct {
	*engine
	backend logical.Backend
	storage *moodyStorage
}

// newNode serves the plugin to a server of a role. Storage takes no write of a server that
// is not active.
func newNode(e *engine, role consts.ReplicationState, storage logical.Storage) *node {
	e.t.Helper()
	n := &node{engine: e, storage: &moodyStorage{Storage: storage}}
	system := *e.system
	system.ReplicationStateVal = role
	system.PluginEnvironment = &logical.PluginEnvironment{VaultVersion: "2.6.2"}
	if role != active {
		readOnly := func(c storageCall) mood {
			if c.writes() {
				return mood{err: logical.ErrReadOnly}
			}
			return mood{}
		}
		n.storage.meet.Store(&readOnly)
	}
	client, _ := plugin.TestPluginGRPCConn(e.t, false, plugin.PluginSet{
		sdkplugin.BackendPluginName: &sdkplugin.GRPCBackendPlugin{
			Logger: e.logger,
			Factory: func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
				b := tokenbroker.New(tokenbroker.Options{Transport: e.transport})
				return b, b.Setup(ctx, conf)
			},
		},
	})
	served, err := client.Dispense(sdkplugin.BackendPluginName)
	require.NoError(e.t, err)
	n.backend = served.(logical.Backend)
	e.t.Cleanup(func() {
		n.backend.Cleanup(context.Background())
		assert.NoError(e.t, client.Close())
	})
	require.NoError(e.t, n.backend.Setup(e.t.Context(), &logical.BackendConfig{
		Logger: e.logger, System: &system, StorageView: n.storage, BackendUUID: "test", EventsSender: e.outside,
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
	n.t.Helper()
	req.MountPoint, req.Data = mountPoint, maps.Clone(req.Data)
	if req.Operation == logical.CreateOperation || req.Operation == logical.UpdateOperation {
		_, _, err := n.backend.HandleExistenceCheck(n.t.Context(), &req)
		require.NoError(n.t, err, "%s %s", req.Operation, req.Path)
	}
	return n.backend.HandleRequest(n.t.Context(), &req)
}

// quiet fails the test if what is done on the node writes to storage or calls a vendor.
func (n *node) quiet(do func()) {
	n.t.Helper()
	calls := len(n.sim.Calls())
	do()
	assert.Len(n.t, n.sim.Calls(), calls, "no vendor is called")
	assert.Empty(n.t, slices.DeleteFunc(n.storage.calls(), func(c storageCall) bool { return !c.writes() }), "nothing is written")
}

// A cluster has one of everything that the engine stores.
type cluster struct {
	*engine
	shared, dedicated *logical.Response // leases that the active node gave
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{engine: newOAuthEngine(t)}
	c.write("config/kensho/prod", keyPair())
	c.write("config/sitecore/search", map[string]any{"api_key": apiKey})
	c.keypair("signing", map[string]any{"key_type": "ec-p256"})
	c.keypair("signing", nil)
	c.shared, c.dedicated = c.creds("api"), c.creds("mine")
	return c
}

// damaged is the cluster's storage with no entry that can be decoded.
func (c *cluster) damaged() logical.Storage {
	c.t.Helper()
	storage := &logical.InmemStorage{}
	for key := range c.dump() {
		require.NoError(c.t, storage.Put(c.t.Context(), &logical.StorageEntry{Key: key, Value: []byte(`{"active":7,"fields":[`)}))
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
func everyPath(e *engine) iter.Seq2[string, *framework.Path] {
	return func(yield func(string, *framework.Path) bool) {
		for _, path := range tokenbroker.Paths(e.backend) {
			for _, name := range []string{"api", "mine", "prod", "search", "signing", "unknown"} {
				if !yield(pathOf(e.t, e.backend, path, name), path) {
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
		for storageName, storage := range map[string]logical.Storage{"healthy": c.storage, "damaged": c.damaged()} {
			t.Run(roleName+" with "+storageName+" storage", func(t *testing.T) {
				n := newNode(c.engine, role, storage)
				forwarded := 0
				n.quiet(func() {
					for path, definition := range everyPath(c.engine) {
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
				for _, call := range n.storage.calls() {
					assert.Equal(t, "get", call.op, "only existence checks read storage")
				}
			})
		}
	}
}

// Help is the same on each node, so that a standby answers it.
func TestAStandbyAnswersHelpByItself(t *testing.T) {
	c := newCluster(t)
	n := newNode(c.engine, standby, c.storage)
	n.quiet(func() {
		_, err := n.handle(logical.Request{Operation: logical.HelpOperation})
		require.NoError(t, err)
		for path := range everyPath(c.engine) {
			_, err := n.handle(logical.Request{Operation: logical.HelpOperation, Path: path})
			require.NoError(t, err, path)
		}
	})
	assert.Empty(t, n.storage.calls())
}

// What the SDK does not forward: a server asks for it by itself, or about a lease.
func TestGuarantee11NoLeaseEndsOnAStandby(t *testing.T) {
	c := newCluster(t)
	for roleName, role := range readOnlyRoles {
		t.Run(roleName, func(t *testing.T) {
			n := newNode(c.engine, role, c.storage)
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
			assert.True(t, c.sim.Accepts(tokenOf(c.dedicated)))
		})
	}
	n := newNode(c.engine, active, c.storage)
	_, err := n.handle(logical.Request{Operation: logical.RevokeOperation, Secret: c.dedicated.Secret})
	require.NoError(t, err)
	assert.False(t, c.sim.Accepts(tokenOf(c.dedicated)), "the active node ends the same lease")
}

func TestGuarantee11AStandbyDoesNoBackgroundWork(t *testing.T) {
	c := newCluster(t)
	for roleName, role := range readOnlyRoles {
		for storageName, storage := range map[string]logical.Storage{"healthy": c.storage, "damaged": c.damaged()} {
			t.Run(roleName+" with "+storageName+" storage", func(t *testing.T) {
				n := newNode(c.engine, role, storage)
				n.quiet(func() {
					require.NoError(t, n.backend.Initialize(t.Context(), &logical.InitializationRequest{}))
					invalidated := []string{"", "/", "config", "config/", "config/oauth2", "config//", "role/", "unknown/api", "keypair/"}
					for _, key := range slices.AppendSeq(invalidated, maps.Keys(c.dump())) {
						_, err := n.handle(logical.Request{Operation: logical.RollbackOperation})
						require.NoError(t, err)
						n.backend.InvalidateKey(t.Context(), key)
					}
					n.backend.Cleanup(t.Context())
				})
				assert.Empty(t, n.storage.calls(), "not even a read")
			})
		}
	}
}
