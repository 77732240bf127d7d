package guarantees_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// connect plays the person who consents in a browser.
func (e *consenting) connect() {
	e.T.Helper()
	status, page := e.open(e.Sim.Consent(e.begin(), person))
	require.Equal(e.T, http.StatusOK, status, page)
}

// limited is the definition of a vendor whose refresh tokens expire 100 days after the consent.
const limited = `{
	"title": "Limited",
	"fields": {"client_id": {"required": true}, "client_secret": {"required": true}, "refresh_token": {}},
	"token_url": "https://auth.example.com/oauth2/token", "auth": "client_secret_basic",
	"grants": [{"grant_type": "refresh_token", "needs": ["client_id", "client_secret", "refresh_token"],
		"request": {"form": {"grant_type": "refresh_token", "refresh_token": "{refresh_token}"}}}],
	"authorization": {"url": "https://auth.example.com/oauth2/authorize", "issuer": "https://auth.example.com"},
	"refresh_token": {"lifetime": "100d"}
}`

// The vendor counts from the consent, or from the issue of the refresh token that an operator writes.
func TestARefreshTokensFixedEndIsNotMovedByAnotherSecret(t *testing.T) {
	for name, gets := range map[string]func(e *consenting, path string){
		"of a consent": func(e *consenting, _ string) { e.connect() },
		"of an operator": func(e *consenting, path string) {
			e.Sim.AddOAuthRefreshToken(e.client, engine.RefreshToken, "openid", "read")
			e.Write(path, map[string]any{"refresh_token": engine.RefreshToken})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newConsenting(t)
				_, status, message := e.Request(logical.DeleteOperation, "config/oauth2/"+person, nil)
				require.Equal(t, http.StatusOK, status, message)
				e.Write("vendors/limited", map[string]any{"definition": limited})
				path := "config/limited/" + person
				e.Write(path, map[string]any{"client_id": engine.ClientID, "client_secret": engine.ClientSecret, "scope": "openid,read", "redirect_uri": redirectURI})
				assert.NotContains(t, e.Read("status/"+person).Data, "expires", "there is no refresh token yet")
				time.Sleep(50 * 24 * time.Hour)
				gets(e, path)
				ends := "2000-05-30T00:00:00Z"
				require.Equal(t, ends, e.Read("status/" + person).Data["expires"])
				time.Sleep(80 * 24 * time.Hour)

				e.client.NextSecret = "the-next-client-secret-0123456789"
				e.Sim.AddOAuthClient(e.client)
				e.Write(path, map[string]any{"client_secret": e.client.NextSecret})
				e.Write(path, map[string]any{"scope": "openid"})
				assert.Equal(t, ends, e.Read("status/" + person).Data["expires"])
				e.Restart()
				time.Sleep(7 * 24 * time.Hour)
				require.NoError(t, e.Tick())
				assert.Equal(t, true, e.Read("status/" + person).Data["consent"].(map[string]any)["required"])
				e.connect()
				assert.Equal(t, "2000-08-25T00:00:00Z", e.Read("status/" + person).Data["expires"])
			})
		})
	}
}

// A warning that remains after the consent that it asked for would make people consent in vain.
func TestAConsentEndsTheWarningThatAskedForIt(t *testing.T) {
	for name, test := range map[string]struct {
		date  string
		after any
	}{"the date is near": {"2000-01-31", nil}, "the date has passed": {"2000-01-15", nil}, "the date is far": {"2000-06-01", "2000-06-01T00:00:00Z"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newConsenting(t)
				e.Write("config/oauth2/"+person, map[string]any{"expires": test.date})
				e.connect()
				assert.NotNil(t, e.Read("status/" + person).Data["expires"], "the operator knew it before the first consent")
				time.Sleep(20 * 24 * time.Hour)
				e.connect()
				assert.Equal(t, test.after, e.Read("status/" + person).Data["expires"])
				assert.Equal(t, false, e.Read("status/" + person).Data["consent"].(map[string]any)["required"])
			})
		})
	}
}

// The former node may have polled just now.
func TestGuarantee16TheIntervalOfPollsHoldsAcrossAFailover(t *testing.T) {
	withDevices(t, func(t *testing.T, e *consenting) {
		e.Sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{SlowDown: true}})
		code := e.device()
		for range 5 {
			time.Sleep(16 * time.Second) // just after a poll, all but for the first
			e.Clean()
			e.Restart()
			require.NoError(t, e.Tick())
		}
		assert.Zero(t, e.Sim.EarlyPolls())
		e.Sim.Approve(code, person)
		time.Sleep(16 * time.Second)
		assert.Equal(t, "connected", e.consent()["state"])
	})
}

