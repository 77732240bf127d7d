package tokenbroker_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee3ARefreshTokenReplacedByAWriteThatCameToNothingIsUsedByTheNext(t *testing.T) {
	for name, fails := range map[string]func(*engine, *moodyStorage){
		"as storage refuses": func(_ *engine, s *moodyStorage) { s.refuse.Store(true) },
		"as the answer is unusable": func(e *engine, _ *moodyStorage) {
			e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"refreshToken":"the-next-one"}`))})
			e.sim.RevokeCredential(anotherToken)
			e.sim.AddRefreshToken("link-streaming", "the-next-one")
		},
	} {
		for _, path := range []string{"config/kensho/new", "config/kensho/prod"} {
			t.Run(path+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e, storage := newRotatingEngine(t)
					e.sim.AddRefreshToken("link-streaming", anotherToken)
					fails(e, storage)
					for range 2 {
						_, status, message := e.request(logical.UpdateOperation, path, map[string]any{"refresh_token": anotherToken})
						require.GreaterOrEqual(t, status, http.StatusInternalServerError, message)
						assert.NotContains(t, message, "rejected")
						e.sim.Behave(vendorsim.Conduct{Rotate: true})
						if !storage.refuse.Load() {
							break
						}
						assert.Contains(t, message, "only in memory: write the same again soon")
					}
					storage.refuse.Store(false)
					e.write(path, map[string]any{"refresh_token": anotherToken})
					e.write(path, map[string]any{"refresh_token": anotherToken})
					e.restart()
					until(1, 0, 5)
					e.creds(path[len("config/kensho/"):])
				})
			})
		}
	}
}

func TestARefreshTokenThatIsHeldForAWriteEndsWithItsName(t *testing.T) {
	for name, end := range map[string]func(*engine){
		"that is deleted":                       func(e *engine) { e.request(logical.DeleteOperation, "config/kensho/prod", nil) },
		"that is written":                       func(e *engine) { e.write("config/kensho/prod", keyPair()) },
		"though it is another token's business": func(*engine) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				storage := e.moody()
				e.sim.Behave(vendorsim.Conduct{Rotate: true})
				storage.refuse.Store(true)
				e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": refreshToken})
				storage.refuse.Store(false)
				end(e)
				token := refreshToken
				if name == "though it is another token's business" {
					token = anotherToken
				}
				e.sim.AddRefreshToken("link-streaming", token) // the vendor takes it anew
				before := e.exchanges()
				e.write("config/kensho/prod", map[string]any{"refresh_token": token, "client_id": "", "private_key": ""})
				assert.Contains(t, e.sim.Calls()[before].URL, token)
			})
		})
	}
}

func TestARefreshTokenThatIsHeldForAWriteWaitsForThatAndGoesNowhereElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		e.sim.AddRefreshToken("link-streaming", anotherToken)
		write := map[string]any{"refresh_token": anotherToken}
		storage.refuse.Store(true)
		_, status, message := e.request(logical.UpdateOperation, "config/kensho/prod", write)
		require.Equal(t, http.StatusInternalServerError, status)
		require.Contains(t, message, "write the same again soon")
		storage.refuse.Store(false)
		e.write("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true}) // of the credential that there is

		elsewhere := map[string]any{"refresh_token": anotherToken, "product": "scribe"}
		e.request(logical.UpdateOperation, "config/kensho/prod", elsewhere)
		calls := e.sim.Calls()
		require.Contains(t, calls[len(calls)-1].URL, "scribe.kensho.com")
		assert.Contains(t, calls[len(calls)-1].URL, anotherToken, "the one that was given, and is dead")

		e.write("config/kensho/prod", write)
		until(1, 0, 5)
		e.creds("prod")
	})
}

// Row 32: whoever may write credentials fills no memory, with a vendor of their own either.
func TestRefreshTokensThatAreHeldForWritesAreFewAndNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"refreshToken":"the-next-one"}`))})
		attempt := func(i int) string {
			_, status, message := e.request(logical.UpdateOperation, fmt.Sprintf("config/kensho/n%d", i), map[string]any{"refresh_token": refreshToken, "request_timeout": 5 + i%2})
			require.Equal(t, http.StatusBadGateway, status, message)
			calls := e.sim.Calls()
			return calls[len(calls)-1].URL
		}
		before := tokenbroker.NamesInMemory(e.backend)
		for i := range 110 {
			attempt(i)
			time.Sleep(time.Second)
		}
		assert.Equal(t, before+100, tokenbroker.NamesInMemory(e.backend))
		assert.NotContains(t, attempt(9), "the-next-one", "the oldest go first")
		assert.Contains(t, attempt(109), "the-next-one")
		assert.Contains(t, attempt(50), "the-next-one", "and the one of before is held on")

		e.pass(58 * time.Minute)
		assert.Contains(t, attempt(109), "the-next-one")
		e.pass(time.Hour)
		assert.Equal(t, before, tokenbroker.NamesInMemory(e.backend), "though nobody writes")
	})
}

func TestARefreshTokenThatIsHeldForAWriteIsNotUsedAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"refreshToken":"the-next-one"}`))})
		for _, used := range []string{refreshToken, "the-next-one", refreshToken} {
			e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": refreshToken})
			calls := e.sim.Calls()
			assert.Contains(t, calls[len(calls)-1].URL, used)
			time.Sleep(31 * time.Minute)
		}
	})
}
