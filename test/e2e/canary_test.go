//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/canary"
	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// This file checks guarantee 6 for everything that leaves a server: the log of the server and its
// plugins at the lowest level, including panics and stack traces; the audit log with Vault's
// hashes; and every answer to the tests' requests. Only the field access_token of an answer may
// have the access token.

// canaries counts the secrets watched and found, and the bytes searched, in the whole run.
var canaries struct{ watched, searched, found atomic.Int64 }

// watch records the server's answers to the root client and its hashed audit log.
func (w *world) watch(ctx context.Context) (err error) {
	if w.root, err = w.recorded(w.root); err != nil {
		return err
	}
	// The file is separate, because a test may also write an audit log without hashes.
	return w.root.Sys().EnableAuditWithOptionsWithContext(ctx, "hashed", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": w.hashedAuditLog()},
	})
}

func (w *world) hashedAuditLog() string { return filepath.Join(w.server.Dir(), "hashed-audit.log") }

// recorded returns a copy of a client whose answers are recorded.
func (w *world) recorded(client *api.Client) (*api.Client, error) {
	config := client.CloneConfig()
	config.HttpClient.Transport = &recorder{config.HttpClient.Transport, w.outside}
	next, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	next.SetToken(client.Token())
	return next, nil
}

// outside has the answers of a server, and the secrets in its requests and answers.
type outside struct {
	answers logBuffer
	mu      sync.Mutex
	secrets []string
}

// secretField matches a JSON field with a secret.
var secretField = regexp.MustCompile(`"(?:access_token|actor_token|api_key|client_secret|private_key|refresh_token|subject_token)":("(?:[^"\\]|\\.)*")`)

// accessToken matches the JSON field with the access token of a reader.
var accessToken = regexp.MustCompile(`"(access_token|http_header)":"[^"]*"`)

// record records an answer, without the access token in answers of creds/, token/ and exchange/ and in unwrapped
// answers.
func (o *outside) record(path, text string) error {
	o.addSecrets(text)
	if strings.Contains(path, "/creds/") || strings.Contains(path, "/token/") || strings.Contains(path, "/exchange/") || strings.HasSuffix(path, "/unwrap") {
		text = accessToken.ReplaceAllString(text, "")
	}
	_, err := io.WriteString(&o.answers, path+": "+text+"\n")
	return err
}

// add adds secrets.
func (o *outside) add(secrets ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.secrets = append(o.secrets, secrets...)
}

// addSecrets adds the secrets in a request or an answer.
func (o *outside) addSecrets(text string) {
	for _, match := range secretField.FindAllStringSubmatch(text, -1) {
		var secret string
		if json.Unmarshal([]byte(match[1]), &secret) == nil {
			o.add(secret)
		}
	}
}

