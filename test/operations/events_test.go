package operations_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestEachExchangeLogsOneLineAndSendsOneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Latency: 250 * time.Millisecond})
		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "scope": "discover,event"})
		assert.Equal(t, []map[string]any{{
			"@level": "info", "@message": "exchange succeeded", "mount": engine.MountPoint, "name": "search", "vendor": "sitecore",
			"result": "success", "duration": "250ms", "expire_time": "2000-01-02T00:00:00Z", "verification": true,
		}}, e.Lines())
		assert.Equal(t, []engine.SentEvent{{Kind: "tokenbroker/token-exchange", Metadata: map[string]any{
			"operation": "token-exchange", "modified": "true", "path": "creds/search", "data_path": "creds/search",
			"name": "search", "vendor": "sitecore", "result": "success", "expire_time": "2000-01-02T00:00:00Z",
		}}}, e.Events())

		e.Write("roles/events", map[string]any{"config": "search", "scope": "event"})
		e.Creds("events")
		lines := e.Lines()
		require.Len(t, lines, 1)
		assert.Equal(t, "event", lines[0]["scope"])
		require.Len(t, e.Events(), 1)

		for range 10 {
			e.Creds("search")
			e.Read("token/events")
		}
		assert.Empty(t, e.Lines(), "cached reads are not logged")
		assert.Empty(t, e.Events())
	})
}

func TestAFailedExchangeLogsAWarningWithTheNextAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(0, 10, 0)
		e.Sim.RevokeCredential(engine.RefreshToken)
		e.Lines()
		e.Events()
		e.Request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Equal(t, []map[string]any{{
			"@level": "warn", "@message": "exchange failed", "mount": engine.MountPoint, "name": "prod", "vendor": "kensho",
			"result": "rejected", "duration": "0s", "error": "link-streaming.kensho.com: 401 Unauthorized: the refresh token is not accepted",
			"failures": 1.0, "next_attempt": "2000-01-01T00:15:00Z",
		}}, e.Lines())
		exchange := map[string]any{
			"operation": "token-exchange", "modified": "false", "path": "creds/prod", "data_path": "creds/prod",
			"name": "prod", "vendor": "kensho", "result": "rejected",
		}
		assert.Equal(t, []engine.SentEvent{
			{Kind: "tokenbroker/token-exchange", Metadata: exchange},
			{Kind: "tokenbroker/credential-rejected", Metadata: map[string]any{
				"operation": "credential-rejected", "modified": "false", "path": "status/prod", "data_path": "status/prod",
				"name": "prod", "vendor": "kensho", "result": "rejected",
			}},
		}, e.Events())

		e.Restart()
		e.Request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Equal(t, []engine.SentEvent{{Kind: "tokenbroker/token-exchange", Metadata: exchange}}, e.Events(), "the rejection is reported once, also across a restart")

		e.Lines()
		_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": "mistyped"})
		require.Equal(t, http.StatusBadRequest, status)
		lines := e.Lines()
		require.Len(t, lines, 1)
		assert.Equal(t, "with the next write", lines[0]["next_attempt"], "the engine does not repeat a verification")
		require.Len(t, e.Events(), 1, "the rejected write stored no credential")

		e.Sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.Write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		e.Sim.RevokeCredential("another-refresh-token")
		e.Events()
		e.Request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Len(t, e.Events(), 2, "a credential that has worked since is reported again")
	})
}

func TestACredentialThatExpiresSoonSendsOneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "keepalive_interval": 0})
		e.Events()
		e.Pass(5*24*time.Hour - 5*time.Minute)
		assert.Empty(t, e.Events())
		e.Pass(24 * time.Hour)
		expiring := engine.SentEvent{Kind: "tokenbroker/credential-expiring", Metadata: map[string]any{
			"operation": "credential-expiring", "modified": "false", "path": "status/prod", "data_path": "status/prod",
			"name": "prod", "vendor": "kensho", "expire_time": "2000-01-08T00:00:00Z",
		}}
		assert.Equal(t, []engine.SentEvent{expiring}, e.Events())

		e.Creds("prod") // extends the lifetime of the credential
		e.Events()
		e.Pass(6 * 24 * time.Hour)
		sent := e.Events()
		require.Len(t, sent, 1, "the next event comes when it is about to expire again")
		assert.Equal(t, expiring.Kind, sent[0].Kind)
	})
}

// An event announces that readers get a new token, so the token must be stored by then.
func TestAnEventIsSentAfterTheStorageWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		storage := e.BreakStorage()
		modified := func() (values []any) {
			for _, sent := range e.Events() {
				values = append(values, sent.Metadata["modified"])
			}
			return values
		}
		storage.Stall.Store(int64(3 * time.Second))
		writer := make(chan struct{})
		go func() {
			defer close(writer)
			e.Write("config/kensho/prod", engine.KeyPairFields())
		}()
		time.Sleep(2 * time.Second)
		assert.Empty(t, modified())
		<-writer
		assert.Equal(t, []any{"true"}, modified())
		storage.Stall.Store(0)

		data := engine.KeyPairFields()
		data["request_timeout"] = 20
		storage.Refuse.Store(true)
		_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/prod", data)
		require.Equal(t, http.StatusInternalServerError, status)
		assert.Equal(t, []any{"false"}, modified(), "verified but not stored")
		engine.Until(0, 50, 0)
		e.Creds("prod")
		assert.Equal(t, []any{"false"}, modified(), "exchanged but not stored")

		storage.Refuse.Store(false)
		_, status, _ = e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"client_id": "nobody"})
		require.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, []any{"false"}, modified(), "rejected")
		time.Sleep(10 * time.Second)
		engine.Until(1, 50, 0)
		e.Creds("prod")
		assert.Equal(t, []any{"true"}, modified())
	})
}
