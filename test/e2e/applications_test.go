//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWrappedReadReturnsTheTokenOnce(t *testing.T) {
	m := enable(t, "wrapped")
	m.write("config/kensho/prod", m.kensho())
	reader := m.as(m.child(m.root, api.TokenCreateRequest{}))
	reader.SetWrappingLookupFunc(func(string, string) string { return "5m" })
	wrapped, err := reader.Logical().ReadWithContext(t.Context(), "wrapped/creds/prod")
	require.NoError(t, err)
	assert.Empty(t, wrapped.Data)
	assert.Empty(t, wrapped.LeaseID)
	require.NotNil(t, wrapped.WrapInfo)

	// The recipient of the wrapping token needs no policy.
	app := m.as("")
	secret, err := app.Logical().UnwrapWithContext(t.Context(), wrapped.WrapInfo.Token)
	require.NoError(t, err)
	assert.True(t, m.sim.Accepts(secret.Data["access_token"].(string)))
	assert.Greater(t, secret.LeaseDuration, 60*45)
	assert.True(t, m.leased(secret.LeaseID))
	_, err = app.Logical().UnwrapWithContext(t.Context(), wrapped.WrapInfo.Token)
	assertStatus(t, 400, "wrapping token is not valid", err)
}

// A lease of a batch token ends with that token, by Vault's own rule. Other readers' leases are
// not affected.
func TestBatchTokenCanRead(t *testing.T) {
	m := enable(t, "batch")
	m.write("config/kensho/prod", m.kensho())
	secret := m.readAs(m.child(m.root, api.TokenCreateRequest{Type: "batch", TTL: "5m"}))
	assert.LessOrEqual(t, secret.LeaseDuration, 5*60)
	assert.Positive(t, secret.LeaseDuration)
	assert.True(t, m.leased(secret.LeaseID))
	assert.Greater(t, m.creds("prod").LeaseDuration, 60*45, "another reader's lease has its full length")
}

// Vault revokes all leases of a revoked Vault token. Other readers have leases of the same access
// token, which must stay valid.
func TestRevokedVaultTokenAffectsNoOtherReader(t *testing.T) {
	m := enable(t, "children")
	m.write("config/kensho/prod", m.kensho())
	parent := m.child(m.root, api.TokenCreateRequest{})
	child := m.child(m.as(parent), api.TokenCreateRequest{})
	stranger := m.child(m.root, api.TokenCreateRequest{})
	calls := len(m.sim.Calls())
	own, parents, strangers := m.readAs(child), m.readAs(parent), m.readAs(stranger)

	require.NoError(t, m.root.Auth().Token().RevokeTreeWithContext(t.Context(), child))
	require.Eventually(t, func() bool { return !m.leased(own.LeaseID) }, patience, 50*time.Millisecond)
	for reader, secret := range map[string]*api.Secret{parent: parents, stranger: strangers} {
		assert.True(t, m.leased(secret.LeaseID))
		assert.True(t, m.sim.Accepts(secret.Data["access_token"].(string)))
		assert.Equal(t, secret.Data["access_token"], m.readAs(reader).Data["access_token"])
	}
	assert.Len(t, m.sim.Calls(), calls, "the vendor was called")
}

// Mount paths often have several segments, such as a namespace or data/.
func TestMountPathMayHaveSeveralSegments(t *testing.T) {
	m := enable(t, "teams/data/kensho")
	m.write("config/kensho/prod", m.kensho())
	m.write("roles/app", map[string]any{"config": "prod", "ttl": "5m"})
	for _, path := range []string{"config", "roles", "status"} {
		list, err := m.root.Logical().ListWithContext(t.Context(), m.path+"/"+path)
		require.NoError(t, err)
		assert.Len(t, list.Data["keys"], 1, path)
	}
	token := m.creds("prod").Data["access_token"]
	app := m.creds("app")
	assert.Equal(t, token, app.Data["access_token"])
	assert.Equal(t, token, m.read("token/prod").Data["access_token"])
	assert.True(t, m.leased(app.LeaseID))

	require.NoError(t, m.root.Sys().RevokeWithOptionsWithContext(t.Context(), &api.RevokeOptions{LeaseID: m.path + "/creds", Prefix: true, Sync: true}))
	assert.False(t, m.leased(app.LeaseID))
	leases, err := m.root.Logical().ListWithContext(t.Context(), "sys/leases/lookup/"+m.path+"/creds/prod")
	require.NoError(t, err)
	assert.Nil(t, leases)
	assert.Equal(t, token, m.creds("prod").Data["access_token"])
}

