package tokenbroker_test

import (
	"context"
	"fmt"
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

func TestExchangesAreCountedByProviderAndResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.AssertMetrics(map[string]string{
			`tokenbroker_exchanges_total{result="success",vendor="kensho"}`:  "0.0",
			`tokenbroker_exchanges_total{result="rejected",vendor="oauth2"}`: "0.0",
		})
		e.Sim.Behave(vendorsim.Conduct{Latency: 400 * time.Millisecond})
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey})
		e.Write("refresh/prod", nil)
		_, status, _ := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"client_id": "nobody"})
		require.Equal(t, http.StatusBadRequest, status)
		e.Sim.Behave(engine.Down())
		_, status, _ = e.Request(logical.UpdateOperation, "refresh/search", nil)
		require.Equal(t, http.StatusServiceUnavailable, status)
		e.AssertMetrics(map[string]string{
			`tokenbroker_exchanges_total{result="success",vendor="kensho"}`:             "2.0",
			`tokenbroker_exchanges_total{result="rejected",vendor="kensho"}`:            "1.0",
			`tokenbroker_exchanges_total{result="success",vendor="sitecore"}`:           "1.0",
			`tokenbroker_exchanges_total{result="unavailable",vendor="sitecore"}`:       "1.0",
			`tokenbroker_exchange_duration_seconds_count{vendor="kensho"}`:              "3",
			`tokenbroker_exchange_duration_seconds_bucket{vendor="kensho",le="0.25"}`:   "0",
			`tokenbroker_exchange_duration_seconds_bucket{vendor="kensho",le="0.5"}`:    "3",
			`tokenbroker_exchange_duration_seconds_bucket{vendor="kensho",le="+Inf"}`:   "3",
			`tokenbroker_exchange_duration_seconds_bucket{vendor="sitecore",le="+Inf"}`: "2",
		})
	})
}

func TestReadsAreCountedByResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		reads := func(cached, exchanged, stale, failed string) {
			t.Helper()
			e.AssertMetrics(map[string]string{
				`tokenbroker_reads_total{result="cached"}`:    cached,
				`tokenbroker_reads_total{result="exchanged"}`: exchanged,
				`tokenbroker_reads_total{result="stale"}`:     stale,
				`tokenbroker_reads_total{result="failed"}`:    failed,
			})
		}
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Creds("prod")
		e.Read("token/prod")
		reads("2.0", "0.0", "0.0", "0.0")
		e.Refused("creds/nobody")
		reads("2.0", "0.0", "0.0", "0.0") // a mistyped name does not count as a failure

		engine.Until(0, 50, 0)
		e.Creds("prod")
		reads("2.0", "1.0", "0.0", "0.0")

		engine.Until(1, 40, 0)
		e.Sim.Behave(vendorsim.Conduct{Latency: 5 * time.Second})
		e.Creds("prod")
		reads("2.0", "1.0", "1.0", "0.0") // the vendor is slow, and the cached token is still valid

		engine.Until(2, 30, 0)
		e.Sim.Behave(engine.Down())
		e.Creds("prod")
		e.Read("token/prod")
		reads("2.0", "1.0", "3.0", "0.0") // the second read did not call the vendor

		engine.Until(3, 0, 0)
		e.Refused("creds/prod")
		e.Refused("token/prod")
		reads("2.0", "1.0", "3.0", "2.0")
	})
}

func TestReadsThatFailBecauseOfTheClientAreNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Refused("token/mine") // the role is dedicated
		e.Sim.Behave(vendorsim.Conduct{Latency: time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, cancel)
		e.Write("config/oauth2/api", map[string]any{"verify": false})
		_, status, _ := e.RequestWithin(ctx, logical.ReadOperation, "creds/api", nil)
		require.NotEqual(t, http.StatusOK, status)
		time.Sleep(time.Minute)
		e.AssertMetrics(map[string]string{`tokenbroker_reads_total{result="failed"}`: "0.0"})
	})
}

func TestMetricsShowTheStateOfEachCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		const prod = `{name="prod",vendor="kensho"}`
		engine.Until(0, 30, 0)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "keepalive_interval": 0})
		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "scope": "discover,event"})
		e.Write("roles/events", map[string]any{"config": "search", "scope": "event"})
		e.Creds("events")
		engine.Until(0, 40, 0)
		require.NoError(t, e.Tick()) // loads the credentials that were not read
		e.AssertMetrics(map[string]string{
			`tokenbroker_token_expires_in_seconds{name="prod",scope="",vendor="kensho"}`:          "1199.0",
			`tokenbroker_token_expires_in_seconds{name="search",scope="",vendor="sitecore"}`:      "85800.0",
			`tokenbroker_token_expires_in_seconds{name="search",scope="event",vendor="sitecore"}`: "85800.0",
			"tokenbroker_credential_expires_in_seconds" + prod:                                    "604200.0",
			`tokenbroker_credential_expires_in_seconds{name="search",vendor="sitecore"}`:          "",
			"tokenbroker_credential_rejected" + prod:                                              "0.0",
			"tokenbroker_consecutive_failures" + prod:                                             "0.0",
			"tokenbroker_backoff_seconds" + prod:                                                  "0.0",
			`tokenbroker_consecutive_failures{name="search",vendor="sitecore"}`:                   "0.0",
		})

		engine.Until(1, 0, 5)
		e.Sim.RevokeCredential(engine.RefreshToken)
		e.Refused("creds/prod")
		time.Sleep(time.Minute)
		e.AssertMetrics(map[string]string{
			`tokenbroker_token_expires_in_seconds{name="prod",scope="",vendor="kensho"}`: "0.0",
			"tokenbroker_credential_rejected" + prod:                                     "1.0",
			"tokenbroker_consecutive_failures" + prod:                                    "1.0",
			"tokenbroker_backoff_seconds" + prod:                                         "240.0",
		})

		e.Restart()
		require.NoError(t, e.Tick())
		e.AssertMetrics(map[string]string{"tokenbroker_credential_rejected" + prod: "1.0"}) // also after a restart
		_, status, _ := e.Request(logical.DeleteOperation, "config/kensho/prod", nil)
		require.Equal(t, http.StatusOK, status)
		for series := range e.Metrics() {
			assert.NotContains(t, series, `name="prod"`, "a deleted credential has no series")
		}
	})
}

func TestSweepsAreTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Creds("prod")
		e.Sim.Behave(vendorsim.Conduct{Latency: 3 * time.Second})
		engine.Until(0, 50, 0)
		require.NoError(t, e.Tick())
		e.AssertMetrics(map[string]string{
			"tokenbroker_sweep_duration_seconds_count":            "1",
			`tokenbroker_sweep_duration_seconds_bucket{le="1.0"}`: "0",
			`tokenbroker_sweep_duration_seconds_bucket{le="5.0"}`: "1",
		})
	})
}

func TestMountsInOneProcessHaveSeparateMetrics(t *testing.T) {
	one, other := engine.New(t), engine.New(t)
	one.Write("config/kensho/prod", engine.KeyPairFields())
	one.AssertMetrics(map[string]string{`tokenbroker_exchanges_total{result="success",vendor="kensho"}`: "1.0"})
	other.AssertMetrics(map[string]string{
		`tokenbroker_exchanges_total{result="success",vendor="kensho"}`: "0.0",
		`tokenbroker_consecutive_failures{name="prod",vendor="kensho"}`: "",
	})
}

func TestARejectedScopeOfARoleDoesNotCountAgainstTheCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewNarrowed(t)
		e.Sim.Behave(engine.RefuseScope(engine.NerdScope))
		e.Creds("link")
		e.Refused("creds/nerd")
		const prod = `{name="prod",vendor="kensho"}`
		e.AssertMetrics(map[string]string{
			"tokenbroker_credential_rejected" + prod:                                                   "0.0",
			"tokenbroker_consecutive_failures" + prod:                                                  "0.0",
			"tokenbroker_backoff_seconds" + prod:                                                       "0.0",
			`tokenbroker_scope_rejected{name="prod",scope="` + engine.NerdScope + `",vendor="kensho"}`: "1.0",
			`tokenbroker_scope_rejected{name="prod",scope="` + engine.LinkScope + `",vendor="kensho"}`: "0.0",
			`tokenbroker_exchanges_total{result="rejected",vendor="kensho"}`:                           "1.0",
			`tokenbroker_token_expires_in_seconds{name="prod",scope="",vendor="kensho"}`:               "3600.0",
		})
	})
}

