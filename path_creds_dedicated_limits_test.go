package tokenbroker_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestNoRoleIsOutgrownWhileTheVendorIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("config/oauth2/found", engine.IssuerClient())
		e.Write("roles/own", map[string]any{"config": "found", "dedicated": true})
		e.Write("roles/other", map[string]any{"config": "found", "dedicated": true})
		e.Sim.Behave(engine.MetadataDown())
		calls := e.Exchanges()
		resp, status, message := e.Request(logical.UpdateOperation, "config/oauth2/found", map[string]any{"request_timeout": "20s", "verify": false})
		require.Equal(t, http.StatusOK, status, message)
		if resp != nil {
			assert.Empty(t, resp.Warnings)
		}
		assert.Equal(t, calls+1, e.Exchanges(), "the vendor is asked once for all roles")

		_, status, message = e.Request(logical.UpdateOperation, "roles/third", map[string]any{"config": "found", "dedicated": true})
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Contains(t, message, "the vendor is unavailable: dedicated: auth.example.com: 503 Service Unavailable: down")
	})
}

func TestGuarantee4DedicatedReadersLeaveAVendorAloneWhoseMetadataAreMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("config/oauth2/found", engine.IssuerClient())
		e.Write("roles/own", map[string]any{"config": "found", "dedicated": true})
		e.Restart()
		e.Sim.Behave(engine.MetadataDown())
		calls := e.Exchanges()
		for range 5 {
			status, message := e.Refused("creds/own")
			assert.Equal(t, http.StatusServiceUnavailable, status)
			assert.Contains(t, message, "503 Service Unavailable: down; next attempt at")
		}
		assert.Equal(t, calls+1, e.Exchanges(), "one attempt, whoever asks")
		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(2 * time.Second)
		e.Creds("own")
		assert.Equal(t, "ok", e.Read("status/found").Data["state"])
	})
}

func TestGuarantee16ADedicatedRoleHasSoManyTokensWithinTheLifetimeOfOne(t *testing.T) {
	for name, test := range map[string]struct {
		fields map[string]any
		most   int
	}{
		"one lease":     {map[string]any{"max_leases": 1}, 10},
		"ten leases":    {map[string]any{"max_leases": 10}, 40},
		"no limit":      {map[string]any{"max_leases": 0}, 100},
		"a rate of two": {map[string]any{"max_leases": 1, "max_exchanges": 2}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Write("roles/mine", test.fields)
				read := func() (status int, message string) {
					resp, status, message := e.Request(logical.ReadOperation, "creds/mine", nil)
					if status == http.StatusOK {
						require.NoError(t, e.Revoke(resp)) // as a login, a read and revoke-self do
					}
					return status, message
				}
				for range test.most {
					status, message := read()
					require.Equal(t, http.StatusOK, status, message)
				}
				calls := e.Exchanges()
				for range 3 {
					status, message := read()
					assert.Equal(t, http.StatusTooManyRequests, status)
					assert.Contains(t, message, "tokens have been exchanged within the lifetime of one (1h0m0s): the next one may be at ")
					assert.Contains(t, message, "max_exchanges")
				}
				assert.Equal(t, calls, e.Exchanges(), "the vendor is spared")
				e.Creds("api")

				time.Sleep(time.Hour/time.Duration(test.most) + time.Second)
				status, message := read()
				require.Equal(t, http.StatusOK, status, message)
				status, _ = read()
				assert.Equal(t, http.StatusTooManyRequests, status)
				e.AssertMetrics(map[string]string{`tokenbroker_reads_total{result="failed"}`: "0.0"})
			})
		})
	}
}

func TestReadersWhoKeepTheirLeasesAreNeverRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		for range 48 { // as Agent does at the earliest
			for range 3 {
				lease := e.Creds("mine")
				time.AfterFunc(lease.Secret.TTL*85/100-time.Second, func() { assert.NoError(t, e.Revoke(lease)) })
			}
			time.Sleep(51 * time.Minute)
		}
	})
}

// dedicatedFailures are failures that pass by themselves.
var dedicatedFailures = map[string]http.HandlerFunc{
	"throttled":           vendorsim.Throttle("3000"),
	"down":                vendorsim.Answer(503, ""),
	"no answer in time":   vendorsim.Hang,
	"200 without a token": vendorsim.Answer(200, "{}"),
}

