package guarantees_test

import (
	"fmt"
	"net/http"
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

func TestMinTTLIsMetByOneExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		first := e.Creds("prod").Data["access_token"]
		engine.Until(0, 30, 0)
		assert.Equal(t, first, e.ReadFor("creds/prod", "29m").Data["access_token"], "the cached token meets it")
		assert.Equal(t, first, e.ReadFor("creds/prod", "0").Data["access_token"])
		assert.Equal(t, 1, e.Exchanges())

		resp := e.ReadFor("creds/prod", "50m")
		assert.NotEqual(t, first, resp.Data["access_token"])
		assert.Equal(t, time.Hour-30*time.Second, resp.Secret.TTL)
		assert.Empty(t, resp.Warnings)
		assert.Equal(t, 2, e.Exchanges())
		assert.Equal(t, resp.Data["access_token"], e.Creds("prod").Data["access_token"], "other readers get the new token")
		assert.Equal(t, resp.Data["access_token"], e.ReadFor("token/prod", "50m").Data["access_token"])
		assert.Equal(t, 2, e.Exchanges())
	})
}

func TestGuarantee2ReadersWithTheSameMinTTLShareOneExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		engine.Until(0, 30, 0)
		e.Sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
		var readers sync.WaitGroup
		for i := range 100 {
			readers.Go(func() {
				minTTL := []string{"40m", "50m", "55m"}[i%3]
				assert.Empty(t, e.ReadFor("creds/prod", minTTL).Warnings, "a reader whose min_ttl is not met waits for the slow vendor")
			})
			readers.Go(func() { e.Creds("prod") })
			readers.Go(func() {
				assert.Len(t, e.ReadFor("creds/prod", "59m30s").Warnings, 1, "the shared token does not meet a longer min_ttl")
			})
		}
		readers.Wait()
		assert.Equal(t, 2, e.Exchanges())
	})
}

func TestGuarantee2ReadersWithDifferentMinTTLsShareOneSlowExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		data := engine.KeyPairFields()
		data["request_timeout"] = 60
		e.Write("config/kensho/prod", data)
		engine.Until(0, 30, 0)
		e.Sim.Behave(vendorsim.Conduct{Latency: 35 * time.Second})
		var readers sync.WaitGroup
		for i := range 5 {
			readers.Go(func() { e.ReadFor("creds/prod", fmt.Sprintf("59m%ds", 30-i)) })
		}
		readers.Wait()
		assert.Equal(t, 2, e.Exchanges())
	})
}

func TestUnreachableMinTTLReturnsTheBestTokenWithAWarning(t *testing.T) {
	for name, test := range map[string]struct {
		path    string
		data    map[string]any
		minTTL  string
		warning string
	}{
		"longer than the vendor's tokens": {"config/kensho/prod", engine.KeyPairFields(), "2h",
			"min_ttl is 2h0m0s, and this token is valid for 39m30s; a new one would be valid for 59m30s"},
		"longer than the rest of the hour": {"config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken}, "45m",
			"min_ttl is 45m0s, and this token is valid for 29m29s; a longer one is available from 2000-01-01T01:00:00Z"},
		"of a pasted token": {"config/kensho/prod", map[string]any{"access_token": "pasted"}, "45m",
			"min_ttl is 45m0s, and this token is valid for 29m28s; the token cannot be renewed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				engine.Until(0, 10, 0)
				e.Write(test.path, test.data)
				engine.Until(0, 30, 0)
				calls := e.Exchanges()
				for _, path := range []string{"creds/prod", "token/prod"} {
					assert.Equal(t, []string{test.warning}, e.ReadFor(path, test.minTTL).Warnings)
				}
				assert.Equal(t, calls, e.Exchanges(), "no exchange is made that cannot meet it")
			})
		})
	}
}

