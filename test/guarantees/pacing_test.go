package guarantees_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const oauthHost = "auth.example.com"

// newLimited returns an engine with credentials c0, c1, … of an OAuth 2.0 server, of which no request was
// sent, and a limit of its host in requests a second; zero for none.
func newLimited(t *testing.T, names int, perSecond float64) *engine.Engine {
	t.Helper()
	e := engine.NewOAuth(t)
	for n := range names {
		e.Write(fmt.Sprint("config/oauth2/c", n), with(engine.SecretClient(false), map[string]any{"verify": false}))
	}
	if perSecond > 0 {
		e.Write("hosts/"+oauthHost, map[string]any{"requests_per_second": perSecond})
	}
	return e
}

// occupy sends a request, so that no turn is left, and then has readers of c0, c1, … wait for theirs.
func occupy(e *engine.Engine, readers *sync.WaitGroup, names int) {
	e.T.Helper()
	e.Write("refresh/api", nil)
	for n := range names {
		readers.Go(func() { e.Request(logical.ReadOperation, fmt.Sprint("creds/c", n), nil) })
	}
	synctest.Wait()
}

func TestGuarantee16AnOutageOfAHostIsProbedOnceForAllCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const names = 100
		e := newLimited(t, names, 0)
		e.Sim.Behave(engine.Down())
		before, began := e.Exchanges(), time.Now()
		for time.Since(began) < 5*time.Minute { // as long as one reads, and not each of a hundred
			var all sync.WaitGroup
			for n := range names {
				all.Go(func() {
					_, status, _ := e.Request(logical.ReadOperation, fmt.Sprint("creds/c", n), nil)
					assert.Equal(t, http.StatusServiceUnavailable, status)
				})
			}
			all.Wait()
			time.Sleep(time.Second)
		}
		assert.LessOrEqual(t, e.Exchanges()-before, names+50, "those under way when it was found to be down, and one each 10 seconds")
		status := e.Read("status/c7").Data
		assert.Equal(t, "down", status["hosts"].(map[string]any)[oauthHost].(map[string]any)["state"])
		e.AssertMetrics(map[string]string{`tokenbroker_host_down{host="auth.example.com"}`: "1.0"})

		const found, over = "a host does not answer; it gets one request at a time", "a host answers again"
		assert.Equal(t, 1, strings.Count(e.Outside.Text(), found))
		assert.NotContains(t, e.Outside.Text(), over)

		e.Sim.Behave(vendorsim.Conduct{})
		e.Write("refresh/c7", nil) // an operator's request is sent
		assert.Equal(t, 1, strings.Count(e.Outside.Text(), over))
		assert.NotContains(t, e.Read("status/c7").Data, "hosts")
		time.Sleep(6 * time.Minute) // the back-offs are over
		for n := range names {
			e.Creds(fmt.Sprint("c", n))
		}
	})
}

func TestGuarantee4AReaderGetsTheValidTokenWhileItsRenewalWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLimited(t, 20, 1)
		first := engine.TokenOf(e.Creds("c19"))
		time.Sleep(50 * time.Minute) // the renewal of a token of an hour is due
		var readers sync.WaitGroup
		occupy(e, &readers, 15)
		began := time.Now()
		lease := e.Creds("c19")
		assert.Equal(t, first, engine.TokenOf(lease))
		assert.Len(t, lease.Warnings, 1)
		assert.Zero(t, time.Since(began), "the turn of the renewal would come too late")
		readers.Wait()
		assert.NotEqual(t, first, engine.TokenOf(e.Creds("c19")), "the renewal had its turn after the readers")
	})
}

func TestGuarantee16AnExchangeThatIsNotMadeIsNotAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLimited(t, 40, 1)
		var readers sync.WaitGroup
		occupy(e, &readers, 30)
		time.Sleep(500 * time.Millisecond)
		occupied := e.Exchanges()
		for range 20 { // a reader that asks again and again
			status, message := e.Refused("creds/c35")
			assert.Equal(t, http.StatusServiceUnavailable, status)
			assert.Contains(t, message, "next attempt at")
		}
		assert.Equal(t, occupied, e.Exchanges())
		assert.EqualValues(t, 0, e.Read("status/c35").Data["consecutive_failures"])
		readers.Wait()
		e.Creds("c35")
	})
}

