package guarantees_test

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// delegating runs a test with an engine that exchanges callers' tokens, and the token of Ada that is valid for ten
// hours.
func delegating(t *testing.T, fields map[string]any, check func(t *testing.T, e *engine.Engine, ada map[string]any)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewDelegating(t, fields)
		check(t, e, map[string]any{"subject_token": subject(e, "ada")})
	})
}

func subject(e *engine.Engine, person string) string {
	return e.Sim.Subject(engine.ExchangeClient, person, 10*time.Hour, nil)
}

// with returns data with further fields.
func with(data map[string]any, more map[string]any) map[string]any {
	all := maps.Clone(data)
	maps.Copy(all, more)
	return all
}

func TestACallerGetsATokenForWhatItAsks(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		resp := e.Swap("swap", with(ada, map[string]any{
			"actor_token": subject(e, "service"), "audience": "ledger", "resource": []string{"https://ledger.example.com"}, "scope": "read",
			"subject_token_type": "access_token", "requested_token_type": vendorsim.AccessTokenType,
		}))
		issued, _ := e.Sim.DelegatedTo(engine.TokenOf(resp))
		assert.Equal(t, vendorsim.Delegated{Subject: "ada", Actor: "service", Client: "exchanger", Audience: []string{"ledger"}, Scope: []string{"read"}}, issued)
		assert.Equal(t, vendorsim.AccessTokenType, resp.Data["issued_token_type"])
		assert.Equal(t, "Authorization: Bearer "+engine.TokenOf(resp), resp.Data["http_header"])
		assert.Equal(t, []string{"read"}, resp.Data["scope"])
		assert.Empty(t, resp.Warnings)
		e.Swap("both", ada)
		e.Creds("both")
	})
}

func TestGuarantee6NothingOfACallersTokenIsKept(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) { // the harness searches log, answers, events and metrics
		all := with(ada, map[string]any{"actor_token": subject(e, "service")})
		lease := e.Swap("swap", all)
		e.RefusedSwap("swap", map[string]any{"subject_token": "opaque-token-of-nobody-0123456789"})
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.EchoAs(http.StatusBadRequest, vendorsim.Encodings["plain"], true))})
		e.RefusedSwap("swap", with(all, map[string]any{"audience": "ledger"}))
		for _, token := range []any{all["subject_token"], all["actor_token"], "opaque-token-of-nobody-0123456789"} {
			signature := token.(string)[strings.LastIndexByte(token.(string), '.')+1:]
			for key, entry := range e.Dump() {
				assert.NotContains(t, entry+key, signature)
			}
			assert.NotContains(t, fmt.Sprint(lease.Secret.InternalData), signature)
			assert.NotContains(t, e.Outside.Text(), signature)
		}
	})
}

func TestGuarantee2EqualRequestsShareOneExchange(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		e.Sim.Behave(vendorsim.Conduct{Latency: time.Second})
		before := e.TokenRequests()
		var mu sync.Mutex
		tokens := map[string]bool{}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				token := engine.TokenOf(e.Swap("swap", ada))
				mu.Lock()
				defer mu.Unlock()
				tokens[token] = true
			})
		}
		all.Wait()
		assert.Equal(t, 1, e.TokenRequests()-before)
		assert.Len(t, tokens, 1)
		for _, other := range []map[string]any{
			{"subject_token": subject(e, "ben")}, with(ada, map[string]any{"audience": "ledger"}), with(ada, map[string]any{"scope": "read"}),
			with(ada, map[string]any{"resource": "https://ledger.example.com"}), with(ada, map[string]any{"actor_token": subject(e, "ben")}),
		} {
			token := engine.TokenOf(e.Swap("swap", other))
			assert.False(t, tokens[token], "another request has another token")
			tokens[token] = true
		}
	})
}

func TestATokenIsCachedUntilItOrTheCallersTokenExpires(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		first := engine.TokenOf(e.Swap("swap", ada))
		time.Sleep(44 * time.Minute)
		assert.Equal(t, first, engine.TokenOf(e.Swap("swap", ada)))
		time.Sleep(2 * time.Minute)
		assert.NotEqual(t, first, engine.TokenOf(e.Swap("swap", ada)), "guarantee 9: less than a quarter of the lifetime remains")

		brief := map[string]any{"subject_token": e.Sim.Subject(engine.ExchangeClient, "ada", 10*time.Minute, nil)}
		e.Swap("swap", brief)
		time.Sleep(9 * time.Minute)
		e.Swap("swap", brief)
		time.Sleep(2 * time.Minute)
		status, message := e.RefusedSwap("swap", brief)
		assert.Equal(t, http.StatusBadRequest, status, "the vendor decides again once the caller's token has expired")
		assert.Contains(t, message, "exchange/swap: the vendor refused the exchange of the caller's token: auth.example.com: 400 Bad Request: invalid_request")
	})
}

