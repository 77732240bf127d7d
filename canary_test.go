package tokenbroker_test

import (
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
