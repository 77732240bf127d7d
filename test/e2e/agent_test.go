//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// agentTokenLifetime is the lifetime of the vendor's tokens in these tests.
const agentTokenLifetime = 20 * time.Second

// agentWorld returns a mount at kensho, the path in the examples, on a server with an audit log.
// Its credential has not been exchanged yet.
func agentWorld(t *testing.T, provider string) *mount {
	t.Helper()
	own := ownWorld(t, vaultserver.StartDev)
	own.audit(t)
	m := own.enable(t, "kensho")
	m.behave(vendorsim.Conduct{Lifetime: agentTokenLifetime})
	credential := m.keyPair()
	if provider == "sitecore" {
		credential = m.sitecore()
		credential["access_expiry"] = agentTokenLifetime.String()
	}
	credential["verify"] = false
	m.write("config/"+provider+"/prod", credential)
	return m
}

// Each read of Agent gets a new token, and each exchange is for one read. The timing:
//
// With a lease, Agent reads again after 85 to 95 % of the lease. A new token is leased for 18 s:
// the margin is 5 % of its 20 s, and Vault's leases are whole seconds. Agent therefore returns
// when the token is 15.3 to 17.1 s old; the token is due for renewal from 15 s on. A token that is
// older when it is read is also at least 15 s old when Agent returns.
//
// Without a lease, Agent reads again 1 s after the ttl, when the token is 15 s old.
//
// The engine may renew the token in the 2 s before Agent returns, in its sweep once a minute. The
// read then gets that token, so that after each read there are as many exchanges as reads. Such
// a token is up to 2.1 s old when it is read, and leased for 17 or 18 s.
func TestGuarantee9AgentKeepsAValidTokenInAFile(t *testing.T) {
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

			// The file has just changed, so Agent does not read now.
			reads := m.reads(c.path)
			exchanges, _ := m.sim.Issued()
			assert.Equal(t, rendered, tokensOf(reads), "each read gets a new token")
			assert.Equal(t, len(reads), exchanges, "one exchange for each read")
			for i, r := range reads {
				assert.Equal(t, c.leased, r.lease != "", r.lease)
				assert.True(t, m.sim.Expiry(r.token).After(r.time), "read %d", i)
				if i > 0 { // on a busy machine Agent may read late; leases are whole seconds
					due := m.sim.Expiry(reads[i-1].token).Add(-agentTokenLifetime/4 - time.Second)
					assert.True(t, r.time.After(due), "read %d, at %s, before the last token was due for renewal, at %s", i, r.time, due)
				}
			}
			t.Logf("%d reads, %d exchanges, %d tokens in the file, %d of them renewed late", len(reads), exchanges, len(rendered), late)
		})
	}
}

// The configuration of the systemd service, with the folders of the service in one of the test's.
func TestAgentOfTheServiceRendersTheToken(t *testing.T) {
	m := enable(t, "kensho")
	m.write("config/kensho/prod", m.kensho())
	d := m.deploy("app")
	config, err := os.ReadFile(filepath.Join(d.dir, "service.hcl"))
	require.NoError(t, err)
	local := strings.NewReplacer(
		`"/run/credentials/vault-agent-kensho.service/`, `"`, `"/etc/vault-agent-kensho/`, `"`, `"/run/vault-agent-kensho/`, `"`,
	).Replace(string(config))
	require.NotContains(t, local, `"/`)
	require.NoError(t, os.WriteFile(filepath.Join(d.dir, "service.hcl"), []byte(local), 0o600))

	cmd := m.server.Command(t.Context(), "", "agent", "-config=service.hcl", "-exit-after-auth")
	cmd.Dir = d.dir
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, string(output))
	file := filepath.Join(d.dir, "kensho-token")
	token, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.True(t, m.sim.Accepts(string(token)))
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o640), info.Mode().Perm(), "the group reads it")
}

// app is an application that takes its token from the environment. It writes the token to a file
// named after its process ID, and sleeps.
const app = `#!/bin/sh
printf %s "$KENSHO_TOKEN" >started/.$$ && mv started/.$$ started/$$ && exec sleep 600
`

// start is one start of the application.
type start struct {
	pid   int
	time  time.Time
	token string
}

// starts returns the starts so far, in order.
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

func TestAgentRestartsAnApplicationForEachToken(t *testing.T) {
	t.Parallel()
	m := agentWorld(t, "kensho")
	d := m.deploy("app")
	require.NoError(t, os.Mkdir(filepath.Join(d.dir, "started"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(d.dir, "app"), []byte(app), 0o700))
	d.run("agent", "-config=exec.hcl")

	// There are four restarts, 15.3 to 17.1 s apart. Before each, Agent waits 2 s after its read for
	// further changes, so it does not read when the application starts.
	for deadline := time.Now().Add(patience); len(d.starts()) < 5; time.Sleep(100 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "the application is not restarted")
	}
	starts, reads := d.starts(), m.reads("creds/prod")
	exchanges, _ := m.sim.Issued()
	started := make([]string, 0, len(starts))
	for i, s := range starts {
		started = append(started, s.token)
		assert.True(t, m.sim.Expiry(s.token).After(s.time), "start %d, at %s: the token expired at %s", i, s.time, m.sim.Expiry(s.token))
	}
	assert.Equal(t, tokensOf(reads), started, "one start for each token that was read")
	assert.Equal(t, len(reads), exchanges, "one exchange for each read")
	t.Logf("%d starts, %d reads, %d exchanges in %s", len(starts), len(reads), exchanges, starts[4].time.Sub(starts[0].time))

	for _, s := range starts[:4] {
		require.ErrorIs(t, syscall.Kill(s.pid, 0), syscall.ESRCH, "an earlier process is still running")
	}
	require.NoError(t, syscall.Kill(starts[4].pid, 0), "the application is not running")
}

func TestProxyReadsForAnApplicationWithoutAVaultToken(t *testing.T) {
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
	awaitRead(t, client, "kensho/creds/prod", "permission denied") // until Proxy has logged in
	secret, err := client.Logical().ReadWithContext(t.Context(), "kensho/creds/prod")
	require.NoError(t, err)
	assert.True(t, m.sim.Accepts(secret.Data["access_token"].(string)))
	assert.NotEmpty(t, secret.LeaseID)
	again, err := client.Logical().ReadWithContext(t.Context(), "kensho/creds/prod")
	require.NoError(t, err)
	assert.Equal(t, secret.Data["access_token"], again.Data["access_token"])
	assert.NotEqual(t, secret.LeaseID, again.LeaseID, "Proxy does not cache the lease")
	assert.Len(t, m.sim.Calls(), calls, "the engine caches the token")

	_, err = client.Logical().ReadWithContext(t.Context(), "kensho/config/kensho/prod")
	assertStatus(t, 403, "", err)
	info, err := os.Stat(socket)
	require.NoError(t, err)
	assert.Zero(t, info.Mode()&0o002, "other users may connect")
}
