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

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestExchangesAreCountedByProviderAndResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.assertMetrics(map[string]string{
			`tokenbroker_exchanges_total{provider="kensho",result="success"}`:  "0.0",
			`tokenbroker_exchanges_total{provider="oauth2",result="rejected"}`: "0.0",
		})
		e.sim.Behave(vendorsim.Conduct{Latency: 400 * time.Millisecond})
		e.write("config/kensho/prod", keyPair())
		e.write("config/sitecore/search", map[string]any{"api_key": apiKey})
		e.write("refresh/prod", nil)
		_, status, _ := e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"client_id": "nobody"})
		require.Equal(t, http.StatusBadRequest, status)
		e.sim.Behave(down())
		_, status, _ = e.request(logical.UpdateOperation, "refresh/search", nil)
		require.Equal(t, http.StatusServiceUnavailable, status)
		e.assertMetrics(map[string]string{
			`tokenbroker_exchanges_total{provider="kensho",result="success"}`:             "2.0",
			`tokenbroker_exchanges_total{provider="kensho",result="rejected"}`:            "1.0",
			`tokenbroker_exchanges_total{provider="sitecore",result="success"}`:           "1.0",
			`tokenbroker_exchanges_total{provider="sitecore",result="unavailable"}`:       "1.0",
			`tokenbroker_exchange_duration_seconds_count{provider="kensho"}`:              "3",
			`tokenbroker_exchange_duration_seconds_bucket{provider="kensho",le="0.25"}`:   "0",
			`tokenbroker_exchange_duration_seconds_bucket{provider="kensho",le="0.5"}`:    "3",
			`tokenbroker_exchange_duration_seconds_bucket{provider="kensho",le="+Inf"}`:   "3",
			`tokenbroker_exchange_duration_seconds_bucket{provider="sitecore",le="+Inf"}`: "2",
		})
	})
}

func TestReadsAreCountedByResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		reads := func(cached, exchanged, stale, failed string) {
			t.Helper()
			e.assertMetrics(map[string]string{
				`tokenbroker_reads_total{result="cached"}`:    cached,
				`tokenbroker_reads_total{result="exchanged"}`: exchanged,
				`tokenbroker_reads_total{result="stale"}`:     stale,
				`tokenbroker_reads_total{result="failed"}`:    failed,
			})
		}
		e.write("config/kensho/prod", keyPair())
		e.creds("prod")
		e.read("token/prod")
		reads("2.0", "0.0", "0.0", "0.0")
		e.refused("creds/nobody")
		reads("2.0", "0.0", "0.0", "0.0") // whoever mistypes a name has not been failed

		until(0, 50, 0)
		e.creds("prod")
		reads("2.0", "1.0", "0.0", "0.0")

		until(1, 40, 0)
		e.sim.Behave(vendorsim.Conduct{Latency: 5 * time.Second})
		e.creds("prod")
		reads("2.0", "1.0", "1.0", "0.0") // the vendor is slow, and it has a good token

		until(2, 30, 0)
		e.sim.Behave(down())
		e.creds("prod")
		e.read("token/prod")
		reads("2.0", "1.0", "3.0", "0.0") // the second did not even ask the vendor

		until(3, 0, 0)
		e.refused("creds/prod")
		e.refused("token/prod")
		reads("2.0", "1.0", "3.0", "2.0")
	})
}

func TestAReadThatFailsByItsReadersDoingIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.refused("token/mine") // which is dedicated
		e.sim.Behave(vendorsim.Conduct{Latency: time.Second})
		gone, leave := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, leave)
		e.write("config/oauth2/api", map[string]any{"verify": false})
		_, status, _ := e.requestWithin(gone, logical.ReadOperation, "creds/api", nil)
		require.NotEqual(t, http.StatusOK, status)
		time.Sleep(time.Minute)
		e.assertMetrics(map[string]string{`tokenbroker_reads_total{result="failed"}`: "0.0"})
	})
}

func TestMetricsTellHowEachCredentialIsDoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		const prod = `{name="prod",provider="kensho"}`
		until(0, 30, 0)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "keepalive_interval": 0})
		e.write("config/sitecore/search", map[string]any{"api_key": apiKey, "scope": "discover,event"})
		e.write("roles/events", map[string]any{"config": "search", "scope": "event"})
		e.creds("events")
		until(0, 40, 0)
		require.NoError(t, e.tick()) // which loads what nobody has read
		e.assertMetrics(map[string]string{
			`tokenbroker_token_expires_in_seconds{name="prod",provider="kensho",scope=""}`:          "1199.0",
			`tokenbroker_token_expires_in_seconds{name="search",provider="sitecore",scope=""}`:      "85800.0",
			`tokenbroker_token_expires_in_seconds{name="search",provider="sitecore",scope="event"}`: "85800.0",
			"tokenbroker_credential_expires_in_seconds" + prod:                                      "604200.0",
			`tokenbroker_credential_expires_in_seconds{name="search",provider="sitecore"}`:          "",
			"tokenbroker_credential_rejected" + prod:                                                "0.0",
			"tokenbroker_consecutive_failures" + prod:                                               "0.0",
			"tokenbroker_backoff_seconds" + prod:                                                    "0.0",
			`tokenbroker_consecutive_failures{name="search",provider="sitecore"}`:                   "0.0",
		})

		until(1, 0, 5)
		e.sim.RevokeCredential(refreshToken)
		e.refused("creds/prod")
		time.Sleep(time.Minute)
		e.assertMetrics(map[string]string{
			`tokenbroker_token_expires_in_seconds{name="prod",provider="kensho",scope=""}`: "0.0",
			"tokenbroker_credential_rejected" + prod:                                       "1.0",
			"tokenbroker_consecutive_failures" + prod:                                      "1.0",
			"tokenbroker_backoff_seconds" + prod:                                           "240.0",
		})

		e.restart()
		require.NoError(t, e.tick())
		e.assertMetrics(map[string]string{"tokenbroker_credential_rejected" + prod: "1.0"}) // a minute after a restart, too
		_, status, _ := e.request(logical.DeleteOperation, "config/kensho/prod", nil)
		require.Equal(t, http.StatusOK, status)
		for series := range e.metrics() {
			assert.NotContains(t, series, `name="prod"`, "what is deleted is gone")
		}
	})
}

func TestSweepsAreTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		e.creds("prod")
		e.sim.Behave(vendorsim.Conduct{Latency: 3 * time.Second})
		until(0, 50, 0)
		require.NoError(t, e.tick())
		e.assertMetrics(map[string]string{
			"tokenbroker_sweep_duration_seconds_count":            "1",
			`tokenbroker_sweep_duration_seconds_bucket{le="1.0"}`: "0",
			`tokenbroker_sweep_duration_seconds_bucket{le="5.0"}`: "1",
		})
	})
}

func TestTheMetricsOfMountsInOneProcessAreApart(t *testing.T) {
	one, other := newEngine(t), newEngine(t)
	one.write("config/kensho/prod", keyPair())
	one.assertMetrics(map[string]string{`tokenbroker_exchanges_total{provider="kensho",result="success"}`: "1.0"})
	other.assertMetrics(map[string]string{
		`tokenbroker_exchanges_total{provider="kensho",result="success"}`: "0.0",
		`tokenbroker_consecutive_failures{name="prod",provider="kensho"}`: "",
	})
}

func TestARefusedScopeOfARoleIsNotHeldAgainstItsCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newNarrowedEngine(t)
		e.sim.Behave(refuseScope(nerdScope))
		e.creds("link")
		e.refused("creds/nerd")
		const prod = `{name="prod",provider="kensho"}`
		e.assertMetrics(map[string]string{
			"tokenbroker_credential_rejected" + prod:                                              "0.0",
			"tokenbroker_consecutive_failures" + prod:                                             "0.0",
			"tokenbroker_backoff_seconds" + prod:                                                  "0.0",
			`tokenbroker_scope_rejected{name="prod",provider="kensho",scope="` + nerdScope + `"}`: "1.0",
			`tokenbroker_scope_rejected{name="prod",provider="kensho",scope="` + linkScope + `"}`: "0.0",
			`tokenbroker_exchanges_total{provider="kensho",result="rejected"}`:                    "1.0",
			`tokenbroker_token_expires_in_seconds{name="prod",provider="kensho",scope=""}`:        "3600.0",
		})
	})
}

