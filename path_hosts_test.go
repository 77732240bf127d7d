package tokenbroker_test

import (
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

const oauthHost = "auth.example.com"

// addCredentials stores credentials that use the same client of an OAuth 2.0 server, unverified.
func addCredentials(e *engine.Engine, names int) {
	e.T.Helper()
	for n := range names {
		fields := engine.SecretClient(false)
		fields["verify"] = false
		e.Write(fmt.Sprint("config/oauth2/c", n), fields)
	}
}

// readAll reads a token of each credential at once, and returns how many reads ended with each status.
func readAll(e *engine.Engine, names int) map[int]int {
	statuses := map[int]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for n := range names {
		all.Go(func() {
			_, status, _ := e.Request(logical.ReadOperation, fmt.Sprint("token/c", n), nil)
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
		})
	}
	all.Wait()
	return statuses
}

func TestTheLimitOfAHostCountsAtOnceAndAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		addCredentials(e, 20)
		e.Write("hosts/AUTH.example.com:443", map[string]any{"requests_per_second": "2"})
		for range 2 {
			began := time.Now()
			assert.Equal(t, map[int]int{http.StatusOK: 20}, readAll(e, 20))
			assert.InDelta(t, 9.5, time.Since(began).Seconds(), 0.5)
			assert.Equal(t, map[string]any{
				"state": "limited", "requests_per_second": 2.0, "current_limit": 2.0, "waiting": 0, "throttled": uint64(0), "unsent": uint64(0),
			}, e.Read("hosts/"+oauthHost).Data)
			time.Sleep(2 * time.Hour) // the tokens have expired
			e.Restart()
		}

		_, status, message := e.Request(logical.DeleteOperation, "hosts/"+oauthHost, nil)
		require.Less(t, status, 300, message)
		began := time.Now()
		assert.Equal(t, map[int]int{http.StatusOK: 20}, readAll(e, 20))
		assert.Less(t, time.Since(began), time.Second)
		assert.Equal(t, "ok", e.Read("hosts/" + oauthHost).Data["state"])
	})
}

func TestTheLimitThatAnotherNodeHasWrittenCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		addCredentials(e, 10)
		other := engine.NewOAuth(t)
		other.Storage = e.Storage
		other.Restart()
		e.Creds("api")
		other.Write("hosts/"+oauthHost, map[string]any{"requests_per_second": 1})
		e.Backend.InvalidateKey(t.Context(), "host/"+oauthHost)
		began := time.Now()
		assert.Equal(t, map[int]int{http.StatusOK: 10}, readAll(e, 10))
		assert.InDelta(t, 9, time.Since(began).Seconds(), 1)
	})
}

func TestGuarantee16AReadWhoseTurnIsTooLateSaysWhenItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		addCredentials(e, 40)
		e.Write("hosts/"+oauthHost, map[string]any{"requests_per_second": 1})
		e.Write("refresh/api", nil)
		time.Sleep(500 * time.Millisecond)
		began := time.Now()
		var all sync.WaitGroup
		for n := range 30 {
			all.Go(func() { e.Token(fmt.Sprint("c", n)) })
		}
		synctest.Wait()
		_, code, message := e.Request(logical.ReadOperation, "creds/c39", nil)
		assert.Equal(t, http.StatusServiceUnavailable, code)
		assert.Contains(t, message, "auth.example.com takes fewer requests than are waiting for it")
		assert.Contains(t, message, "next attempt at 2000-01-01T00:00:3")
		assert.Zero(t, time.Since(began))
		all.Wait()
		assert.InDelta(t, 29.5, time.Since(began).Seconds(), 0.1)

		status := e.Read("status/c39").Data
		assert.Equal(t, "unused", status["state"], "nothing is known against the credential")
		assert.NotContains(t, status, "next_attempt_time")
		e.Token("c39")
	})
}

func TestStatusShowsTheHostsThatNeedAttention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		addCredentials(e, 5)
		assert.NotContains(t, e.Read("status/api").Data, "hosts")
		keys := func() any {
			resp, status, message := e.Request(logical.ListOperation, "hosts/", nil)
			if status == http.StatusNotFound { // as Vault answers an empty list
				return nil
			}
			require.Equal(t, http.StatusOK, status, message)
			return resp.Data["keys"]
		}
		assert.Empty(t, keys())
		e.Sim.Behave(engine.Down())
		assert.Equal(t, map[int]int{http.StatusServiceUnavailable: 5}, readAll(e, 5))
		host := e.Read("status/api").Data["hosts"].(map[string]any)[oauthHost].(map[string]any)
		assert.Equal(t, "down", host["state"])
		assert.Equal(t, "2000-01-01T00:00:00Z", host["down_since"])
		assert.Equal(t, "2000-01-01T00:00:01Z", host["next_request_time"])
		assert.Equal(t, []string{oauthHost}, keys())

		e.Sim.Behave(vendorsim.Conduct{})
		e.Write("refresh/api", nil)
		assert.NotContains(t, e.Read("status/api").Data, "hosts")
	})
}

func TestAHostIsCheckedBeforeItIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		for value, expected := range map[any]string{
			"fast": "requests_per_second: must be a number", 0: "requests_per_second: must be over 0 and at most 100000", -1: "must be over 0",
			1e9: "at most 100000", "NaN": "must be over 0", true: "must be a number",
		} {
			_, status, message := e.Request(logical.UpdateOperation, "hosts/"+oauthHost, map[string]any{"requests_per_second": value})
			assert.Equal(t, http.StatusBadRequest, status, "%v", value)
			assert.Contains(t, message, expected, "%v", value)
		}
		_, status, message := e.Request(logical.UpdateOperation, "hosts/"+oauthHost, nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "requests_per_second: missing")
		status, _ = e.Refused("hosts/never.example.com")
		assert.Equal(t, http.StatusNotFound, status)
		for _, host := range []string{"[::1]:8200", "a-b.example.com:8443"} {
			e.Write("hosts/"+host, map[string]any{"requests_per_second": 0.5})
			assert.InDelta(t, 0.5, e.Read("hosts/" + host).Data["requests_per_second"], 0)
		}
	})
}

func TestADamagedLimitKeepsNoCredentialFromBeingUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("hosts/"+oauthHost, map[string]any{"requests_per_second": 1})
		e.Damage("host/" + oauthHost)
		e.Restart()
		e.Creds("api")
		_, status, message := e.Request(logical.ReadOperation, "hosts/"+oauthHost, nil)
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Contains(t, message, "hosts/"+oauthHost+" cannot be decoded; delete it and write it again")
		e.Write("hosts/"+oauthHost, map[string]any{"requests_per_second": 1})
	})
}

func TestTheNamesOfHostsAreThoseOfThePacer(t *testing.T) {
	for _, text := range []string{"https://h:80/", "http://h:443/", "https://h/", "http://h/"} {
		u, err := url.Parse(text)
		require.NoError(t, err)
		assert.Equal(t, provider.HostOf(u), credential.HostName(u.Host), text)
	}
}
