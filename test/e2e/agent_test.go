//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// shortLived is how long the vendor's tokens live in these tests.
const shortLived = 20 * time.Second

// agentWorld has a mount at kensho, as the examples have it, with a provider's
// credential that has not been exchanged yet and whose tokens live 20 s, and an audit
// log.
func agentWorld(t *testing.T, provider string) *mount {
	t.Helper()
	own := ownWorld(t, vaultserver.StartDev)
	own.audit(t)
	m := own.enable(t, "kensho")
	m.behave(vendorsim.Conduct{KeyPairLifetime: shortLived})
	credential := m.keyPair()
	if provider == "sitecore" {
		credential = m.sitecore()
		credential["access_expiry"] = shortLived.String()
	}
	credential["verify"] = false
	m.write("config/"+provider+"/prod", credential)
	return m
}

// What Agent reads and how often, in the tests below.
//
// Leased, it reads again after 85 to 95 % of the lease. A token is leased for 18 s when
// it is fresh (5 % of what is left is the margin, and Vault's leases are whole
// seconds), so Agent comes back when it is 15.3 to 17.1 s old. From 15 s on it is due
// for a newer one. Whatever its age when it is read, that holds: 0.85 × (0.95 × what
// is left, less the second that rounding may cost) leaves it 15 s old or older.
//
// Lease-free, it reads again ttl and 1 s later, which is made to be when the token is
// 15 s old.
//
// So every read yields a token that Agent has not had before, and every exchange is one
// for Agent's read, or ahead of it: once a minute Vault has the engine renew what is
// due and in use, which may be in the 2 s until Agent comes. Its read gets that token
// then, so that as soon as Agent has read there are as many exchanges as reads. Such a
// token is up to 2.1 s old when it is read, and leased for 17 s or 18.
func TestGuarantee9AnAgentKeepsALivingTokenInAFile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		path, config, policy, provider string
		leased                         bool
	}{
		{path: "creds/prod", config: "file.hcl", provider: "kensho", policy: "app", leased: true},
		{path: "creds/prod", config: "file.hcl", provider: "sitecore", policy: "app", leased: true},
		{path: "token/prod", config: "lease-free.hcl", provider: "kensho", policy: "app-lease-free"},
		{path: "token/prod", config: "lease-free.hcl", provider: "sitecore", policy: "app-lease-free"},
	} {
		t.Run(c.provider+"/"+c.config, func(t *testing.T) {
			t.Parallel()
			m := agentWorld(t, c.provider)
			d := m.deploy(c.policy)
			d.run("agent", "-config="+c.config)
			rendered, late := d.follow("kensho-token", c.path, 3*time.Minute)

			// The file has just changed, so that Agent is not about to read.
			reads := m.reads(c.path)
			exchanges, _ := m.sim.Issued()
			assert.Equal(t, rendered, tokensOf(reads), "each read yields a token that was not there before")
			assert.Equal(t, len(reads), exchanges, "one exchange for each read")
			for i, r := range reads {
				assert.Equal(t, c.leased, r.lease != "", r.lease)
				assert.True(t, m.sim.Death(r.token).After(r.time), "read %d", i)
				if i > 0 { // how late Agent reads is the machine's business; leases are whole seconds
					due := m.sim.Death(reads[i-1].token).Add(-shortLived/4 - time.Second)
					assert.True(t, r.time.After(due), "read %d, at %s, before the last token was due for replacement, at %s", i, r.time, due)
				}
			}
			t.Logf("%d reads, %d exchanges, %d tokens in the file, %d of them replaced late", len(reads), exchanges, len(rendered), late)
		})
	}
}

// app is an application that takes its token from the environment: it records the one
// that it was started with, under its process ID, and does nothing else.
const app = `#!/bin/sh
printf %s "$KENSHO_TOKEN" >started/.$$ && mv started/.$$ started/$$ && exec sleep 600
`

// start is one of the application's.
type start struct {
	pid   int
	time  time.Time
	token string
}