// One process serves all mounts of a plugin; changes of one mount do not affect another.
func TestMountsAreIsolated(t *testing.T) {
	one, two := enable(t, "one"), enable(t, "two")
	plugins, err := w.server.Plugins()
	require.NoError(t, err)
	assert.Len(t, plugins, 1)

	one.write("config/kensho/prod", one.kensho())
	two.write("config/kensho/prod", two.keyPair())
	one.write("config/sitecore/search", one.sitecore())
	one.write("roles/app", map[string]any{"config": "prod"})
	two.write("config/sitecore/app", two.sitecore()) // a role of this name is only in the other mount
	for _, name := range []string{"app", "search"} {
		one.creds(name)
	}
	ones, twos := one.creds("prod").Data["access_token"], two.creds("prod").Data["access_token"]
	apps := two.creds("app").Data["access_token"]
	assert.NotEqual(t, ones, twos)
	assert.NotEqual(t, twos, apps)
	calls := len(two.sim.Calls())
	undisturbed := func(after string) {
		t.Helper()
		assert.Equal(t, twos, two.creds("prod").Data["access_token"], after)
		assert.Equal(t, apps, two.creds("app").Data["access_token"], after)
		assert.Len(t, two.sim.Calls(), calls, "the vendor was called after %s", after)
		assert.Equal(t, []any{"app", "prod"}, two.list("config"), after)
		assert.Empty(t, two.list("roles"), after)
	}
	undisturbed("writes")
	_, err = two.root.Logical().ReadWithContext(t.Context(), "two/creds/search")
	assertStatus(t, 400, `no role or credential named "search"`, err)

	one.write("refresh/prod", nil)
	assert.NotEqual(t, ones, one.creds("prod").Data["access_token"])
	undisturbed("a refresh of the other")
	for _, path := range []string{"roles/app", "config/kensho/prod"} {
		_, err = one.root.Logical().DeleteWithContext(t.Context(), "one/"+path)
		require.NoError(t, err)
	}
	undisturbed("a delete of the other")
	require.NoError(t, one.root.Sys().RevokePrefixWithContext(t.Context(), "one/creds"))
	undisturbed("a revocation of the other's leases")
}

// as returns a client with another Vault token, or none.
func (m *mount) as(token string) *api.Client {
	m.t.Helper()
	client, err := m.root.Clone()
	require.NoError(m.t, err)
	client.SetToken(token)
	return client
}

// child creates a child token of the parent's token that may read creds/ and create tokens.
func (m *mount) child(parent *api.Client, request api.TokenCreateRequest) string {
	m.t.Helper()
	require.NoError(m.t, m.root.Sys().PutPolicyWithContext(m.t.Context(), "reader", `
path "+/creds/*" { capabilities = ["read"] }
path "auth/token/create" { capabilities = ["update"] }`))
	request.Policies = []string{"reader"}
	secret, err := parent.Auth().Token().CreateWithContext(m.t.Context(), &request)
	require.NoError(m.t, err)
	return secret.Auth.ClientToken
}

// readAs reads creds/prod with a Vault token.
func (m *mount) readAs(token string) *api.Secret {
	m.t.Helper()
	secret, err := m.as(token).Logical().ReadWithContext(m.t.Context(), m.path+"/creds/prod")
	require.NoError(m.t, err)
	return secret
}

// read reads a path that must exist.
func (m *mount) read(path string) *api.Secret {
	m.t.Helper()
	secret, err := m.root.Logical().ReadWithContext(m.t.Context(), m.path+"/"+path)
	require.NoError(m.t, err)
	require.NotNil(m.t, secret, path)
	return secret
}

// list returns the keys of a list, or nil if it is empty.
func (m *mount) list(path string) []any {
	m.t.Helper()
	secret, err := m.root.Logical().ListWithContext(m.t.Context(), m.path+"/"+path)
	require.NoError(m.t, err)
	if secret == nil {
		return nil
	}
	return secret.Data["keys"].([]any)
}

// leased reports whether Vault has a lease.
func (m *mount) leased(id string) bool {
	_, err := m.root.Sys().LookupWithContext(m.t.Context(), id)
	return err == nil
}
