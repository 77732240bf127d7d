package tokenbroker_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestEachExchangeIsOneLineAndOneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.Behave(vendorsim.Conduct{Latency: 250 * time.Millisecond})
		e.write("config/sitecore/search", map[string]any{"api_key": apiKey, "scope": "discover,event"})
		assert.Equal(t, []map[string]any{{
			"@level": "info", "@message": "exchange succeeded", "mount": mountPoint, "name": "search", "provider": "sitecore",
			"result": "success", "duration": "250ms", "expire_time": "2000-01-02T00:00:00Z", "verification": true,
		}}, e.lines())
		assert.Equal(t, []sentEvent{{"tokenbroker/token-exchange", map[string]any{
			"operation": "token-exchange", "modified": "true", "path": "creds/search", "data_path": "creds/search",
			"name": "search", "provider": "sitecore", "result": "success", "expire_time": "2000-01-02T00:00:00Z",
		}}}, e.events())

		e.write("roles/events", map[string]any{"config": "search", "scope": "event"})
		e.creds("events")
		lines := e.lines()
		require.Len(t, lines, 1)
		assert.Equal(t, "event", lines[0]["scope"])
		require.Len(t, e.events(), 1)

		for range 10 {
			e.creds("search")
			e.read("token/events")
		}
		assert.Empty(t, e.lines(), "cached reads are nobody's news")
		assert.Empty(t, e.events())
	})
}

func TestAFailureIsAWarningWithTheNextAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(0, 10, 0)
		e.sim.RevokeCredential(refreshToken)
		e.lines()
		e.events()
		e.request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Equal(t, []map[string]any{{
			"@level": "warn", "@message": "exchange failed", "mount": mountPoint, "name": "prod", "provider": "kensho",
			"result": "rejected", "duration": "0s", "error": "link-streaming.kensho.com: 401 Unauthorized: the refresh token is not accepted",
			"failures": 1.0, "next_attempt": "2000-01-01T00:15:00Z",
		}}, e.lines())
		exchange := map[string]any{
			"operation": "token-exchange", "modified": "false", "path": "creds/prod", "data_path": "creds/prod",
			"name": "prod", "provider": "kensho", "result": "rejected",
		}
		assert.Equal(t, []sentEvent{
			{"tokenbroker/token-exchange", exchange},
			{"tokenbroker/credential-rejected", map[string]any{
				"operation": "credential-rejected", "modified": "false", "path": "status/prod", "data_path": "status/prod",
				"name": "prod", "provider": "kensho", "result": "rejected",
			}},
		}, e.events())

		e.restart()
		e.request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Equal(t, []sentEvent{{"tokenbroker/token-exchange", exchange}}, e.events(), "that it is rejected is no news any more, after a restart neither")

		e.lines()
		_, status, _ := e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": "mistyped"})
		require.Equal(t, http.StatusBadRequest, status)
		lines := e.lines()
		require.Len(t, lines, 1)
		assert.Equal(t, "with the next write", lines[0]["next_attempt"], "nobody repeats a verification but its operator")
		require.Len(t, e.events(), 1, "what was refused was not stored, and is no credential")

		e.sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		e.sim.RevokeCredential("another-refresh-token")
		e.events()
		e.request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Len(t, e.events(), 2, "once it has worked, it is")
	})
}

func TestACredentialThatIsGoingToDieIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "keepalive_interval": 0})
		e.events()
		e.pass(5*24*time.Hour - 5*time.Minute)
		assert.Empty(t, e.events())
		e.pass(24 * time.Hour)
		expiring := sentEvent{"tokenbroker/credential-expiring", map[string]any{
			"operation": "credential-expiring", "modified": "false", "path": "status/prod", "data_path": "status/prod",
			"name": "prod", "provider": "kensho", "expire_time": "2000-01-08T00:00:00Z",
		}}
		assert.Equal(t, []sentEvent{expiring}, e.events())

		e.creds("prod") // which saves it
		e.events()
		e.pass(6 * 24 * time.Hour)
		sent := e.events()
		require.Len(t, sent, 1, "until it is going to die again")
		assert.Equal(t, expiring.kind, sent[0].kind)
	})
}

// An event says that readers get another token, and so they do.
func TestAnEventComesAfterTheWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		modified := func() (values []any) {
			for _, sent := range e.events() {
				values = append(values, sent.metadata["modified"])
			}
			return values
		}
		storage.stall.Store(int64(3 * time.Second))
		writer := make(chan struct{})
		go func() {
			defer close(writer)
			e.write("config/kensho/prod", keyPair())
		}()
		time.Sleep(2 * time.Second)
		assert.Empty(t, modified())
		<-writer
		assert.Equal(t, []any{"true"}, modified())
		storage.stall.Store(0)

		data := keyPair()
		data["request_timeout"] = 20
		storage.refuse.Store(true)
		_, status, _ := e.request(logical.UpdateOperation, "config/kensho/prod", data)
		require.Equal(t, http.StatusInternalServerError, status)
		assert.Equal(t, []any{"false"}, modified(), "verified, and not stored")
		until(0, 50, 0)
		e.creds("prod")
		assert.Equal(t, []any{"false"}, modified(), "exchanged, and not stored")

		storage.refuse.Store(false)
		_, status, _ = e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"client_id": "nobody"})
		require.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, []any{"false"}, modified(), "rejected")
		time.Sleep(10 * time.Second)
		until(1, 50, 0)
		e.creds("prod")
		assert.Equal(t, []any{"true"}, modified())
	})
}
