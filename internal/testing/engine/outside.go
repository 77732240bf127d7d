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

// secretFields are the names of the secret fields of requests and storage entries.
var secretFields = []string{"access_token", "api_key", "client_secret", "private_key", "refresh_token", "subject_token", "actor_token"}

// Log collects what an engine logs. It may be read while the engine logs in the background.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write appends a part of the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns the log so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Outside collects everything that leaves an engine: its log at every level, its responses and its
// events. By guarantee 6 it has no secret, except the access token in a read of that token.
type Outside struct {
	mu     sync.Mutex
	text   bytes.Buffer
	cage   canary.Cage
	seen   int // bytes of text that Lines has returned
	events []SentEvent
}

// Write appends a part of the engine's log.
func (o *Outside) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *Outside) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: o, JSONFormat: true})
}

// Text returns everything that has left the engine so far. Background work may add to it at any
// time.
func (o *Outside) Text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Reset discards what has left the engine so far.
func (o *Outside) Reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Reset()
	o.seen = 0
}

// SendEvent records an event. It implements logical.EventSender.
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

// Answered records a response without the access token that its reader may have, and adds the
// request's secrets to those that Leaks looks for.
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

// withoutToken returns the data of a response without the access token, its header and its query parameter,
// which only creds/, token/ and exchange/ may return.
func withoutToken(path string, data map[string]any) map[string]any {
	rest := maps.Clone(data)
	if strings.HasPrefix(path, "creds/") || strings.HasPrefix(path, "token/") || strings.HasPrefix(path, "exchange/") {
		delete(rest, "access_token")
		delete(rest, "http_header")
		delete(rest, "query_parameter")
	}
	return rest
}

// Leaks returns the secrets found outside, of those that the tests, requests, vendors and storage
// have.
func (o *Outside) Leaks(t *testing.T, e *Engine) []string {
	t.Helper()
	o.cage.Add(RefreshToken, APIKey, ClientSecret, PrivateKeyPEM())
	o.cage.Add(e.Sim.Secrets()...)
	for _, stored := range e.Dump() {
		var entry any
		if json.Unmarshal([]byte(stored), &entry) == nil { // a test may have damaged the entry
			o.cage.Add(secretsOf(entry)...)
		}
	}
	o.mu.Lock() // background work may still log
	defer o.mu.Unlock()
	return o.cage.Escaped(o.text.String())
}

// secretsOf returns the values of the secret fields at any depth of a decoded value.
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

// SentEvent is an event that the engine sent.
type SentEvent struct {
	Kind     string
	Metadata map[string]any
}

// Events returns the events since the last call.
func (e *Engine) Events() []SentEvent {
	synctest.Wait() // events are sent in the background
	e.Outside.mu.Lock()
	defer e.Outside.mu.Unlock()
	sent := e.Outside.events
	e.Outside.events = nil
	return sent
}

// Lines returns the log entries since the last call, at info and above.
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

// Witness records the responses and the log of an engine, without access tokens in reads of them.
// Unlike Outside, it also searches for parts and encodings of secrets.
type Witness struct {
	mu        sync.Mutex
	responses strings.Builder
	logged    Log
}

// Attach restarts an engine with its log, at every level, going to the witness.
func (w *Witness) Attach(e *Engine) {
	e.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &w.logged})
	e.Restart()
}

// recorded returns the responses and the log so far, by their names in messages.
func (w *Witness) recorded() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return map[string]string{"a response": w.responses.String(), "the log": w.logged.String()}
}

// Record records a response of the engine.
func (w *Witness) Record(t *testing.T, path string, resp *logical.Response, message string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintln(&w.responses, message)
	if resp == nil {
		return
	}
	shown := *resp
	shown.Data = withoutToken(path, resp.Data)
	// Record the data as JSON and as Go values, because escaping may hide a secret.
	raw, err := json.Marshal(shown)
	require.NoError(t, err)
	fmt.Fprintln(&w.responses, string(raw), shown.Data, shown.Warnings)
	if shown.Secret != nil {
		fmt.Fprintln(&w.responses, shown.Secret.InternalData)
	}
}

// Leaks returns the number of secrets in what was recorded, of those that an operator wrote and
// those that a vendor received or issued. It fails the test for each.
func (w *Witness) Leaks(e *Engine, written []string) int {
	e.T.Helper()
	var cage canary.Cage
	for _, secret := range slices.Concat(written, e.Sim.Secrets(), sentBasic(e.Sim.Calls())) {
		cage.Add(secret)
		if len(secret) >= 2*endSize {
			cage.Add(secret[:endSize], secret[len(secret)-endSize:])
		}
	}
	// Vendors repeat written secrets in each of these encodings.
	for _, secret := range written {
		for _, encode := range vendorsim.Encodings {
			cage.Add(encode(secret))
		}
	}
	count := 0
	for what, text := range w.recorded() {
		assert.NotEmpty(e.T, text)
		for _, leak := range cage.Escaped(text) {
			count++
			assert.Fail(e.T, "guarantee 6: a secret leaves", "%s holds %s", what, leak)
		}
	}
	return count
}

// MetricsText returns the engine's metrics, with those of each name.
func (e *Engine) MetricsText() string {
	e.T.Helper()
	resp, status, message := e.Request(logical.ReadOperation, "metrics", map[string]any{"names": "all"})
	require.Equal(e.T, http.StatusOK, status, message)
	require.Equal(e.T, http.StatusOK, resp.Data[logical.HTTPStatusCode])
	require.Equal(e.T, "application/openmetrics-text; version=1.0.0; charset=utf-8", resp.Data[logical.HTTPContentType])
	text := string(resp.Data[logical.HTTPRawBody].([]byte))
	require.True(e.T, strings.HasSuffix(text, "\n# EOF\n"), "OpenMetrics text is incomplete without its end")
	return text
}

// Metrics returns the values of the engine's metrics by series: name{label="value",…}.
func (e *Engine) Metrics() map[string]string {
	e.T.Helper()
	series := map[string]string{}
	for line := range strings.Lines(e.MetricsText()) {
		line = strings.TrimSpace(line)
		if split := strings.LastIndexByte(line, ' '); !strings.HasPrefix(line, "#") {
			series[line[:split]] = line[split+1:]
		}
	}
	return series
}

// AssertMetrics asserts the values of some series. A value of "" means that the series must not
// exist.
func (e *Engine) AssertMetrics(expected map[string]string) {
	e.T.Helper()
	all := e.Metrics()
	for series, value := range expected {
		assert.Equal(e.T, value, all[series], series)
	}
}

// sentBasic returns the HTTP Basic credentials of the calls, base64-encoded as sent.
func sentBasic(calls []vendorsim.Call) []string {
	var sent []string
	for _, call := range calls {
		if basic, ok := strings.CutPrefix(call.Header.Get("Authorization"), "Basic "); ok {
			sent = append(sent, basic)
		}
	}
	return sent
}

// endSize is the number of bytes at the beginning or end of a secret that count as a leak.
const endSize = 16
