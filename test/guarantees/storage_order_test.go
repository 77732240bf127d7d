package guarantees_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee3ScopeTokenDoesNotOverwriteAnotherNodesState(t *testing.T) {
	for name, otherNode := range map[string]map[string]any{"it rotates the refresh token": nil, "it drops the tokens": {"drop": true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, bounded, roles := engine.NewBounded(t, engine.RaftEntry, true)
				e.Storage = bounded.Storage
				storage := e.BreakStorage()
				older := engine.TokenOf(e.Creds("api"))
				refuse := engine.RefuseScopeEntries
				storage.OnCall.Store(&refuse)
				e.Refused("creds/" + roles[0])
				storage.OnCall.Store(nil)

				first := e.Backend
				e.Restart()
				e.Write("refresh/api", otherNode)
				newer := engine.TokenOf(e.Creds("api"))
				e.Reactivate(first)
				e.Pass(time.Minute)
				e.Creds(roles[0])
				got := engine.TokenOf(e.Creds("api"))
				assert.Equal(t, newer, got)
				assert.NotEqual(t, older, got)
				time.Sleep(2 * time.Hour)
				e.Creds("api") // uses the other node's refresh token, or a later one
			})
		})
	}
}

// newSingleRotatingEngine mounts an engine with a credential whose vendor ends the last token
// and rotates the refresh token with each exchange.
func newSingleRotatingEngine(t *testing.T) (*engine.Engine, *engine.FaultyStorage) {
	t.Helper()
	e := engine.New(t)
	client := vendorsim.OAuthClient{
		ID: engine.ClientID, Secret: engine.ClientSecret, Scopes: []string{"read", "write"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.RefreshTokenGrant}, Rotate: true,
	}
	e.Sim.AddOAuthClient(client)
	e.Sim.AddOAuthRefreshToken(client, engine.RefreshToken, "read", "write")
	e.Sim.Behave(engine.SingleToken())
	fields := engine.SecretClient(true)
	fields["refresh_token"], fields["single_token"] = engine.RefreshToken, true
	e.Write("config/oauth2/api", fields)
	return e, e.BreakStorage()
}

func TestGuarantee2EndedTokenStaysEndedAcrossRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newSingleRotatingEngine(t)
		time.Sleep(time.Second)
		e.Write("refresh/api", nil)
		storage.FailWritesAfter(2) // the probe, and the credential's entry
		e.Request(logical.UpdateOperation, "refresh/api", nil)
		storage.WritesLeft.Store(nil)
		conduct := engine.SingleToken()
		conduct.Fault = vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, "down"))
		e.Sim.Behave(conduct)
		for range 3 {
			e.Restart()
			e.Refused("creds/api") // stores the failure
			time.Sleep(time.Minute)
		}
		e.Sim.Behave(engine.SingleToken())
		time.Sleep(10 * time.Minute)
		e.Creds("api")
	})
}

func TestGuarantee2DamagedEntryRestoresNoEarlierToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newSingleRotatingEngine(t)
		time.Sleep(time.Second)
		e.Write("refresh/api", nil)
		e.Damage("state/api/own")
		e.Restart()
		e.Creds("api")
	})
}

func TestStatusIsTheSameAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Creds("api")
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`))})
		time.Sleep(time.Hour)
		e.Refused("creds/api")
		time.Sleep(11 * time.Minute)
		e.Refused("creds/mine") // stores an entry of its scope
		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(11 * time.Minute)
		e.Creds("mine") // clears that entry
		before := e.Read("status/api").Data
		require.Equal(t, 2, before["exchanges"])
		e.Restart()
		assert.Equal(t, before, e.Read("status/api").Data)
	})
}

// Given a token pair that is too large to store, the engine gets another one with the API key.
func TestGuarantee15OversizedTokenPairBlocksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		storage := &engine.BoundedStorage{Storage: e.Storage, MaxSize: 16 << 10}
		e.Storage = storage
		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "verify": false})
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.Sim.Amend(func(answer map[string]any) {
			answer["refreshToken"] = strings.Repeat("r", 32<<10)
		}))})
		e.Creds("search")
		assert.Positive(t, storage.Refused)
		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(24 * time.Hour)
		e.Creds("search")
	})
}

func TestGuarantee15OversizedScopeBlocksNoOtherRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage, roles := engine.NewBounded(t, 16<<10, true)
		e.Creds(roles[0])
		older := engine.TokenOf(e.Creds(roles[1]))
		time.Sleep(time.Second)
		exchanges := 0
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.Sim.Amend(func(answer map[string]any) {
			if exchanges++; exchanges == 2 { // the first role's exchange, after the credential's own
				answer["access_token"] = strings.Repeat("a", 32<<10)
			}
		}))})
		_, status, message := e.Request(logical.UpdateOperation, "refresh/api", nil)
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Contains(t, message, "the maximum size of a storage entry")
		assert.NotEqual(t, older, engine.TokenOf(e.Creds(roles[1])))

		// After the storage limit is raised, a refresh ends the back-off.
		e.OversizeTokens()
		e.Refused("creds/" + roles[2])
		storage.MaxSize = engine.RaftEntry
		e.Sim.Behave(vendorsim.Conduct{})
		e.Write("refresh/api", nil)
		e.Creds(roles[2])
	})
}

func TestGuarantee15UnusedOversizedScopeIsNotExchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, roles := engine.NewBounded(t, 16<<10, true)
		e.Creds(roles[0])
		time.Sleep(time.Hour)
		e.Creds(roles[0])
		e.OversizeTokens()
		calls := e.Exchanges()
		failed := 0
		for range 24 * 60 {
			time.Sleep(time.Minute)
			if e.Tick() != nil {
				failed++
			}
		}
		assert.Equal(t, 1, failed, "the sweep reports the failure once")
		assert.Less(t, e.Exchanges()-calls, 40, "one exchange of the scope, and the credential's keepalives")
	})
}

func TestWriteDeletesTheStateOfAnEarlierGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newSingleRotatingEngine(t)
		e.Write("refresh/api", nil)
		require.Contains(t, e.Dump(), "state/api/grant")
		storage.RefuseDeletes.Store(true)
		e.Write("config/oauth2/api", map[string]any{"scope": "read", "verify": false})
		storage.RefuseDeletes.Store(false)
		e.Restart()
		time.Sleep(time.Hour)
		e.Request(logical.ReadOperation, "creds/api", nil)
		e.Write("config/oauth2/api", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		assert.NotContains(t, e.Dump(), "state/api/grant")
	})
}

func TestPanicDuringCleanupIsContained(t *testing.T) {
	e := engine.New(t)
	e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
	storage := e.BreakStorage()
	for _, met := range []func(c engine.StorageCall) engine.Fault{
		func(engine.StorageCall) engine.Fault { return engine.Fault{Err: engine.ErrStorage} },
		func(c engine.StorageCall) engine.Fault {
			if strings.HasPrefix(c.Key, "state/prod") {
				panic("of storage")
			}
			return engine.Fault{}
		},
	} {
		storage.OnCall.Store(&met)
		e.Request(logical.UpdateOperation, "refresh/prod", nil)
	}
	e.Backend.Cleanup(t.Context())
}