// Promise 5: a vendor who is down says nothing of a credential that he has rejected.
func TestARejectedCredentialIsRejectedUntilItWorks(t *testing.T) {
	for name, rejects := range map[string]vendorsim.Conduct{
		"the credential": {Fault: vendorsim.Always(vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`))},
		"its scope":      refuseScope(linkScope),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				data := keyPair()
				data["scope"] = linkScope
				e.write("config/kensho/prod", data)
				e.events()
				rejected := func(is string, meets vendorsim.Conduct) {
					t.Helper()
					e.sim.Behave(meets)
					e.request(logical.UpdateOperation, "refresh/prod", nil)
					e.assertMetrics(map[string]string{`tokenbroker_credential_rejected{name="prod",provider="kensho"}`: is})
				}
				rejected("0.0", down())
				for range 2 {
					rejected("1.0", rejects)
					rejected("1.0", down())
					e.restart()
					require.NoError(t, e.tick())
					rejected("1.0", down())
				}
				news := 0
				for _, sent := range e.events() {
					if sent.kind == "tokenbroker/credential-rejected" {
						news++
					}
				}
				assert.Equal(t, 1, news)
				rejected("0.0", vendorsim.Conduct{})
				rejected("0.0", down())
			})
		})
	}
}

func TestWhatCannotBeUsedOrStoredIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		e.write("config/kensho/other", keyPair())
		storage := e.moody()
		unsaved := `tokenbroker_unsaved{name="prod",provider="kensho"}`
		unusable := `tokenbroker_credential_unusable{name="other"}`
		e.assertMetrics(map[string]string{unsaved: "", unusable: ""})
		require.NoError(t, e.tick())
		e.assertMetrics(map[string]string{unsaved: "0.0", unusable: "0.0"})

		until(0, 50, 0)
		e.damage("config/kensho/other")
		storage.refuse.Store(true)
		e.creds("prod")
		e.backend.InvalidateKey(t.Context(), "config/kensho/other")
		require.NoError(t, e.tick())
		e.assertMetrics(map[string]string{
			unsaved: "1.0", unusable: "1.0",
			`tokenbroker_consecutive_failures{name="other",provider="kensho"}`: "",
		})

		storage.refuse.Store(false)
		time.Sleep(10 * time.Second)
		e.creds("prod")
		_, status, _ := e.request(logical.DeleteOperation, "config/kensho/other", nil)
		require.Equal(t, http.StatusOK, status)
		require.NoError(t, e.tick())
		e.assertMetrics(map[string]string{unsaved: "0.0", unusable: ""})
	})
}

// Promise 4, and that each of these exchanges has failed.
func TestTokensThatCannotBeLeasedAreFailuresInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		data := keyPair()
		data["verify"] = false
		e.write("config/kensho/prod", data)
		e.sim.Behave(vendorsim.Conduct{KeyPairLifetime: time.Second})
		for range 1000 {
			e.refused("creds/prod")
			time.Sleep(500 * time.Millisecond)
		}
		calls := e.exchanges()
		assert.InDelta(t, 9, calls, 2, "1 s, 2 s, 4 s, … apart, in 500 s")
		all := e.metrics()
		assert.Equal(t, "0.0", all[`tokenbroker_exchanges_total{provider="kensho",result="success"}`])
		assert.Equal(t, fmt.Sprintf("%d.0", calls), all[`tokenbroker_exchanges_total{provider="kensho",result="nonsense"}`])
		assert.Equal(t, fmt.Sprintf("%d.0", calls), all[`tokenbroker_consecutive_failures{name="prod",provider="kensho"}`])

		e.sim.Behave(vendorsim.Conduct{})
		time.Sleep(6 * time.Minute)
		e.creds("prod")
		e.assertMetrics(map[string]string{`tokenbroker_consecutive_failures{name="prod",provider="kensho"}`: "0.0"})
	})
}

func TestAReaderWhoHangsUpOrAsksForTooMuchHasNotBeenFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.sim.Behave(vendorsim.Conduct{Latency: 5 * time.Second})
		written := make(chan struct{})
		go func() { // which keeps the name busy meanwhile
			defer close(written)
			e.write("config/oauth2/api", map[string]any{"request_timeout": "20s", "verify": true})
		}()
		synctest.Wait()
		ctx, hangUp := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, hangUp)
		_, err := e.backend.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/mine", Storage: e.storage})
		require.ErrorIs(t, err, context.Canceled)
		<-written
		e.sim.Behave(vendorsim.Conduct{})
		for range 3 {
			e.creds("mine")
		}
		status, _ := e.refused("creds/mine")
		assert.Equal(t, http.StatusTooManyRequests, status)
		e.assertMetrics(map[string]string{`tokenbroker_reads_total{result="failed"}`: "0.0"})
	})
}