// Guarantee 15: what fails of a dedicated role's exchanges by itself counts against the role only.
func TestFaultADedicatedReadersExchangeFails(t *testing.T) {
	for name, fault := range dedicatedFailures {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Write("roles/other", map[string]any{"config": "api", "dedicated": true})
				e.Write("roles/ours", map[string]any{"config": "api", "scope": "write"})
				e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(fault)})
				status, message := e.Refused("creds/mine")
				assert.GreaterOrEqual(t, status, 502, message)
				e.Sim.Behave(vendorsim.Conduct{})
				calls := e.Exchanges()
				e.Refused("creds/mine")
				assert.Equal(t, calls, e.Exchanges(), "the role waits")
				e.Creds("other")
				e.Creds("ours")
				resp := e.Creds("api")
				assert.Empty(t, resp.Warnings)

				data := e.Read("status/api").Data
				assert.Equal(t, "failed", data["state"])
				assert.Equal(t, data["last_error"], data["dedicated_roles"].(map[string]any)["mine"].(map[string]any)["last_error"])
				e.Write("refresh/api", nil)
				e.Creds("mine")
				data = e.Read("status/api").Data
				assert.Equal(t, "ok", data["state"])
				assert.NotContains(t, data, "dedicated_roles")
			})
		})
	}
	if !t.Failed() {
		tally.Record(t, tally.Row{Fault: "vendor: an exchange of a dedicated reader fails", Tried: len(dedicatedFailures), Note: "all other readers get a token"})
	}
}

func TestGuarantee5ARejectionOfADedicatedReadersExchangeIsTheCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(401, `{"error":"invalid_client"}`))})
		status, _ := e.Refused("creds/mine")
		assert.Equal(t, http.StatusBadRequest, status)
		data := e.Read("status/api").Data
		assert.Equal(t, 1, data["consecutive_failures"])
		assert.NotContains(t, data, "dedicated_roles")
	})
}

func TestLeasesThatWereRevokedByForceCanBeForgotten(t *testing.T) {
	for name, forget := range map[string]func(*engine.Engine){
		"by a field": func(e *engine.Engine) { e.Write("roles/mine", map[string]any{"forget_leases": true}) },
		"by deleting the role": func(e *engine.Engine) {
			_, status, _ := e.Request(logical.DeleteOperation, "roles/mine", nil)
			require.Equal(e.T, http.StatusOK, status)
			e.Write("roles/mine", map[string]any{"config": "api", "scope": "read", "dedicated": true, "max_leases": 3})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				leases := []*logical.Response{e.Creds("mine"), e.Creds("mine"), e.Creds("mine")}
				e.ForceRevoke(leases[:2]...)
				status, message := e.Refused("creds/mine")
				assert.Equal(t, http.StatusTooManyRequests, status)
				assert.Contains(t, message, "forget_leases=true")
				e.Write("roles/mine", map[string]any{"ttl": "30m"})
				e.Refused("creds/mine") // whatever else is written changes nothing

				forget(e)
				assert.NotContains(t, e.Read("roles/mine").Data, "forget_leases")
				for range 3 {
					e.Creds("mine")
				}
				e.Refused("creds/mine")

				require.NoError(t, e.Revoke(leases[2]), "a lease that runs on")
				assert.False(t, e.Sim.Accepts(engine.TokenOf(leases[2])), "ends its token all the same")
				time.Sleep(26 * time.Hour)
				e.Creds("mine")
				assert.Len(t, e.Leased(), 1, "what is left of the forgotten goes away")
			})
		})
	}
}

// Guarantee 16: what is counted are tokens. An exchange that yields none may be repeated when
// the vendor is well again.
func TestGuarantee16FailedExchangesTakeNoneOfADedicatedRolesTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("roles/mine", map[string]any{"max_leases": 3, "max_exchanges": 5})
		require.NoError(t, e.Revoke(e.Creds("mine")))
		time.Sleep(2 * time.Hour)
		outage := engine.Down()
		outage.Latency = time.Second
		e.Sim.Behave(outage)
		calls := e.Exchanges()
		for range 30 {
			e.Refused("creds/mine")
			time.Sleep(time.Minute)
		}
		assert.Greater(t, e.Exchanges(), calls+5)
		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(6 * time.Minute)
		for range 5 {
			require.NoError(t, e.Revoke(e.Creds("mine")))
		}
		status, _ := e.Refused("creds/mine")
		assert.Equal(t, http.StatusTooManyRequests, status)
	})
}

// Row 40: this server's clock may say of a token that it has expired, and be set back. Its
// lease is not counted meanwhile, and still there then.
func TestRow40AStepOfTheClockDeletesNoLeaseOfATokenThatLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Creds("mine")
		key := e.Leased()[0]
		time.Sleep(20 * time.Hour)
		for range 3 {
			e.Creds("mine")
			time.Sleep(time.Hour)
		}
		assert.Contains(t, e.Leased(), key)
	})
}
