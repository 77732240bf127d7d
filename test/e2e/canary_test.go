//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/canary"
	"vault-plugin-secrets-tokenbroker/internal/tally"
	"vault-plugin-secrets-tokenbroker/internal/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/vendorsim"
)

// Promise 6, of all that leaves a server: its log and its plugins' at the lowest level,
// panics and stack traces included, the audit log as Vault hashes it, and every answer to
// the root token's requests, which are those of the tests. The access token itself may
// leave by an answer, in the field of that name.

// canaries counts what has been looked for, in the whole run, and what was found.
var canaries struct{ watched, searched, found atomic.Int64 }

// watch has what leaves the server kept, beside its log.
func (w *world) watch(ctx context.Context) error {
	config := w.root.CloneConfig()
	config.HttpClient.Transport = &recorder{config.HttpClient.Transport, w.answers}
	root, err := api.NewClient(config)
	if err != nil {
		return err
	}
	root.SetToken(w.root.Token())
	w.root = root
	// In a file of its own, since a test may have one in the clear beside it.
	return w.root.Sys().EnableAuditWithOptionsWithContext(ctx, "hashed", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": w.hashedAuditLog()},
	})
}

func (w *world) hashedAuditLog() string { return filepath.Join(w.server.Dir(), "hashed-audit.log") }

// recorder keeps a copy of each answer.
type recorder struct {
	next http.RoundTripper
	to   io.Writer
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	_, writeErr := fmt.Fprintf(r.to, "%s %s: %s %v %s\n", req.Method, req.URL.Path, resp.Status, resp.Header, body)
	return resp, errors.Join(err, writeErr)
}

// accessToken is where an access token may stand, and the lease's own data with it.
var accessToken = regexp.MustCompile(`"access_token":"[^"]*"`)

// assertNoSecretLeft looks for all that the vendors know in all that has left the server.
func (w *world) assertNoSecretLeft(t *testing.T, vendors *vendorsim.Sim, more ...string) {
	t.Helper()
	audited, err := os.ReadFile(w.hashedAuditLog())
	require.NoError(t, err)
	require.NotEmpty(t, audited)
	var cage canary.Cage
	cage.Add(refreshToken, apiKey, privateKeyPEM())
	cage.Add(vendors.Secrets()...)
	cage.Add(more...)
	for where, text := range map[string]string{
		"the logs":        w.log.String(),
		"the audit log":   string(audited),
		"Vault's answers": accessToken.ReplaceAllString(w.answers.String(), ""),
	} {
		found := cage.Escaped(text)
		assert.Empty(t, found, "promise 6: secrets in %s", where)
		canaries.found.Add(int64(len(found)))
		canaries.searched.Add(int64(len(text)))
	}
	canaries.watched.Add(int64(cage.Len()))
}

// tallyCanaries records what the canaries of the whole run came to.
func tallyCanaries() error {
	return tally.Row{
		Fault: "secrets looked for in all that left a server",
		Tried: int(canaries.watched.Load()), Leaks: int(canaries.found.Load()),
		Note: fmt.Sprintf("in %d MiB of logs at trace, audit logs and answers", canaries.searched.Load()>>20),
	}.Append()
}

func TestFaultTheCanariesOfTheServerAreWatched(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartDev)
	m := own.enable(t, "watched")
	m.write("config/kensho/prod", m.kensho())
	token := m.creds("prod").Data["access_token"].(string)
	var cage canary.Cage
	cage.Add(token, refreshToken)
	assert.NotEmpty(t, cage.Escaped(own.answers.String()), "answers are kept")
	assert.Empty(t, cage.Escaped(accessToken.ReplaceAllString(own.answers.String(), "")))
	cage.Add("watched/config/kensho/prod")
	audited, err := os.ReadFile(own.hashedAuditLog())
	require.NoError(t, err)
	assert.NotEmpty(t, cage.Escaped(string(audited)), "requests are audited")
	assert.Contains(t, own.log.String(), "[TRACE]")
}

// A plugin that crashes prints the stacks of its goroutines, some of which hold secrets.
func TestFaultACrashLeavesNoSecretInItsTrace(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartDev)
	m := own.enable(t, "crash")
	times := tally.Times(3, 20)
	for i := range times {
		name := fmt.Sprintf("c%d", i)
		m.behave(vendorsim.Conduct{})
		m.write("config/kensho/"+name, m.kensho())
		m.write("config/sitecore/s"+name, m.sitecore())
		m.behave(vendorsim.Conduct{Latency: 2 * time.Second})
		for _, path := range []string{"crash/refresh/" + name, "crash/refresh/s" + name} {
			go func() { _, _ = own.root.Logical().WriteWithContext(context.WithoutCancel(t.Context()), path, nil) }()
		}
		require.Eventually(t, func() bool { return m.sim.InFlight() == 2 }, 10*time.Second, 10*time.Millisecond)
		plugins, err := own.server.Plugins()
		require.NoError(t, err)
		require.Len(t, plugins, 1)
		require.NoError(t, syscall.Kill(plugins[0], syscall.SIGABRT))
		require.Eventually(t, func() bool {
			_, err := own.root.Logical().ReadWithContext(t.Context(), "crash/status/"+name)
			return err == nil
		}, 30*time.Second, 50*time.Millisecond)
		require.Eventually(t, func() bool { return m.sim.InFlight() == 0 }, 10*time.Second, 10*time.Millisecond)
	}
	assert.Contains(t, own.log.String(), "SIGABRT: abort", "the trace is in the server's log")
	assert.Contains(t, own.log.String(), "provider.(*Client).Do", "and shows the exchange")
	own.assertNoSecretLeft(t, m.sim)
	tally.Record(t, tally.Row{Fault: "plugin aborted in mid-exchange, with its trace in the log", Tried: times})
}
