//go:build e2e

package e2e

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

// The engine behaves alike on in-memory and Raft storage. Each step builds on those before it. On
// Raft, the server is sealed and unsealed after each step, which stops the plugin, and the tokens
// must be served again.
func TestAllStorageBackendsBehaveAlike(t *testing.T) {
	t.Parallel()
	for storage, start := range map[string]starter{"in memory": vaultserver.StartDev, "raft": vaultserver.StartRaft} {
		t.Run(storage, func(t *testing.T) {
			t.Parallel()
			own := ownWorld(t, start)
			m := own.enable(t, "kensho")
			readable := map[string]bool{}
			for _, line := range []struct {
				what     string
				do       func(*mount)
				readable map[string]bool // names that can be read from now on (true), or no longer (false)
			}{
				{"credentials are written", writeCredentials, map[string]bool{"prod": true, "batch": true, "search": true}},
				{"a token is leased", leaseToken, nil},
				{"a token is read without a lease", readToken, nil},
				{"roles are written", writeRoles, map[string]bool{"app": true, "narrow": true}},
				{"a token is refreshed", replaceToken, nil},
				{"a status is read", readStatus, nil},
				{"names are listed", listNames, nil},
				{"a role and a credential are deleted", deleteBoth, map[string]bool{"app": false, "prod": false}},
				{"a key pair is generated and used", takeUpKeyPair, map[string]bool{"archive": true}},
				{"a key pair is rotated", rotateKeyPair, nil},
			} {
				t.Run(line.what, func(t *testing.T) {
					m := *m
					m.t = t
					line.do(&m)
					maps.Copy(readable, line.readable)
					m.acrossASeal(storage == "raft", readable)
				})
			}
		})
	}
}

// acrossASeal asserts that each readable name has the same token after a seal, that the others have
// none, and that no vendor was called.
func (m *mount) acrossASeal(seal bool, readable map[string]bool) {
	m.t.Helper()
	tokens := map[string]any{}
	for name, is := range readable {
		if is {
			tokens[name] = m.creds(name).Data["access_token"]
		}
	}
	calls := len(m.sim.Calls())
	if seal {
		require.NoError(m.t, m.root.Sys().SealWithContext(m.t.Context()))
		require.NoError(m.t, m.server.Unseal(m.t.Context()))
	}
	for name, is := range readable {
		if is {
			assert.Equal(m.t, tokens[name], m.creds(name).Data["access_token"], name)
			continue
		}
		_, err := m.root.Logical().ReadWithContext(m.t.Context(), m.path+"/creds/"+name)
		assertStatus(m.t, 400, "no role or credential named", err)
	}
	assert.Len(m.t, m.sim.Calls(), calls, "a vendor was called")
}

func writeCredentials(m *mount) {
	m.write("config/kensho/prod", m.kensho())
	m.write("config/kensho/batch", m.keyPair())
	search := m.sitecore()
	search["scope"] = "discover,event"
	m.write("config/sitecore/search", search)
	assert.Equal(m.t, []any{"refresh_token"}, m.read("config/kensho/prod").Data["secrets_set"])
}

func leaseToken(m *mount) {
	first, again := m.creds("prod"), m.creds("prod")
	assert.Equal(m.t, first.Data["access_token"], again.Data["access_token"])
	assert.NotEqual(m.t, first.LeaseID, again.LeaseID)
	require.NoError(m.t, m.root.Sys().RevokeWithContext(m.t.Context(), first.LeaseID))
	assert.False(m.t, m.leased(first.LeaseID))
	assert.True(m.t, m.leased(again.LeaseID))
}

func readToken(m *mount) {
	read := m.read("token/batch")
	assert.Empty(m.t, read.LeaseID)
	assert.Equal(m.t, m.creds("batch").Data["access_token"], read.Data["access_token"])
	assert.Equal(m.t, json.Number("3600"), read.Data["rotation_period"])
}

func writeRoles(m *mount) {
	m.write("roles/app", map[string]any{"config": "prod", "ttl": "5m"})
	m.write("roles/narrow", map[string]any{"config": "search", "scope": "event"})
	assert.Equal(m.t, 300, m.creds("app").LeaseDuration)
	assert.Equal(m.t, []any{"event"}, m.creds("narrow").Data["scope"])
}

func replaceToken(m *mount) {
	before := m.creds("prod").Data["access_token"]
	m.write("refresh/prod", nil)
	assert.NotEqual(m.t, before, m.creds("prod").Data["access_token"])
}

// readStatus checks the counts since the first step.
func readStatus(m *mount) {
	status := m.read("status/prod").Data
	assert.Equal(m.t, "ok", status["state"])
	assert.Equal(m.t, json.Number("2"), status["exchanges"])
}

func listNames(m *mount) {
	assert.Equal(m.t, []any{"batch", "prod", "search"}, m.list("config"))
	assert.Equal(m.t, []any{"batch", "prod"}, m.list("config/kensho"))
	assert.Equal(m.t, []any{"app", "narrow"}, m.list("roles"))
	assert.Equal(m.t, []any{"batch", "prod", "search"}, m.list("status"))
}

func deleteBoth(m *mount) {
	for _, path := range []string{"roles/app", "config/kensho/prod"} {
		_, err := m.root.Logical().DeleteWithContext(m.t.Context(), m.path+"/"+path)
		require.NoError(m.t, err)
	}
	assert.Equal(m.t, []any{"batch", "search"}, m.list("config"))
}

func takeUpKeyPair(m *mount) {
	m.write("keypair/archive", map[string]any{"key_type": "rsa-3072"})
	m.register("0oa3archive4", m.read("keypair/archive").Data["public_key"])
	generated := m.keyPair()
	delete(generated, "private_key")
	generated["private_key_source"], generated["client_id"] = "generated", "0oa3archive4"
	m.write("config/kensho/archive", generated)
	assert.Equal(m.t, []any{"archive"}, m.list("keypair"))
}

// rotateKeyPair rotates the key pair of the step before.
func rotateKeyPair(m *mount) {
	before := m.creds("archive").Data["access_token"]
	m.write("keypair/archive", nil)
	pending := m.read("keypair/archive").Data
	activate := func(id string) error {
		_, err := m.root.Logical().WriteWithContext(m.t.Context(), m.path+"/keypair/archive/activate", map[string]any{"client_id": id})
		return err
	}
	assertStatus(m.t, 400, "the vendor rejected the credential", activate("0oa3archive4"))
	assert.Equal(m.t, before, m.creds("archive").Data["access_token"])

	m.register("0oa5archive6", pending["pending_public_key"])
	require.NoError(m.t, activate("0oa5archive6"))
	active := m.read("keypair/archive").Data
	assert.Equal(m.t, pending["pending_jwk"], active["jwk"])
	assert.NotContains(m.t, active, "pending_jwk")
	assert.NotEqual(m.t, before, m.creds("archive").Data["access_token"])
}

// register registers a public key with the simulated Kensho.
func (m *mount) register(id string, publicKey any) {
	m.t.Helper()
	key, err := jwt.ParseRSAPublicKeyFromPEM([]byte(publicKey.(string)))
	require.NoError(m.t, err)
	m.sim.AddClient(id, key, "")
}