func (d *deployment) starts() []start {
	d.t.Helper()
	entries, err := filepath.Glob(filepath.Join(d.dir, "started", "[0-9]*"))
	require.NoError(d.t, err)
	starts := make([]start, 0, len(entries))
	for _, entry := range entries {
		info, err := os.Stat(entry)
		require.NoError(d.t, err)
		token, err := os.ReadFile(entry)
		require.NoError(d.t, err)
		pid, err := strconv.Atoi(filepath.Base(entry))
		require.NoError(d.t, err)
		starts = append(starts, start{pid: pid, time: info.ModTime(), token: string(token)})
	}
	slices.SortFunc(starts, func(a, b start) int { return a.time.Compare(b.time) })
	return starts
}

func TestAnAgentRestartsAnApplicationForEachToken(t *testing.T) {
	t.Parallel()
	m := agentWorld(t, "kensho")
	d := m.deploy("app")
	require.NoError(t, os.Mkdir(filepath.Join(d.dir, "started"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(d.dir, "app"), []byte(app), 0o700))
	d.run("agent", "-config=exec.hcl")

	// Four restarts, 15.3 to 17.1 s apart. With each, Agent reads and then waits 2 s for
	// further changes, so that it is not about to read when the application starts.
	for deadline := time.Now().Add(patience); len(d.starts()) < 5; time.Sleep(100 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "the application is not restarted")
	}
	starts, reads := d.starts(), m.reads("creds/prod")
	exchanges, _ := m.sim.Issued()
	started := make([]string, 0, len(starts))
	for i, s := range starts {
		started = append(started, s.token)
		assert.True(t, m.sim.Death(s.token).After(s.time), "start %d, at %s: the token died at %s", i, s.time, m.sim.Death(s.token))
	}
	assert.Equal(t, tokensOf(reads), started, "one start for each token that was read")
	assert.Equal(t, len(reads), exchanges, "one exchange for each read")
	t.Logf("%d starts, %d reads, %d exchanges in %s", len(starts), len(reads), exchanges, starts[4].time.Sub(starts[0].time))

	for _, s := range starts[:4] {
		require.ErrorIs(t, syscall.Kill(s.pid, 0), syscall.ESRCH, "an application was left behind")
	}
	require.NoError(t, syscall.Kill(starts[4].pid, 0), "the application does not run")
}

func TestAProxyReadsForAnAppWithoutAVaultToken(t *testing.T) {
	m := enable(t, "kensho")
	m.write("config/kensho/prod", m.kensho())
	calls := len(m.sim.Calls())
	d := m.deploy("app")
	d.run("proxy", "-config=proxy.hcl")

	socket := filepath.Join(d.dir, "proxy.sock")
	config := api.DefaultConfig()
	config.Address, config.MaxRetries = "unix://"+socket, 0
	client, err := api.NewClient(config)
	require.NoError(t, err)
	client.ClearToken()
	awaitRead(t, client, "kensho/creds/prod", "permission denied") // which Proxy has when it has logged in
	secret, err := client.Logical().ReadWithContext(t.Context(), "kensho/creds/prod")
	require.NoError(t, err)
	assert.True(t, m.sim.Accepts(secret.Data["access_token"].(string)))
	assert.NotEmpty(t, secret.LeaseID)
	again, err := client.Logical().ReadWithContext(t.Context(), "kensho/creds/prod")
	require.NoError(t, err)
	assert.Equal(t, secret.Data["access_token"], again.Data["access_token"])
	assert.NotEqual(t, secret.LeaseID, again.LeaseID, "Proxy has none of a cache")
	assert.Len(t, m.sim.Calls(), calls, "the engine has")

	_, err = client.Logical().ReadWithContext(t.Context(), "kensho/config/kensho/prod")
	assertStatus(t, 403, "", err)
	info, err := os.Stat(socket)
	require.NoError(t, err)
	assert.Zero(t, info.Mode()&0o002, "not everybody may connect")
}