func TestGuarantee8NoOlderTokenAfterAChange(t *testing.T) {
	for name, change := range map[string]func(e *engine.Engine){
		"a write": func(e *engine.Engine) {
			e.Write("config/oauth2/swap", map[string]any{"client_secret": engine.ClientSecret})
		},
		"a refresh":             func(e *engine.Engine) { e.Write("refresh/swap", nil) },
		"a refresh with a drop": func(e *engine.Engine) { e.Write("refresh/swap", map[string]any{"drop": true}) },
	} {
		t.Run(name, func(t *testing.T) {
			delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
				first := engine.TokenOf(e.Swap("swap", ada))
				change(e)
				assert.NotEqual(t, first, engine.TokenOf(e.Swap("swap", ada)))
			})
		})
	}
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		e.Swap("reading", ada)
		e.Write("roles/reading", map[string]any{"scope": "write"})
		assert.Equal(t, []string{"write"}, e.Swap("reading", ada).Data["scope"])
	})
}

func TestGuarantee4AnOutageCostsNothingWhileATokenIsValid(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		first := engine.TokenOf(e.Swap("swap", ada))
		time.Sleep(50 * time.Minute)
		e.Sim.Behave(engine.Down())
		before := e.Exchanges()
		resp := e.Swap("swap", ada)
		assert.Equal(t, first, engine.TokenOf(resp))
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "the vendor issues no newer token")
		status, message := e.RefusedSwap("swap", map[string]any{"subject_token": subject(e, "ben")})
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Contains(t, message, "next attempt at")
		assert.Equal(t, 1, e.Exchanges()-before, "attempts back off for all callers")
		e.AssertMetrics(map[string]string{`tokenbroker_reads_total{result="stale"}`: "1.0", `tokenbroker_reads_total{result="failed"}`: "1.0"})

		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(5 * time.Second)
		assert.NotEqual(t, first, engine.TokenOf(e.Swap("swap", ada)))
	})
}

func TestGuarantee16RetryAfterCountsForAllCallers(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		e.Sim.Behave(vendorsim.Conduct{Fault: func(*http.Request) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "120")
				w.WriteHeader(http.StatusTooManyRequests)
			}
		}})
		e.RefusedSwap("swap", ada)
		e.Sim.Behave(vendorsim.Conduct{})
		before := e.Exchanges()
		time.Sleep(110 * time.Second)
		status, _ := e.RefusedSwap("swap", map[string]any{"subject_token": subject(e, "ben")})
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Equal(t, before, e.Exchanges())
		time.Sleep(11 * time.Second)
		e.Swap("swap", ada)
	})
}

func TestARefusedTokenConcernsOnlyItsCaller(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		ben := map[string]any{"subject_token": subject(e, "ben")}
		last := e.Swap("swap", ben)
		e.Events()
		e.Sim.EndSession("ben")
		time.Sleep(46 * time.Minute)
		for range 5 {
			status, _ := e.RefusedSwap("swap", ben)
			assert.Equal(t, http.StatusBadRequest, status, "no older token either, although it is valid")
		}
		assert.True(t, e.Sim.Accepts(engine.TokenOf(last)))
		requests := e.TokenRequests()
		e.RefusedSwap("swap", ben)
		assert.Equal(t, requests, e.TokenRequests(), "guarantee 16: the same refused request is not sent again at once")
		e.Swap("swap", ada)
		assert.Equal(t, "ok", e.Read("status/swap").Data["state"])
		assert.Empty(t, e.Events(), "callers may be many")
		e.AssertMetrics(map[string]string{`tokenbroker_exchanges_total{result="refused",vendor="oauth2"}`: "1.0", `tokenbroker_exchanges_total{result="rejected",vendor="oauth2"}`: "0.0"})
		time.Sleep(31 * time.Second)
		e.RefusedSwap("swap", ben)
		assert.Equal(t, requests+2, e.TokenRequests())
	})
}

func TestGuarantee5ARejectedClientIsTheCredentials(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		changed := engine.ExchangeClient
		changed.Secret = "another-secret-0123456789"
		e.Sim.AddOAuthClient(changed)
		e.Events()
		before := e.TokenRequests()
		for _, person := range []string{"ada", "ben", "cleo"} {
			status, message := e.RefusedSwap("swap", map[string]any{"subject_token": subject(e, person)})
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "the vendor rejected the credential: auth.example.com: 401 Unauthorized: invalid_client")
			assert.Contains(t, message, "write a new one to config/oauth2/swap")
		}
		assert.Equal(t, 1, e.TokenRequests()-before)
		assert.Equal(t, "failed", e.Read("status/swap").Data["state"])
		events := e.Events()
		require.Len(t, events, 1)
		assert.Equal(t, "tokenbroker/credential-rejected", events[0].Kind)
		e.Write("config/oauth2/swap", map[string]any{"client_secret": changed.Secret})
		e.Swap("swap", ada)
		assert.Equal(t, "ok", e.Read("status/swap").Data["state"])
	})
}