// Given readers that ask for almost the whole lifetime at every read, the engine makes about
// six exchanges within one lifetime.
func TestGuarantee16MinTTLOfTheWholeLifetimeCausesFewExchanges(t *testing.T) {
	for _, names := range [][]string{{"prod"}, {"prod", "other", "third"}} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			e.Write("config/kensho/prod", engine.KeyPairFields())
			e.Write("roles/other", map[string]any{"config": "prod", "min_ttl": "59m"})
			e.Write("roles/third", map[string]any{"config": "prod"})
			calls, unmet := e.Exchanges(), 0
			for range 5 {
				for range 720 {
					time.Sleep(5 * time.Second)
					for _, name := range names {
						if resp := e.ReadFor("token/"+name, "59m30s"); len(resp.Warnings) > 0 {
							unmet++
							assert.Regexp(t, "^min_ttl is 59m30s, and this token is valid for .*; (a new one would be valid for 59m30s|min_ttl allows 6 exchanges within a token's lifetime, and all are used; the next is possible at .*Z)$", resp.Warnings[0])
						}
					}
				}
				made := e.Exchanges() - calls
				assert.InDelta(t, 6, made, 3, "exchanges within one lifetime")
				calls = e.Exchanges()
			}
			assert.Positive(t, unmet)
			time.Sleep(30 * time.Minute)
			for range 3 {
				time.Sleep(30 * time.Second)
				assert.Empty(t, e.ReadFor("token/prod", "59m30s").Warnings, "a reader that asks rarely gets what it asks for")
			}
		})
	}
}

func TestMinTTLOfMostOfTheLifetimeIsAlwaysMet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Write("roles/batch", map[string]any{"config": "prod", "min_ttl": "49m"})
		for range 24 * 120 {
			time.Sleep(30 * time.Second)
			assert.Empty(t, e.Creds("batch").Warnings)
		}
	})
}

func TestGuarantee4UnmetMinTTLDuringAnOutageIsAWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		first := e.Creds("prod").Data["access_token"]
		engine.Until(0, 30, 0)
		e.Sim.Behave(engine.Down())
		for range 3 {
			resp := e.ReadFor("creds/prod", "50m")
			assert.Equal(t, first, resp.Data["access_token"])
			require.Len(t, resp.Warnings, 1)
			assert.Contains(t, resp.Warnings[0], "the vendor issues no newer token (kensho.okta.com: 503 Service Unavailable: down)")
			assert.Empty(t, e.Creds("prod").Warnings, "a reader without a min_ttl gets no warning")
		}
		assert.Equal(t, 2, e.Exchanges(), "the engine does not call the vendor while backing off")
	})
}

func TestRoleMinTTLAppliesToItsReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Write("roles/batch", map[string]any{"config": "prod", "min_ttl": "45m"})
		engine.Until(0, 10, 0)
		first := e.Creds("batch").Data["access_token"]
		engine.Until(0, 20, 0)
		assert.Equal(t, first, e.Creds("prod").Data["access_token"])
		second := e.Creds("batch").Data["access_token"]
		assert.NotEqual(t, first, second)
		engine.Until(0, 30, 0)
		assert.Equal(t, second, e.ReadFor("creds/batch", "10m").Data["access_token"])
		assert.NotEqual(t, second, e.ReadFor("creds/batch", "50m").Data["access_token"], "the longer of the role's and the reader's min_ttl counts")
	})
}

func TestLeaseIsLimitedToTheRoleTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Write("roles/short", map[string]any{"config": "prod", "ttl": "10m"})
		resp := e.Creds("short")
		assert.Equal(t, 10*time.Minute, resp.Secret.TTL)
		assert.Empty(t, resp.Warnings)
		engine.Until(0, 30, 0)
		resp = e.ReadFor("creds/short", "45m")
		assert.Equal(t, 10*time.Minute, resp.Secret.TTL)
		assert.Equal(t, []string{"min_ttl is 45m0s, but the role's ttl is 10m0s"}, resp.Warnings)
		assert.Equal(t, resp.Warnings, e.ReadFor("token/short", "45m").Warnings)
		assert.Equal(t, 1, e.Exchanges(), "no token makes the lease longer")

		e.System.MaxLeaseTTLVal = 5 * time.Minute
		time.Sleep(time.Second) // the engine caches the old value for a second
		resp = e.ReadFor("creds/short", "45m")
		assert.Equal(t, 5*time.Minute, resp.Secret.TTL)
		assert.Equal(t, []string{"min_ttl is 45m0s, but the mount's maximum lease TTL is 5m0s"}, resp.Warnings)

		engine.Until(0, 55, 0)
		e.System.MaxLeaseTTLVal = 24 * time.Hour
		assert.Equal(t, 10*time.Minute, e.Creds("short").Secret.TTL)
	})
}

func TestInvalidMinTTLIsRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		for value, says := range map[string]string{"-5m": "min_ttl: must not be negative", "soon": "min_ttl: must be a duration", "500ms": "min_ttl: must be a whole number of seconds"} {
			for _, path := range []string{"creds/prod", "token/prod"} {
				_, status, message := e.Request(logical.ReadOperation, path, map[string]any{"min_ttl": value})
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, says)
			}
		}
	})
}
