package guarantees_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestTheRoleBindsTheCallersToken(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		e.Swap("bound", ada)
		before := e.TokenRequests()
		for reason, token := range map[string]string{
			"is from another issuer than the role's bound_issuer":        e.Sim.Subject(engine.ExchangeClient, "ada", time.Hour, map[string]any{"iss": "https://evil.example.com"}),
			"is for none of the role's bound_audiences":                  e.Sim.Subject(engine.ExchangeClient, "ada", time.Hour, map[string]any{"aud": "other"}),
			"has expired, or has no exp":                                 e.Sim.Subject(engine.ExchangeClient, "ada", -time.Second, nil),
			"is not valid yet (nbf)":                                     e.Sim.Subject(engine.ExchangeClient, "ada", time.Hour, map[string]any{"nbf": time.Now().Add(20 * time.Minute).Unix()}),
			"is not a JWT that a public key can verify":                  "opaque-token-0123456789",
			"is not signed with a key of the role's bound_issuer":        forged(subject(e, "ada")),
			"is for none of the role's bound_audiences ":                 e.Sim.Subject(engine.ExchangeClient, "ada", time.Hour, map[string]any{"aud": nil}),
			"is from another issuer than the role's bound_issuer (none)": e.Sim.Subject(engine.ExchangeClient, "ada", time.Hour, map[string]any{"iss": nil}),
		} {
			status, message := e.RefusedSwap("bound", map[string]any{"subject_token": token})
			assert.Equal(t, http.StatusForbidden, status)
			reason, _, _ = strings.Cut(strings.TrimSpace(reason), " (none)")
			assert.Equal(t, "exchange/bound: the subject token "+reason, message)
		}
		assert.Equal(t, before, e.TokenRequests(), "nothing is sent")
		e.AssertMetrics(map[string]string{`tokenbroker_reads_total{result="failed"}`: "0.0"})

		expired := map[string]any{"subject_token": e.Sim.Subject(engine.ExchangeClient, "ben", time.Minute, nil)}
		e.Swap("bound", expired)
		time.Sleep(2 * time.Minute)
		status, _ := e.RefusedSwap("bound", expired)
		assert.Equal(t, http.StatusForbidden, status, "also for a cached token")
	})
}

// forged returns a JWT with another signature.
func forged(token string) string {
	parts := strings.Split(token, ".")
	signature := []byte(parts[2])
	slices.Reverse(signature)
	return parts[0] + "." + parts[1] + "." + string(signature)
}

func TestTheKeysOfTheIssuerAreCached(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		keys := func() int {
			return len(slices.DeleteFunc(e.Sim.Calls(), func(c vendorsim.Call) bool { return c.URL != vendorsim.OAuthIssuer+"/oauth2/keys" }))
		}
		for range 5 {
			e.Swap("bound", ada)
			e.RefusedSwap("bound", map[string]any{"subject_token": forged(subject(e, "ada"))})
		}
		assert.Equal(t, 1, keys(), "guarantee 16: a forged token does not make the engine read them again at once")
		time.Sleep(2 * time.Minute)
		e.RefusedSwap("bound", map[string]any{"subject_token": forged(subject(e, "ada"))})
		assert.Equal(t, 2, keys(), "the issuer may have a new key")
		time.Sleep(2 * time.Hour)
		e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if r.Method == http.MethodGet {
				return vendorsim.Answer(http.StatusServiceUnavailable, `"down"`)
			}
			return nil
		}})
		e.Swap("bound", ada)
		e.Write("config/oauth2/swap", map[string]any{"client_secret": engine.ClientSecret}) // the keys were read with its ca_cert
		status, message := e.RefusedSwap("bound", ada)
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Contains(t, message, "the keys of bound_issuer cannot be read")
	})
}

func TestTheLastLeaseRevokesTheToken(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		first, second := e.Swap("swap", ada), e.Swap("swap", ada)
		token := engine.TokenOf(first)
		require.Equal(t, token, engine.TokenOf(second))
		require.NoError(t, e.Revoke(first))
		assert.True(t, e.Sim.Accepts(token), "the other lease has it")
		third := e.Swap("swap", ada)
		assert.Equal(t, token, engine.TokenOf(third), "it stays in the cache")
		require.NoError(t, e.Revoke(third))
		e.Restart()
		require.NoError(t, e.Revoke(second))
		assert.False(t, e.Sim.Accepts(token))
		require.NoError(t, e.Revoke(second), "again")

		third = e.Swap("swap", ada)
		assert.NotEqual(t, token, engine.TokenOf(third))
		e.Sim.Behave(engine.Down())
		for range 2 {
			require.ErrorContains(t, e.Revoke(third), "cannot be revoked", "Vault tries again")
		}
		e.Sim.Behave(vendorsim.Conduct{})
		require.NoError(t, e.Revoke(third))
		assert.False(t, e.Sim.Accepts(engine.TokenOf(third)))
		assert.Empty(t, e.Leased())
	})
}

