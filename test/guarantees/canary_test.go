package guarantees_test

import (
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// The check that runs after every test finds a secret in each place where one can leak.
func TestHarnessDetectsLeakedSecrets(t *testing.T) {
	for name, leak := range map[string]func(*engine.Engine){
		"the log": func(e *engine.Engine) {
			e.Logger.Trace("exchanged", "url", "https://v.example/?refreshToken="+engine.RefreshToken)
		},
		"a status": func(e *engine.Engine) {
			e.Outside.Answered(t, "status/prod", nil, &logical.Response{Data: map[string]any{"last_error": engine.APIKey}}, "")
		},
		"an event": func(e *engine.Engine) {
			require.NoError(t, logical.SendEvent(t.Context(), e.Outside, "tokenbroker/token-exchange", "error", engine.RefreshToken))
		},
		"the metrics": func(e *engine.Engine) {
			e.Outside.Answered(t, "metrics", nil, &logical.Response{Data: map[string]any{logical.HTTPRawBody: []byte("name=" + engine.APIKey)}}, "")
		},
		"an error": func(e *engine.Engine) {
			e.Outside.Answered(t, "creds/prod", nil, nil, "bad key: "+engine.PrivateKeyPEM())
		},
		"a token in another field": func(e *engine.Engine) {
			token := e.Creds("prod").Data["access_token"]
			e.Outside.Answered(t, "creds/prod", nil, &logical.Response{Data: map[string]any{"token": token}}, "")
		},
		"a token in a config read": func(e *engine.Engine) {
			token := e.Creds("prod").Data["access_token"]
			e.Outside.Answered(t, "config/kensho/prod", nil, &logical.Response{Data: map[string]any{"access_token": token}}, "")
		},
		"a secret of the request": func(e *engine.Engine) {
			e.Outside.Answered(t, "config/kensho/prod", map[string]any{"refresh_token": "sent-and-refused"}, nil, "sent-and-refused: is none")
		},
		"a generated key": func(e *engine.Engine) {
			e.Keypair("made", nil)
			e.Logger.Debug(e.Dump()["keypair/made"])
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
				e.Creds("prod")
				require.Empty(t, e.Outside.Leaks(t, e))
				leak(e)
				synctest.Wait() // events are sent in the background
				assert.NotEmpty(t, e.Outside.Leaks(t, e))
				e.Outside.Reset()
			})
		})
	}
}