func TestGuarantee16WhatADedicatedRoleAndACallerAskForHasItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLimited(t, 31, 1)
		e.Write("roles/own", map[string]any{"config": "c30", "scope": "read", "dedicated": true, "max_exchanges": 2})
		var readers sync.WaitGroup
		occupy(e, &readers, 30)
		for range 5 { // none of them counts against max_exchanges
			status, message := e.Refused("creds/own")
			assert.Equal(t, http.StatusServiceUnavailable, status)
			assert.Contains(t, message, "next attempt at")
		}
		assert.Empty(t, e.Read("status/c30").Data["dedicated_roles"])
		readers.Wait()
		e.Creds("own")
		e.Creds("own")
	})
}

func TestGuarantee16AnOperatorsRequestIsSentAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLimited(t, 25, 1)
		var readers sync.WaitGroup
		occupy(e, &readers, 20)
		began := time.Now()
		e.Write("refresh/c24", nil)
		e.Write("refresh/c19", nil) // a reader of it waits as well
		e.Write("config/oauth2/more", engine.SecretClient(false))
		assert.Zero(t, time.Since(began))
		readers.Wait()
	})
}

func TestGuarantee3NoExchangeBeginsAfterAnUnload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLimited(t, 20, 1)
		var readers sync.WaitGroup
		occupy(e, &readers, 20)
		sent, began := e.Exchanges(), time.Now()
		assert.Zero(t, e.Clean())
		readers.Wait()
		assert.Zero(t, time.Since(began), "the reads that wait for their turn end at once")
		time.Sleep(time.Minute)
		assert.Equal(t, sent, e.Exchanges())
	})
}

func TestGuarantee16ReadersHaveTheirTurnBeforeTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLimited(t, 40, 0)
		for range 2 { // they are in use
			for n := range 20 {
				e.Creds(fmt.Sprint("c", n))
			}
			time.Sleep(25 * time.Minute)
		}
		e.Write("hosts/"+oauthHost, map[string]any{"requests_per_second": 1})
		var background sync.WaitGroup
		background.Go(func() { assert.NoError(t, e.Tick()) })
		synctest.Wait()
		assert.NotZero(t, e.Read("hosts/" + oauthHost).Data["waiting"])
		began := time.Now()
		for n := 20; n < 25; n++ {
			e.Creds(fmt.Sprint("c", n))
		}
		assert.InDelta(t, 5, time.Since(began).Seconds(), 1)
		background.Wait()
	})
}

func TestGuarantee16TheLimitOfADefinitionIsNotExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		definition, err := json.Marshal(map[string]any{
			"title": "A vendor that states its limit", "token_url": vendorsim.OAuthTokenURL, "auth": "client_secret_basic", "requests_per_second": 2,
			"fields": map[string]any{"client_id": map[string]any{"required": true}, "client_secret": map[string]any{"secret": true, "required": true}},
			"grants": []any{map[string]any{"grant_type": "client_credentials", "request": map[string]any{"form": map[string]any{"grant_type": "client_credentials"}}}},
		})
		require.NoError(t, err)
		e.Write("vendors/acme", map[string]any{"definition": string(definition)})
		for n := range 20 {
			e.Write(fmt.Sprint("config/acme/c", n), map[string]any{"client_id": engine.ClientID, "client_secret": engine.ClientSecret, "verify": false})
		}
		e.Sim.Behave(vendorsim.Conduct{Rate: vendorsim.Rate{PerSecond: 2, Burst: 2}})
		began := time.Now()
		var readers sync.WaitGroup
		for n := range 20 {
			readers.Go(func() { e.Creds(fmt.Sprint("c", n)) })
		}
		readers.Wait()
		assert.InDelta(t, 9.5, time.Since(began).Seconds(), 0.5)
		assert.Zero(t, e.Sim.Traffic(oauthHost).Throttled)
		assert.InDelta(t, 2, e.Read("hosts/" + oauthHost).Data["current_limit"], 0)
	})
}
