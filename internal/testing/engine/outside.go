package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/canary"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// secretFields are those of requests, and of what is stored, that hold secrets.
var secretFields = []string{"access_token", "api_key", "client_secret", "private_key", "refresh_token"}

// A Log is what was logged. It may be read while the engine logs in the background.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Outside is all that leaves an engine: its log at the lowest level, its answers, and
// its events. Guarantee 6 is that no secret does but the access token, to its reader.
type Outside struct {
	mu     sync.Mutex
	text   bytes.Buffer
	cage   canary.Cage
	seen   int // how much of it lines has had
	events []SentEvent
}

// Write takes what the engine logs.
func (o *Outside) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *Outside) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: o, JSONFormat: true})
}

// Text returns what has left the engine so far. What the engine does in the background may add to
// it at any time.
func (o *Outside) Text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Reset drops what has left the engine so far.
func (o *Outside) Reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Reset()
	o.seen = 0
}

// SendEvent takes an event, as Vault does.
func (o *Outside) SendEvent(_ context.Context, kind logical.EventType, data *logical.EventData) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(append(text, '\n'))
	o.events = append(o.events, SentEvent{string(kind), data.Metadata.AsMap()})
	return nil
}

// Answered notes an answer, but for the access token that its reader is to have, and the
// secrets of the request.
func (o *Outside) Answered(t *testing.T, path string, request map[string]any, resp *logical.Response, message string) {
	t.Helper()
	var left logical.Response
	if resp != nil {
		left = *resp
		left.Data = withoutToken(path, resp.Data)
		if body, raw := left.Data[logical.HTTPRawBody].([]byte); raw {
			left.Data[logical.HTTPRawBody] = string(body)
		}
	}
	text, err := json.Marshal([]any{left, message})
	require.NoError(t, err)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(append(text, '\n'))
	o.cage.Add(secretsOf(request)...)
}

// withoutToken is what is answered at a path beside the access token, which may leave by
// two paths alone.
func withoutToken(path string, data map[string]any) map[string]any {
	rest := maps.Clone(data)
	if strings.HasPrefix(path, "creds/") || strings.HasPrefix(path, "token/") {
		delete(rest, "access_token")
	}
	return rest
}

// Leaks are the secrets outside, of those that the vendors and storage know.
func (o *Outside) Leaks(t *testing.T, e *Engine) []string {
	t.Helper()
	o.cage.Add(RefreshToken, APIKey, ClientSecret, PrivateKeyPEM())
	o.cage.Add(e.Sim.Secrets()...)
	for _, stored := range e.Dump() {
		var entry any
		if json.Unmarshal([]byte(stored), &entry) == nil { // one may have been damaged
			o.cage.Add(secretsOf(entry)...)
		}
	}
	o.mu.Lock() // for whoever has still something to say
	defer o.mu.Unlock()
	return o.cage.Escaped(o.text.String())
}

// secretsOf are the values of secret fields, however deep they are.
func secretsOf(value any) []string {
	var found []string
	switch value := value.(type) {
	case map[string]any:
		for name, field := range value {
			if text, ok := field.(string); ok && slices.Contains(secretFields, name) {
				found = append(found, strings.TrimSpace(text))
			}
			found = append(found, secretsOf(field)...)
		}
	case []any:
		for _, element := range value {
			found = append(found, secretsOf(element)...)
		}
	}
	return found
}

// SentEvent is one that was sent.
type SentEvent struct {
	Kind     string
	Metadata map[string]any
}

// Events are those since the last call.
func (e *Engine) Events() []SentEvent {
	synctest.Wait() // nobody else waits for them
	e.Outside.mu.Lock()
	defer e.Outside.mu.Unlock()
	sent := e.Outside.events
	e.Outside.events = nil
	return sent
}