func TestGuarantee14ACallerGetsNoMoreThanItAsked(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		status, message := e.RefusedSwap("reading", with(ada, map[string]any{"scope": "write"}))
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, `scope: "write" is not a scope of roles/reading (read)`, message)
		assert.Equal(t, []string{"read"}, e.Swap("reading", ada).Data["scope"], "by default all of the role's")
		_, message = e.RefusedSwap("swap", with(ada, map[string]any{"scope": "admin"}))
		assert.Contains(t, message, `scope: "admin" is not a scope of the credential`)

		e.Sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{MoreScope: []string{"write"}}})
		ben := map[string]any{"subject_token": subject(e, "ben")}
		status, message = e.RefusedSwap("reading", ben)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "exchange/reading: the vendor granted write as well")
		assert.Len(t, e.Sim.Revoked(), 1, "the token that nobody got")

		e.Sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{MoreScope: []string{"profile"}}})
		assert.Equal(t, []string{"the vendor granted scopes that it was not asked for: profile"}, e.Swap("reading", map[string]any{"subject_token": subject(e, "cleo")}).Warnings)
	})
}

func TestACallerCannotChangeWhatTheOperatorSet(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		e.Write("config/oauth2/swap", map[string]any{"token_params": map[string]any{"audience": "ledger"}})
		client := engine.ExchangeClient
		client.Params = map[string]string{"audience": "ledger"}
		e.Sim.AddOAuthClient(client)
		status, message := e.RefusedSwap("swap", with(ada, map[string]any{"audience": "other"}))
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "audience: cannot be given: the vendor's exchange does not take it, or the credential sets it", message)
		e.Swap("swap", ada)
	})
}

func TestACredentialThatOnlyExchangesHasNoTokenOfItsOwn(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		for _, path := range []string{"creds/swap", "token/swap", "creds/reading"} {
			status, message := e.Refused(path)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "config/oauth2/swap has no token of its own; exchange a caller's token by a write to exchange/swap")
		}
		before := e.Exchanges()
		e.Pass(10 * time.Minute)
		assert.Equal(t, before, e.Exchanges(), "there is nothing to renew")
		resp, status, _ := e.Request(logical.UpdateOperation, "config/oauth2/swap", map[string]any{"client_secret": engine.ClientSecret})
		assert.Equal(t, http.StatusOK, status)
		assert.Equal(t, []string{"the credential is not verified, as it has no token of its own; the first write to exchange/swap shows whether the vendor accepts it"}, resp.Warnings)
		assert.Equal(t, "unused", e.Read("status/swap").Data["state"])
		e.Swap("swap", ada)
		assert.Equal(t, "ok", e.Read("status/swap").Data["state"])
	})
}

func TestABadRequestIsExplained(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		e.Write("config/kensho/streaming", map[string]any{"refresh_token": engine.RefreshToken})
		e.Write("roles/own", map[string]any{"config": "swap", "dedicated": true})
		before := e.TokenRequests()
		for _, c := range []struct {
			name    string
			data    map[string]any
			message string
		}{
			{"swap", nil, "subject_token: must be set"},
			{"nobody", ada, "no role or credential named"},
			{"streaming", ada, "config/kensho/streaming cannot exchange a caller's token"},
			{"own", ada, "roles/own is a dedicated role"},
			{"swap", with(ada, map[string]any{"subject_token_type": "password"}), "subject_token_type:"},
			{"swap", with(ada, map[string]any{"audience": " ledger"}), "audience: must not start or end with white space"},
			{"swap", with(ada, map[string]any{"resource": "ledger"}), "resource:"},
			{"swap", with(ada, map[string]any{"ttl": "1h"}), `unknown field "ttl"`},
		} {
			status, message := e.RefusedSwap(c.name, c.data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, c.message)
		}
		_, status, message := e.Request(logical.ReadOperation, "exchange/swap", nil)
		assert.Equal(t, http.StatusMethodNotAllowed, status, message)
		assert.Equal(t, before, e.TokenRequests())
	})
}

func TestGuarantee15ManyCallersAreBounded(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, _ map[string]any) {
		e.Sim.Behave(vendorsim.Conduct{Latency: time.Second})
		var all sync.WaitGroup
		var refused atomic.Int64
		for i := range 300 {
			given := map[string]any{"subject_token": subject(e, fmt.Sprintf("person-%d", i))}
			all.Go(func() {
				_, status, message := e.Request(logical.UpdateOperation, "exchange/swap", given)
				if status == http.StatusTooManyRequests {
					assert.Equal(t, "exchange/swap: 256 exchanges of callers' tokens wait for the vendor (the maximum); retry later", message)
					refused.Add(1)
					return
				}
				assert.Equal(t, http.StatusOK, status, message)
			})
		}
		all.Wait()
		assert.Equal(t, int64(300-256), refused.Load())
		assert.LessOrEqual(t, e.Sim.MostInFlight(), 16)
	})
}
