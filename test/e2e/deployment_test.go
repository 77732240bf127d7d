//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

// ownWorld returns a world that no other test uses.
func ownWorld(t *testing.T, start starter) *world {
	t.Helper()
	own, err := newWorld(t.Context(), start)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, own.server.Stop()) })
	return own
}

// deployment is a copy of examples/ in which Vault Agent runs. Its mount must be at kensho.
type deployment struct {
	*mount
	dir   string // examples/agent
	log   *logBuffer
	agent *vaultserver.Agent
}

// deploy copies the examples, and sets up their AppRole login with one of their policies.
func (m *mount) deploy(policy string) *deployment {
	m.t.Helper()
	root := m.t.TempDir()
	require.NoError(m.t, os.CopyFS(root, os.DirFS("../../examples")))
	d := &deployment{mount: m, dir: filepath.Join(root, "agent"), log: &logBuffer{}}
	d.sh("approle.sh", policy, "../policies/"+policy+".hcl")
	return d
}

// sh runs one of the examples' scripts as an administrator.
func (d *deployment) sh(script string, args ...string) {
	d.t.Helper()
	bin := d.t.TempDir()
	// The scripts call the server's binary vault, whatever its name.
	client := d.server.Command(d.t.Context(), d.server.Token)
	require.NoError(d.t, os.Symlink(client.Path, filepath.Join(bin, "vault")))
	cmd := exec.CommandContext(d.t.Context(), "sh", append([]string{script}, args...)...)
	cmd.Dir = d.dir
	cmd.Env = client.Env
	cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH"))
	output, err := cmd.CombinedOutput()
	require.NoError(d.t, err, string(output))
}

// run starts `vault agent` or `vault proxy`, which runs until the test ends.
func (d *deployment) run(args ...string) {
	d.t.Helper()
	agent, err := d.server.StartAgent(d.dir, d.log, args...)
	require.NoError(d.t, err)
	d.agent = agent
	d.t.Cleanup(func() {
		assert.NoError(d.t, agent.Stop())
		if d.t.Failed() {
			d.t.Log(d.log)
		}
	})
}

// audit enables an audit log without hashes.
func (w *world) audit(t *testing.T) {
	t.Helper()
	require.NoError(t, w.root.Sys().EnableAuditWithOptionsWithContext(t.Context(), "file", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": w.auditLog(), "log_raw": "true"},
	}))
}

func (w *world) auditLog() string { return filepath.Join(w.server.Dir(), "audit.log") }

// read is a read that Vault has answered.
type read struct {
	time  time.Time
	token string // the access token
	lease string
}

// reads returns the answered reads of a path of the mount so far, from Vault's audit log. It fails
// the test if one has failed.
func (m *mount) reads(path string) []read {
	m.t.Helper()
	_, answered := m.audited(path)
	return answered
}

// audited returns the times of all requests to read a path of the mount so far, and the reads that
// have been answered. It fails the test if one has failed.
func (m *mount) audited(path string) (asked []time.Time, answered []read) {
	m.t.Helper()
	content, err := os.ReadFile(m.auditLog())
	require.NoError(m.t, err)
	for line := range bytes.Lines(content) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			continue // not yet complete
		}
		var entry struct {
			Type, Error string
			Time        time.Time
			Request     struct{ Operation, Path string }
			Response    struct {
				Data   map[string]any
				Secret struct {
					LeaseID string `json:"lease_id"`
				}
			}
		}
		require.NoError(m.t, json.Unmarshal(line, &entry))
		if entry.Request.Path != m.path+"/"+path || entry.Request.Operation != "read" {
			continue
		}
		if entry.Type == "request" {
			asked = append(asked, entry.Time)
			continue
		}
		require.Empty(m.t, entry.Error)
		answered = append(answered, read{entry.Time, fmt.Sprint(entry.Response.Data["access_token"]), entry.Response.Secret.LeaseID})
	}
	return asked, answered
}

func tokensOf(reads []read) []string {
	tokens := make([]string, 0, len(reads))
	for _, r := range reads {
		tokens = append(tokens, r.token)
	}
	return tokens
}

// follow polls a file that Agent renders from a path, every 100 ms, for at least the given time
// and then until it changes once more. It returns the tokens in order. It fails the test if the
// file ever has a token that the vendor does not accept, unless Agent asked too late for the next
// one; late counts such tokens. A request before a token's margin (5 % of its lifetime) is answered
// before the token expires.
func (d *deployment) follow(file, path string, least time.Duration) (tokens []string, late int) {
	d.t.Helper()
	var begun time.Time
	lateTokens := map[string]bool{}
	giveUp := time.After(least + patience)
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-d.agent.Ended():
			require.Fail(d.t, "the Agent has ended")
		case <-giveUp:
			require.Fail(d.t, "the file changes no more", "after %d tokens", len(tokens))
		case <-poll.C:
		}
		content, err := os.ReadFile(filepath.Join(d.dir, file))
		if os.IsNotExist(err) && len(tokens) == 0 {
			continue // not rendered yet
		}
		require.NoError(d.t, err)
		token := string(content)
		if !d.sim.Accepts(token) {
			asked, answered := d.audited(path)
			expiry := d.sim.Expiry(token)
			require.False(d.t, expiry.IsZero(), "token %d is %q, which no vendor issued", len(tokens), token)
			for _, at := range asked[len(answered):] { // Agent reads one at a time
				require.True(d.t, at.After(expiry.Add(-agentTokenLifetime/20)), "token %d expired at %s, while a read of %s waits for the next", len(tokens), expiry, at)
			}
			lateTokens[token] = true
		}
		if len(tokens) > 0 && tokens[len(tokens)-1] == token {
			continue
		}
		if tokens = append(tokens, token); len(tokens) == 1 {
			begun = time.Now()
		}
		if time.Since(begun) >= least {
			return tokens, len(lateTokens)
		}
	}
}
