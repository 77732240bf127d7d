package tokenbroker_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestATokenWithoutALeaseHasATTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		resp := e.Token("prod")
		assert.Equal(t, map[string]any{
			"access_token":        e.Creds("prod").Data["access_token"],
			"http_header":         "Authorization: Bearer " + e.Creds("prod").Data["access_token"].(string),
			"token_type":          "Bearer",
			"expire_time":         "2000-01-01T01:00:00Z",
			"vendor":              "kensho",
			"scope":               []string{"kensho:app:link"},
			"ttl":                 int64(45*60 - 1),
			"rotation_period":     int64(60 * 60),
			"last_vault_rotation": "2000-01-01T00:00:00Z",
		}, resp.Data)
		engine.Until(0, 30, 0)
		resp = e.Token("prod")
		assert.Equal(t, int64(15*60-1), resp.Data["ttl"])
		assert.Equal(t, int64(60*60), resp.Data["rotation_period"])
		assert.Equal(t, 1, e.Exchanges())
	})
}

// Vault Agent reads a token without a lease again one second after its ttl.
func TestGuarantee9AgentGetsANewerTokenAtEachRead(t *testing.T) {
	for name, test := range map[string]struct {
		conduct vendorsim.Conduct
		data    map[string]any
		gap     time.Duration // how long the vendor issues no valid token
	}{
		"of 20 s":                     {vendorsim.Conduct{Lifetime: 20 * time.Second}, engine.KeyPairFields(), 0},
		"of 20 s, slow vendor":        {vendorsim.Conduct{Lifetime: 20 * time.Second, Latency: time.Second}, engine.KeyPairFields(), 0},
		"of 3 s":                      {vendorsim.Conduct{Lifetime: 3 * time.Second}, engine.KeyPairFields(), 0},
		"of an hour":                  {vendorsim.Conduct{}, engine.KeyPairFields(), 0},
		"until the hour":              {vendorsim.Conduct{}, map[string]any{"refresh_token": engine.RefreshToken}, time.Second},
		"JWT, until the hour":         {vendorsim.Conduct{JWT: true, Skew: 5 * time.Minute}, map[string]any{"refresh_token": engine.RefreshToken}, time.Second},
		"until the hour, slow vendor": {vendorsim.Conduct{Latency: 2 * time.Second}, map[string]any{"refresh_token": engine.RefreshToken}, 8 * time.Second},
		"until the hour, no Date":     {vendorsim.Conduct{NoDate: true}, map[string]any{"refresh_token": engine.RefreshToken}, 3 * time.Second},
		"of 100 s, skewed clock":      {vendorsim.Conduct{Lifetime: 100 * time.Second, Skew: -4 * time.Minute}, engine.KeyPairFields(), 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Sim.Behave(test.conduct)
				engine.Until(0, 10, 0)
				e.Write("config/kensho/prod", test.data)
				time.Sleep(300 * time.Millisecond)
				var last any
				var expiry time.Time
				for reads := range 20 {
					resp := e.Token("prod")
					token := resp.Data["access_token"]
					assert.NotEqual(t, last, token, "read %d returned the same token", reads)
					if last != nil {
						assert.LessOrEqual(t, time.Since(expiry), test.gap, "the file had an expired token")
					}
					last, expiry = token, e.Sim.Expiry(token.(string))
					time.Sleep(engine.TTLOf(resp) + time.Second)
				}
			})
		})
	}
}

func TestGuarantee4TheTTLLeadsToTheNextAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		first := e.Token("prod").Data["access_token"]
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Throttle("300"))})
		engine.Until(0, 46, 0)
		resp := e.Token("prod")
		assert.Equal(t, first, resp.Data["access_token"])
		assert.Len(t, resp.Warnings, 1)
		assert.Equal(t, int64(299), resp.Data["ttl"])
		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(engine.TTLOf(resp) + time.Second)
		assert.NotEqual(t, first, e.Token("prod").Data["access_token"])
	})
}

func TestTheTTLIsShortWhileARenewalIsInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		first := e.Token("prod").Data["access_token"]
		e.Sim.Behave(vendorsim.Conduct{Latency: 5 * time.Second})
		engine.Until(0, 46, 0)
		resp := e.Token("prod")
		assert.Equal(t, first, resp.Data["access_token"])
		assert.Equal(t, int64(1), resp.Data["ttl"])
		time.Sleep(4 * time.Second)
		assert.NotEqual(t, first, e.Token("prod").Data["access_token"])
	})
}

func TestGuarantee1TheTTLIsNeverZeroAndNeverPastTheTokensExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Token("prod")
		e.Sim.Behave(engine.Down())
		for {
			resp, status, _ := e.Request(logical.ReadOperation, "token/prod", nil)
			if status == http.StatusServiceUnavailable {
				break
			}
			left := time.Until(e.Sim.Expiry(resp.Data["access_token"].(string)))
			assert.GreaterOrEqual(t, engine.TTLOf(resp), time.Second)
			assert.LessOrEqual(t, engine.TTLOf(resp), left)
			time.Sleep(970 * time.Millisecond)
		}
		assert.Greater(t, time.Since(time.Date(2000, 1, 1, 0, 59, 57, 0, time.UTC)), time.Duration(0), "the token is served until its last seconds")
	})
}

func TestTheTTLOfAnOperatorsTokenIsItsRemainingLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 20, 0)
		e.Write("config/kensho/prod", map[string]any{"access_token": "pasted-access-token"})
		assert.Equal(t, int64(40*60-2-1), e.Read("token/prod").Data["ttl"])
	})
}

func TestARolesTTLBoundsTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Write("roles/short", map[string]any{"config": "prod", "ttl": "10m"})
		assert.Equal(t, int64(600), e.Token("short").Data["ttl"])
		engine.Until(0, 40, 0)
		assert.Equal(t, int64(299), e.Token("short").Data["ttl"])
	})
}