// Lines are what the engine has logged since the last call at info and above.
func (e *Engine) Lines() []map[string]any {
	e.T.Helper()
	e.Outside.mu.Lock()
	defer e.Outside.mu.Unlock()
	text := e.Outside.text.String()
	var lines []map[string]any
	for line := range strings.Lines(text[e.Outside.seen:]) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && (entry["@level"] == "info" || entry["@level"] == "warn" || entry["@level"] == "error") {
			delete(entry, "@timestamp")
			lines = append(lines, entry)
		}
	}
	e.Outside.seen = len(text)
	return lines
}

// Witness hears everything that an engine answers, but for access tokens where they
// belong, and everything that it logs.
type Witness struct {
	mu     sync.Mutex
	said   strings.Builder
	logged Log
}

// Listen has an engine begin anew, and log at every level.
func (w *Witness) Listen(e *Engine) {
	e.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &w.logged})
	e.Restart()
}

// heard returns what the engine answered and logged so far.
func (w *Witness) heard() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return map[string]string{"an answer": w.said.String(), "the log": w.logged.String()}
}

// Hear takes an answer of the engine.
func (w *Witness) Hear(t *testing.T, path string, resp *logical.Response, message string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintln(&w.said, message)
	if resp == nil {
		return
	}
	heard := *resp
	heard.Data = withoutToken(path, resp.Data)
	// As a client sees it, and as it is: what has been escaped twice is no less a leak.
	raw, err := json.Marshal(heard)
	require.NoError(t, err)
	fmt.Fprintln(&w.said, string(raw), heard.Data, heard.Warnings)
	if heard.Secret != nil {
		fmt.Fprintln(&w.said, heard.Secret.InternalData)
	}
}

// Leaks are how many secrets were heard: of those that an operator wrote, and of those
// that a vendor was sent or has made.
func (w *Witness) Leaks(e *Engine, written []string) int {
	e.T.Helper()
	var cage canary.Cage
	for _, secret := range slices.Concat(written, e.Sim.Secrets(), sentBasic(e.Sim.Calls())) {
		cage.Add(secret)
		if len(secret) >= 2*endSize {
			cage.Add(secret[:endSize], secret[len(secret)-endSize:])
		}
	}
	// Those that vendors are made to repeat, in all the ways that they are.
	for _, secret := range written {
		for _, encode := range vendorsim.Encodings {
			cage.Add(encode(secret))
		}
	}
	count := 0
	for what, text := range w.heard() {
		assert.NotEmpty(e.T, text)
		for _, leak := range cage.Escaped(text) {
			count++
			assert.Fail(e.T, "guarantee 6: a secret leaves", "%s holds %s", what, leak)
		}
	}
	return count
}

// Metrics are those of the engine, by series: name{label="value",…}.
func (e *Engine) Metrics() map[string]string {
	e.T.Helper()
	resp, status, message := e.Request(logical.ReadOperation, "metrics", nil)
	require.Equal(e.T, http.StatusOK, status, message)
	require.Equal(e.T, http.StatusOK, resp.Data[logical.HTTPStatusCode])
	require.Equal(e.T, "application/openmetrics-text; version=1.0.0; charset=utf-8", resp.Data[logical.HTTPContentType])
	text := string(resp.Data[logical.HTTPRawBody].([]byte))
	require.True(e.T, strings.HasSuffix(text, "\n# EOF\n"), "OpenMetrics ends so, or is not all there")
	series := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if split := strings.LastIndexByte(line, ' '); !strings.HasPrefix(line, "#") {
			series[line[:split]] = line[split+1:]
		}
	}
	return series
}

// AssertMetrics looks at some of the series; "" is of one that there must not be.
func (e *Engine) AssertMetrics(wanted map[string]string) {
	e.T.Helper()
	all := e.Metrics()
	for series, value := range wanted {
		assert.Equal(e.T, value, all[series], series)
	}
}

// sentBasic are what clients have proved themselves by in a header.
func sentBasic(calls []vendorsim.Call) []string {
	var sent []string
	for _, call := range calls {
		if basic, ok := strings.CutPrefix(call.Header.Get("Authorization"), "Basic "); ok {
			sent = append(sent, basic)
		}
	}
	return sent
}

// endSize is how much of a secret's beginning or end is a leak already.
const endSize = 16
