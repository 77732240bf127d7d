package tokenbroker_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee3WhatAnotherNodeHasStoredIsNotWrittenOverWithAScopesToken(t *testing.T) {
	for name, otherNode := range map[string]map[string]any{"it replaces the refresh token": nil, "it drops the tokens": {"drop": true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, bounded, roles := newBoundedEngine(t, raftEntry, true)
				e.storage = bounded.Storage
				storage := e.moody()
				older := tokenOf(e.creds("api"))
				refuse := refuseScopes
				storage.meet.Store(&refuse)
				e.refused("creds/" + roles[0])
				storage.meet.Store(nil)

				first := e.backend
				e.restart()
				e.write("refresh/api", otherNode)
				newer := tokenOf(e.creds("api"))
				e.takeBack(first)
				e.pass(time.Minute)
				e.creds(roles[0])
				got := tokenOf(e.creds("api"))
				assert.Equal(t, newer, got)
				assert.NotEqual(t, older, got)
				time.Sleep(2 * time.Hour)
				e.creds("api") // with the refresh token of the other node, or what replaced it
			})
		})
	}
}

// newSingleRotatingEngine has a credential of a vendor who ends the last token with each exchange,
// and replaces the refresh token.
func newSingleRotatingEngine(t *testing.T) (*engine, *moodyStorage) {
	t.Helper()
	e := newEngine(t)
	client := vendorsim.OAuthClient{
		ID: clientID, Secret: clientSecret, Scopes: []string{"read", "write"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.RefreshTokenGrant}, Rotate: true,
	}
	e.sim.AddOAuthClient(client)
	e.sim.AddOAuthRefreshToken(client, refreshToken, "read", "write")
	e.sim.Behave(singleToken())
	fields := secretClient(true)
	fields["refresh_token"], fields["single_token"] = refreshToken, true
	e.write("config/oauth2/api", fields)
	return e, e.moody()
}

func TestGuarantee2ATokenThatAnExchangeHasEndedStaysSoAcrossRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newSingleRotatingEngine(t)
		time.Sleep(time.Second)
		e.write("refresh/api", nil)
		storage.dieAfter(2) // the fence, and the credential's entry
		e.request(logical.UpdateOperation, "refresh/api", nil)
		storage.lastWrites.Store(nil)
		conduct := singleToken()
		conduct.Fault = vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, "down"))
		e.sim.Behave(conduct)
		for range 3 {
			e.restart()
			e.refused("creds/api") // which writes the failure
			time.Sleep(time.Minute)
		}
		e.sim.Behave(singleToken())
		time.Sleep(10 * time.Minute)
		e.creds("api")
	})
}

func TestGuarantee2ADamagedEntryBringsBackNoEarlierToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newSingleRotatingEngine(t)
		time.Sleep(time.Second)
		e.write("refresh/api", nil)
		e.damage("state/api/own")
		e.restart()
		e.creds("api")
	})
}

func TestStatusIsTheSameAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.creds("api")
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`))})
		time.Sleep(time.Hour)
		e.refused("creds/api")
		time.Sleep(11 * time.Minute)
		e.refused("creds/mine") // which leaves an entry of its scope
		e.sim.Behave(vendorsim.Conduct{})
		time.Sleep(11 * time.Minute)
		e.creds("mine") // which empties it
		before := e.read("status/api").Data
		require.Equal(t, 2, before["exchanges"])
		e.restart()
		assert.Equal(t, before, e.read("status/api").Data)
	})
}

// An API key makes another pair where the one that the vendor answered is too large.
func TestGuarantee15APairThatStorageDoesNotTakeBlocksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := &boundedStorage{Storage: e.storage, most: 16 << 10}
		e.storage = storage
		e.write("config/sitecore/search", map[string]any{"api_key": apiKey, "verify": false})
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.sim.Amend(func(answer map[string]any) {
			answer["refreshToken"] = strings.Repeat("r", 32<<10)
		}))})
		e.creds("search")
		assert.Positive(t, storage.refused)
		e.sim.Behave(vendorsim.Conduct{})
		time.Sleep(24 * time.Hour)
		e.creds("search")
	})
}

func TestGuarantee15AScopeThatIsTooLargeKeepsNoOtherFromBeingRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage, roles := newBoundedEngine(t, 16<<10, true)
		e.creds(roles[0])
		older := tokenOf(e.creds(roles[1]))
		time.Sleep(time.Second)
		exchanges := 0
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.sim.Amend(func(answer map[string]any) {
			if exchanges++; exchanges == 2 { // of the first role, after the credential's own
				answer["access_token"] = strings.Repeat("a", 32<<10)
			}
		}))})
		_, status, message := e.request(logical.UpdateOperation, "refresh/api", nil)
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Contains(t, message, "more than storage takes in one entry")
		assert.NotEqual(t, older, tokenOf(e.creds(roles[1])))

		// Once the limit is raised, a refresh ends the wait.
		e.lengthen()
		e.refused("creds/" + roles[2])
		storage.most = raftEntry
		e.sim.Behave(vendorsim.Conduct{})
		e.write("refresh/api", nil)
		e.creds(roles[2])
	})
}

func TestGuarantee15AScopeThatIsTooLargeIsNotExchangedForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, roles := newBoundedEngine(t, 16<<10, true)
		e.creds(roles[0])
		time.Sleep(time.Hour)
		e.creds(roles[0])
		e.lengthen()
		calls := e.exchanges()
		failed := 0
		for range 24 * 60 {
			time.Sleep(time.Minute)
			if e.tick() != nil {
				failed++
			}
		}
		assert.Equal(t, 1, failed, "which its sweep says")
		assert.Less(t, e.exchanges()-calls, 40, "its own once, and once a keepalive")
	})
}

func TestNothingIsLeftOfAnEarlierGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newSingleRotatingEngine(t)
		e.write("refresh/api", nil)
		require.Contains(t, e.dump(), "state/api/credential")
		storage.refuseAway.Store(true)
		e.write("config/oauth2/api", map[string]any{"scope": "read", "verify": false})
		storage.refuseAway.Store(false)
		e.restart()
		time.Sleep(time.Hour)
		e.request(logical.ReadOperation, "creds/api", nil)
		e.write("config/oauth2/api", map[string]any{"refresh_token": refreshToken, "verify": false})
		assert.NotContains(t, e.dump(), "state/api/credential")
	})
}

func TestAPanicWhileTheEngineEndsIsContained(t *testing.T) {
	e := newEngine(t)
	e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
	storage := e.moody()
	for _, met := range []func(c storageCall) mood{
		func(storageCall) mood { return mood{err: errStorage} },
		func(c storageCall) mood {
			if strings.HasPrefix(c.key, "state/prod") {
				panic("of storage")
			}
			return mood{}
		},
	} {
		storage.meet.Store(&met)
		e.request(logical.UpdateOperation, "refresh/prod", nil)
	}
	e.backend.Cleanup(t.Context())
}