func TestGuarantee16AnIntervalThatStorageDoesNotAcceptHolds(t *testing.T) {
	withDevices(t, func(t *testing.T, e *consenting) {
		e.Sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{SlowDown: true}})
		faulty := e.BreakStorage()
		e.device()
		refuse(faulty, "put", "consent/", false)
		time.Sleep(2 * time.Minute)
		assert.Zero(t, e.Sim.EarlyPolls())
		faulty.OnCall.Store(nil)
	})
}

// Given a node that ends between the vendor's slow_down and the write of the interval, the next one polls no earlier.
func TestGuarantee16AnIntervalThatIsLostAtAFailoverHolds(t *testing.T) {
	withDevices(t, func(t *testing.T, e *consenting) {
		e.Sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{SlowDown: true}})
		faulty := e.BreakStorage()
		code := e.device()
		refuse(faulty, "put", "consent/", false)
		time.Sleep(6 * time.Second) // one poll
		e.Clean()
		faulty.OnCall.Store(nil)
		e.Restart()
		require.NoError(t, e.Tick())
		e.Sim.Approve(code, person)
		time.Sleep(21 * time.Second)
		assert.Equal(t, "connected", e.consent()["state"])
		assert.Zero(t, e.Sim.EarlyPolls())
	})
}

// A vendor that counts from a longer interval adds to it at each poll that is too early.
func TestGuarantee16AnIntervalThatIsTooShortIsCaughtUp(t *testing.T) {
	withDevices(t, func(t *testing.T, e *consenting) {
		e.Sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{SlowDown: true}})
		code := e.device()
		time.Sleep(16 * time.Second) // the vendor has asked for 10 s
		e.Clean()
		e.Amend("consent/"+person, func(entry map[string]any) {
			entry["device"].(map[string]any)["interval"] = time.Second
		})
		e.Restart()
		require.NoError(t, e.Tick())
		e.Sim.Approve(code, person)
		time.Sleep(2 * time.Minute)
		assert.Equal(t, "connected", e.consent()["state"])
		assert.Equal(t, 2, e.Sim.EarlyPolls())
	})
}

// Storage accepts no write of a node that is not active any more, which may not know that yet. Given a person who
// has consented, such a node must leave the answer to the active node.
func TestGuarantee10ANodeThatIsNotActiveDoesNotSpendADeviceCode(t *testing.T) {
	withDevices(t, func(t *testing.T, e *consenting) {
		faulty := e.BreakStorage()
		e.Restart()
		code := e.device()
		refuse(faulty, "put", "", false)
		e.Sim.Approve(code, person)
		time.Sleep(30 * time.Second)
		assert.Empty(t, e.Sim.Consents())
		former := e.Backend
		e.Storage = faulty.Storage
		e.Restart()
		require.NoError(t, e.Tick())
		time.Sleep(11 * time.Second)
		assert.Equal(t, "connected", e.consent()["state"])
		assert.Len(t, e.Sim.Consents(), 1)
		former.Cleanup(t.Context())
		e.Creds(person)
	})
}

// The credential's entry says who has consented, so the attempt that has yielded it has not failed.
func TestAConsentWhoseEndIsNotStoredIsConnected(t *testing.T) {
	for name, later := range map[string]func(e *consenting){
		"after the lifetime of the code": func(*consenting) { time.Sleep(16 * time.Minute) },
		"on another node": func(e *consenting) {
			e.Clean()
			e.Restart()
			require.NoError(e.T, e.Tick())
			time.Sleep(time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			withDevices(t, func(t *testing.T, e *consenting) {
				faulty := e.BreakStorage()
				e.Restart()
				code := e.device()
				refuse(faulty, "put", "consent/", false)
				e.Sim.Approve(code, person)
				time.Sleep(10 * time.Second)
				require.Equal(t, "connected", e.consent()["state"])
				faulty.OnCall.Store(nil)
				later(e)
				assert.Equal(t, "connected", e.consent()["state"])
				assert.NotContains(t, e.consent(), "error")
				e.AssertMetrics(map[string]string{`tokenbroker_consents_total{result="changed"}`: "0.0"})
				assert.Equal(t, map[string]any{"email": person}, e.consent()["claims"])
			})
		})
	}
}