func TestARevokedTokenIsNotServedAgain(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		lease := e.Swap("swap", ada)
		var all sync.WaitGroup
		e.Sim.Behave(vendorsim.Conduct{Latency: time.Second})
		all.Go(func() { assert.NoError(t, e.Revoke(lease)) })
		for i := range 20 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				resp := e.Swap("swap", ada)
				time.Sleep(2 * time.Second)
				assert.True(t, e.Sim.Accepts(engine.TokenOf(resp)))
			})
		}
		all.Wait()
	})
}

func TestACallerLearnsThatNothingRevokesItsToken(t *testing.T) {
	delegating(t, map[string]any{"revocation_url": ""}, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		lease := e.Swap("swap", ada)
		assert.Equal(t, []string{"the vendor cannot revoke this token: it stays valid until 2000-01-01T01:00:00Z, also if its lease is revoked before"}, lease.Warnings)
		require.NoError(t, e.Revoke(lease))
		assert.True(t, e.Sim.Accepts(engine.TokenOf(lease)))
		assert.Empty(t, e.Leased())
		e.Sim.EndSession("ada")
		time.Sleep(46 * time.Minute)
		status, _ := e.RefusedSwap("swap", ada)
		assert.Equal(t, http.StatusBadRequest, status, "no older token for a refused one")
	})
}

// A lease is stored after its token is taken from the cache. In between, another lease may be the last one.
func TestATokenThatIsRevokedBeforeItsLeaseIsStoredIsNotDelivered(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		first := e.Swap("swap", ada)
		storage := e.BreakStorage()
		slow := func(c engine.StorageCall) engine.Fault {
			if c.Op == "put" && strings.HasPrefix(c.Key, "lease/") {
				return engine.Fault{Wait: 2 * time.Second}
			}
			return engine.Fault{}
		}
		storage.OnCall.Store(&slow)
		var all sync.WaitGroup
		all.Go(func() {
			second := e.Swap("swap", ada) // checks that the vendor accepts the token
			assert.NotEqual(t, engine.TokenOf(first), engine.TokenOf(second))
			assert.Len(t, e.Leased(), 1)
		})
		time.Sleep(time.Second)
		require.NoError(t, e.Revoke(first))
		all.Wait()
	})
}

func TestALeaseThatCannotBeStoredFailsTheExchange(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		storage := e.BreakStorage()
		storage.RefuseLease.Store(true)
		status, _ := e.RefusedSwap("swap", ada)
		assert.Equal(t, http.StatusInternalServerError, status)
		storage.RefuseLease.Store(false)
		before := e.TokenRequests()
		e.Swap("swap", ada)
		assert.Equal(t, before, e.TokenRequests(), "the issued token is not wasted")
	})
}

// The operator can write the next secret of a shared client before the vendor has it.
func TestACallersTokenIsExchangedWhileTheSecretOfAClientChanges(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		client := map[string]any{"vendor": "oauth2", "token_url": vendorsim.OAuthTokenURL, "client_id": engine.ExchangeClient.ID, "client_secret": engine.ClientSecret, "auth_style": "client_secret_basic", "grant_type": "token_exchange"}
		e.Write("clients/swapper", client)
		e.Write("config/oauth2/shared", map[string]any{"client": "swapper"})
		first := engine.TokenOf(e.Swap("shared", ada))
		e.Write("clients/swapper", map[string]any{"client_secret": newSecret})
		assert.NotEqual(t, first, engine.TokenOf(e.Swap("shared", ada)), "guarantee 8: the client has changed; the former secret still works")
		changed := engine.ExchangeClient
		changed.Secret = newSecret
		e.Sim.AddOAuthClient(changed)
		e.Swap("shared", map[string]any{"subject_token": subject(e, "ben")})
		assert.Equal(t, "ok", e.Read("status/shared").Data["state"])
	})
}