// An outage does not clear the rejection of a credential (guarantee 5).
func TestACredentialStaysRejectedUntilAnExchangeSucceeds(t *testing.T) {
	for name, rejects := range map[string]vendorsim.Conduct{
		"the credential": {Fault: vendorsim.Always(vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`))},
		"its scope":      engine.RefuseScope(engine.LinkScope),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				data := engine.KeyPairFields()
				data["scope"] = engine.LinkScope
				e.Write("config/kensho/prod", data)
				e.Events()
				rejected := func(want string, conduct vendorsim.Conduct) {
					t.Helper()
					e.Sim.Behave(conduct)
					e.Request(logical.UpdateOperation, "refresh/prod", nil)
					e.AssertMetrics(map[string]string{`tokenbroker_credential_rejected{name="prod",vendor="kensho"}`: want})
				}
				rejected("0.0", engine.Down())
				for range 2 {
					rejected("1.0", rejects)
					rejected("1.0", engine.Down())
					e.Restart()
					require.NoError(t, e.Tick())
					rejected("1.0", engine.Down())
				}
				events := 0
				for _, sent := range e.Events() {
					if sent.Kind == "tokenbroker/credential-rejected" {
						events++
					}
				}
				assert.Equal(t, 1, events)
				rejected("0.0", vendorsim.Conduct{})
				rejected("0.0", engine.Down())
			})
		})
	}
}

func TestMetricsShowUnusableAndUnsavedCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Write("config/kensho/other", engine.KeyPairFields())
		storage := e.BreakStorage()
		unsaved := `tokenbroker_unsaved{name="prod",vendor="kensho"}`
		unusable := `tokenbroker_credential_unusable{name="other"}`
		e.AssertMetrics(map[string]string{unsaved: "", unusable: ""})
		require.NoError(t, e.Tick())
		e.AssertMetrics(map[string]string{unsaved: "0.0", unusable: "0.0"})

		engine.Until(0, 50, 0)
		e.Damage("config/kensho/other")
		storage.Refuse.Store(true)
		e.Creds("prod")
		e.Backend.InvalidateKey(t.Context(), "config/kensho/other")
		require.NoError(t, e.Tick())
		e.AssertMetrics(map[string]string{
			unsaved: "1.0", unusable: "1.0",
			`tokenbroker_consecutive_failures{name="other",vendor="kensho"}`: "",
		})

		storage.Refuse.Store(false)
		time.Sleep(10 * time.Second)
		e.Creds("prod")
		_, status, _ := e.Request(logical.DeleteOperation, "config/kensho/other", nil)
		require.Equal(t, http.StatusOK, status)
		require.NoError(t, e.Tick())
		e.AssertMetrics(map[string]string{unsaved: "0.0", unusable: ""})
	})
}

// An exchange that yields a token whose lifetime is too short for a lease is a failure, and
// attempts back off (guarantee 4).
func TestTokensThatExpireTooSoonToLeaseCountAsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		data := engine.KeyPairFields()
		data["verify"] = false
		e.Write("config/kensho/prod", data)
		e.Sim.Behave(vendorsim.Conduct{Lifetime: time.Second})
		for range 1000 {
			e.Refused("creds/prod")
			time.Sleep(500 * time.Millisecond)
		}
		calls := e.Exchanges()
		assert.InDelta(t, 9, calls, 2, "1 s, 2 s, 4 s, … apart within 500 s")
		all := e.Metrics()
		assert.Equal(t, "0.0", all[`tokenbroker_exchanges_total{result="success",vendor="kensho"}`])
		assert.Equal(t, fmt.Sprintf("%d.0", calls), all[`tokenbroker_exchanges_total{result="invalid_response",vendor="kensho"}`])
		assert.Equal(t, fmt.Sprintf("%d.0", calls), all[`tokenbroker_consecutive_failures{name="prod",vendor="kensho"}`])

		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(6 * time.Minute)
		e.Creds("prod")
		e.AssertMetrics(map[string]string{`tokenbroker_consecutive_failures{name="prod",vendor="kensho"}`: "0.0"})
	})
}

func TestCanceledAndLimitedReadsAreNotFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Sim.Behave(vendorsim.Conduct{Latency: 5 * time.Second})
		written := make(chan struct{})
		go func() { // keeps the name locked
			defer close(written)
			e.Write("config/oauth2/api", map[string]any{"request_timeout": "20s", "verify": true})
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := e.Backend.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/mine", Storage: e.Storage})
		require.ErrorIs(t, err, context.Canceled)
		<-written
		e.Sim.Behave(vendorsim.Conduct{})
		for range 3 {
			e.Creds("mine")
		}
		status, _ := e.Refused("creds/mine")
		assert.Equal(t, http.StatusTooManyRequests, status)
		e.AssertMetrics(map[string]string{`tokenbroker_reads_total{result="failed"}`: "0.0"})
	})
}