// recorder records each answer, or the error instead of it.
type recorder struct {
	next http.RoundTripper
	to   *outside
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		sent, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		r.to.addSecrets(string(sent))
		req.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := r.next.RoundTrip(req)
	if err != nil {
		return nil, errors.Join(err, r.to.record(req.URL.Path, err.Error()))
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, errors.Join(err, r.to.record(req.URL.Path, fmt.Sprintf("%s %v %s", resp.Status, resp.Header, body)))
}

// returnOfBrowser matches the URL with which a browser returns from a consent. Vault's audit log has the
// URLs of requests as they are. The code in it is spent, and cannot be exchanged without the code_verifier,
// which does not leave the engine (docs/security.md).
var returnOfBrowser = regexp.MustCompile(`"request_uri":"[^"]*/callback\?[^"]*"`)

// assertNoSecretLeft searches everything that left the server for the vendors' secrets and those
// of the tests' requests.
func (w *world) assertNoSecretLeft(t *testing.T, vendors *vendorsim.Sim) {
	t.Helper()
	audited, err := os.ReadFile(w.hashedAuditLog())
	require.NoError(t, err)
	require.NotEmpty(t, audited)
	var cage canary.Cage
	cage.Add(refreshToken, apiKey, privateKeyPEM())
	cage.Add(vendors.Secrets()...)
	w.outside.mu.Lock()
	cage.Add(w.outside.secrets...)
	w.outside.mu.Unlock()
	for where, text := range map[string]string{
		"the logs":        w.log.String(),
		"the audit log":   returnOfBrowser.ReplaceAllString(string(audited), ""),
		"Vault's answers": w.outside.answers.String(),
	} {
		found := cage.Escaped(text)
		assert.Empty(t, found, "guarantee 6: secrets in %s", where)
		canaries.found.Add(int64(len(found)))
		canaries.searched.Add(int64(len(text)))
	}
	canaries.watched.Add(int64(cage.Len()))
}

// tallyCanaries records the canaries' results of the whole run.
func tallyCanaries() error {
	return tally.Row{
		Fault: "secrets searched for in everything that left a server",
		Tried: int(canaries.watched.Load()), Leaks: int(canaries.found.Load()),
		Note: fmt.Sprintf("in %d MiB of logs at trace, audit logs and answers", canaries.searched.Load()>>20),
	}.Append()
}

// The check for leaked secrets sees requests, answers, the audit log and the log at trace level.
func TestFaultHarnessDetectsSecretsThatTheServerLeaks(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartDev)
	m := own.enable(t, "watched")
	m.write("config/kensho/prod", m.kensho())
	token := m.creds("prod").Data["access_token"].(string)
	assert.Contains(t, own.outside.secrets, refreshToken, "the secrets of requests are watched")
	assert.Contains(t, own.outside.secrets, token, "the secrets of answers are watched")
	assert.Contains(t, own.outside.answers.String(), "/v1/watched/creds/prod: 200 OK")
	assert.NotContains(t, own.outside.answers.String(), token)
	require.NoError(t, own.outside.record("/v1/watched/config/kensho/prod", `{"access_token":"`+token+`"}`))
	assert.Contains(t, own.outside.answers.String(), token, "a token in a config read is searched")
	own.outside.answers.text.Reset()
	audited, err := os.ReadFile(own.hashedAuditLog())
	require.NoError(t, err)
	assert.Contains(t, string(audited), "watched/config/kensho/prod")
	assert.Contains(t, own.log.String(), "[TRACE]")
}

// Given exchanges in flight, the stack traces of a crashed plugin have no secret.
func TestFaultCrashTraceHasNoSecret(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartDev)
	m := own.enable(t, "crash")
	times := tally.Times(3, 20)
	for i := range times {
		name := fmt.Sprintf("c%d", i)
		m.behave(vendorsim.Conduct{})
		kensho, sitecore := m.kensho(), m.sitecore()
		kensho["request_timeout"], sitecore["request_timeout"] = "1m", "1m" // the maximum
		m.write("config/kensho/"+name, kensho)
		m.write("config/sitecore/s"+name, sitecore)
		m.behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
		var requests sync.WaitGroup
		for _, path := range []string{"crash/refresh/" + name, "crash/refresh/s" + name} {
			requests.Go(func() { _, _ = own.root.Logical().WriteWithContext(context.WithoutCancel(t.Context()), path, nil) })
		}
		require.Eventually(t, func() bool { return m.sim.InFlight() == 2 }, patience, 10*time.Millisecond)
		plugins, err := own.server.Plugins()
		require.NoError(t, err)
		require.Len(t, plugins, 1)
		// Vault repeats the requests with the next plugin process, where they must not hang.
		m.behave(vendorsim.Conduct{})
		require.NoError(t, syscall.Kill(plugins[0], syscall.SIGABRT))
		requests.Wait()
		awaitRead(t, own.root, "crash/status/"+name)
	}
	assert.Contains(t, own.log.String(), "SIGABRT: abort", "the trace is in the server's log")
	assert.Contains(t, own.log.String(), "provider.(*Client).Do", "the trace shows the exchange")
	own.assertNoSecretLeft(t, m.sim)
	tally.Record(t, tally.Row{Fault: "plugin aborted during an exchange, with its trace in the log", Tried: times})
}
