package tokenbroker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
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
)

// secretFields are those of requests, and of what is stored, that hold secrets.
var secretFields = []string{"access_token", "api_key", "client_secret", "private_key", "refresh_token"}

// An outside is all that leaves an engine: its log at the lowest level, its answers, and
// its events. Promise 6 is that no secret does but the access token, to its reader.
type outside struct {
	mu     sync.Mutex
	text   bytes.Buffer
	cage   canary.Cage
	seen   int // how much of it lines has had
	events []sentEvent
}

func (o *outside) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *outside) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: o, JSONFormat: true})
}

// SendEvent takes an event, as Vault does.
func (o *outside) SendEvent(_ context.Context, kind logical.EventType, data *logical.EventData) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(append(text, '\n'))
	o.events = append(o.events, sentEvent{string(kind), data.Metadata.AsMap()})
	return nil
}

// answered notes an answer, but for the access token that its reader is to have, and the
// secrets of the request.
func (o *outside) answered(t *testing.T, path string, request map[string]any, resp *logical.Response, message string) {
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

// leaks are the secrets outside, of those that the vendors and storage know.
func (o *outside) leaks(t *testing.T, e *engine) []string {
	t.Helper()
	o.cage.Add(refreshToken, apiKey, clientSecret, privateKeyPEM())
	o.cage.Add(e.sim.Secrets()...)
	for _, stored := range e.dump() {
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

func TestTheCanariesOfTheTestsAreWatched(t *testing.T) {
	for name, leak := range map[string]func(*engine){
		"the log": func(e *engine) { e.logger.Trace("exchanged", "url", "https://v.example/?refreshToken="+refreshToken) },
		"a status": func(e *engine) {
			e.outside.answered(t, "status/prod", nil, &logical.Response{Data: map[string]any{"last_error": apiKey}}, "")
		},
		"an event": func(e *engine) {
			require.NoError(t, logical.SendEvent(t.Context(), e.outside, "tokenbroker/token-exchange", "error", refreshToken))
		},
		"the metrics": func(e *engine) {
			e.outside.answered(t, "metrics", nil, &logical.Response{Data: map[string]any{logical.HTTPRawBody: []byte("name=" + apiKey)}}, "")
		},
		"an error": func(e *engine) { e.outside.answered(t, "creds/prod", nil, nil, "bad key: "+privateKeyPEM()) },
		"a token in another field": func(e *engine) {
			token := e.creds("prod").Data["access_token"]
			e.outside.answered(t, "creds/prod", nil, &logical.Response{Data: map[string]any{"token": token}}, "")
		},
		"a token where none belongs": func(e *engine) {
			token := e.creds("prod").Data["access_token"]
			e.outside.answered(t, "config/kensho/prod", nil, &logical.Response{Data: map[string]any{"access_token": token}}, "")
		},
		"what the operator sent": func(e *engine) {
			e.outside.answered(t, "config/kensho/prod", map[string]any{"refresh_token": "sent-and-refused"}, nil, "sent-and-refused: is none")
		},
		"a generated key": func(e *engine) {
			e.keypair("made", nil)
			e.logger.Debug(e.dump()["keypair/made"])
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
				e.creds("prod")
				require.Empty(t, e.outside.leaks(t, e))
				leak(e)
				synctest.Wait() // until events are sent
				assert.NotEmpty(t, e.outside.leaks(t, e))
				e.outside.text.Reset()
			})
		})
	}
}
