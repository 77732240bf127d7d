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

// device begins a consent on another device, and returns the code that the person enters.
func (e *consenting) device() string {
	e.T.Helper()
	resp, status, message := e.Request(logical.UpdateOperation, "authorize/"+person, map[string]any{"flow": "device", "claims": "email"})
	require.Equal(e.T, http.StatusOK, status, message)
	assert.Equal(e.T, vendorsim.OAuthIssuer+"/device", resp.Data["verification_uri"])
	assert.Greater(e.T, strings.Count(resp.Data["qr_code"].(string), "\n"), 10)
	return resp.Data["user_code"].(string)
}

// withDevices runs a test whose engine polls in the background.
func withDevices(t *testing.T, test func(t *testing.T, e *consenting)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		t.Cleanup(func() { e.Clean() })
		test(t, e)
	})
}

func TestAPersonConsentsOnAnotherDevice(t *testing.T) {
	withDevices(t, func(t *testing.T, e *consenting) {
		code := e.device()
		time.Sleep(time.Minute)
		consent := e.consent()
		assert.Equal(t, "pending", consent["state"], consent["error"])
		assert.Equal(t, code, consent["user_code"])
		e.Sim.Approve(code, person)
		time.Sleep(6 * time.Second)
		assert.Equal(t, "connected", e.consent()["state"])
		assert.Equal(t, map[string]any{"email": person}, e.consent()["claims"])
		assert.NotContains(t, e.consent(), "user_code")
		e.Creds(person)
		before := e.Exchanges()
		time.Sleep(10 * time.Minute)
		assert.Equal(t, before, e.Exchanges(), "it is not polled any more")
	})
}

func TestAConsentOnAnotherDeviceOutlivesARestart(t *testing.T) {
	withDevices(t, func(t *testing.T, e *consenting) {
		code := e.device()
		time.Sleep(7 * time.Second)
		e.Clean()
		e.Restart()
		e.Sim.Approve(code, person)
		require.NoError(t, e.Tick()) // the first sweep resumes it
		time.Sleep(11 * time.Second)
		assert.Equal(t, "connected", e.consent()["state"])
		e.Creds(person)
	})
}

func TestAConsentOnAnotherDeviceEndsAsThePersonDecides(t *testing.T) {
	for name, test := range map[string]struct {
		act   func(e *consenting, code string)
		state string
		says  string
	}{
		"refused":  {func(e *consenting, code string) { e.Sim.Deny(code) }, "refused", "access_denied"},
		"too late": {func(*consenting, string) { time.Sleep(16 * time.Minute) }, "expired", ""},
		"the credential is changed": {func(e *consenting, _ string) {
			e.Write("config/oauth2/"+person, map[string]any{"scope": "openid"})
		}, "failed", "changed"},
	} {
		t.Run(name, func(t *testing.T) {
			withDevices(t, func(t *testing.T, e *consenting) {
				test.act(e, e.device())
				time.Sleep(time.Minute)
				consent := e.consent()
				assert.Equal(t, test.state, consent["state"])
				if test.says != "" {
					assert.Contains(t, consent["error"], test.says)
				}
				before := e.Exchanges()
				time.Sleep(10 * time.Minute)
				assert.Equal(t, before, e.Exchanges(), "it is not polled any more")
			})
		})
	}
}

func TestGuarantee16AVendorIsPolledAtItsInterval(t *testing.T) {
	withDevices(t, func(t *testing.T, e *consenting) {
		e.Sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{SlowDown: true}})
		code := e.device()
		before := e.Exchanges()
		time.Sleep(5*time.Second + 10*10*time.Second)
		assert.InDelta(t, 14, e.Exchanges()-before, 2, "every 10 s after slow_down, and once the metadata and the keys")
		e.Sim.Behave(engine.Down())
		time.Sleep(30 * time.Second)
		e.Sim.Behave(vendorsim.Conduct{})
		e.Sim.Approve(code, person)
		time.Sleep(11 * time.Second)
		assert.Equal(t, "connected", e.consent()["state"], "an outage does not end it")
		e.Creds(person)
	})
}

func TestAnotherConsentEndsTheOneOnAnotherDevice(t *testing.T) {
	withDevices(t, func(t *testing.T, e *consenting) {
		code := e.device()
		status, page := e.open(e.Sim.Consent(e.begin(), person))
		require.Equal(t, http.StatusOK, status, page)
		e.Sim.Approve(code, "mallory@example.com")
		time.Sleep(time.Minute)
		assert.Equal(t, "connected", e.consent()["state"])
		assert.Equal(t, person, e.consent()["claims"].(map[string]any)["email"])
	})
}

// Guarantee 3: the vendor is asked only if its answer can be stored, and what it has answered is not lost.
func TestGuarantee3TheResultOfAConsentOnAnotherDeviceIsNotLost(t *testing.T) {
	for _, refused := range []struct{ op, prefix string }{{"get", "consent/"}, {"get", "config/"}, {"put", "config/"}, {"put", "consent/"}} {
		t.Run(refused.op+" "+refused.prefix, func(t *testing.T) {
			withDevices(t, func(t *testing.T, e *consenting) {
				faulty := &engine.FaultyStorage{Storage: e.Storage}
				e.Storage = faulty
				code := e.device()
				refuse(faulty, refused.op, refused.prefix, false)
				e.Sim.Approve(code, person)
				time.Sleep(30 * time.Second)
				faulty.OnCall.Store(nil)
				time.Sleep(15 * time.Second) // another node may have polled in the meantime
				require.NoError(t, e.Tick())
				assert.Equal(t, "connected", e.consent()["state"])
				e.Creds(person)
			})
		})
	}
}

func TestAnAnswerThatBeginsNoConsentOnAnotherDeviceIsRefused(t *testing.T) {
	for name, change := range map[string]func(answer map[string]any){
		"no lifetime":               func(a map[string]any) { delete(a, "expires_in") },
		"no code":                   func(a map[string]any) { delete(a, "user_code") },
		"a page without encryption": func(a map[string]any) { a["verification_uri"] = "http://auth.example.com/device" },
		"a script":                  func(a map[string]any) { a["verification_uri_complete"] = "javascript:alert(1)" },
		"a page longer than a code": func(a map[string]any) {
			a["verification_uri_complete"] = "https://a.example/" + strings.Repeat("a", 4000)
		},
	} {
		t.Run(name, func(t *testing.T) {
			withDevices(t, func(t *testing.T, e *consenting) {
				e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.Sim.Amend(func(answer map[string]any) {
					if answer["device_code"] != nil {
						change(answer)
					}
				}))})
				_, status, message := e.Request(logical.UpdateOperation, "authorize/"+person, map[string]any{"flow": "device"})
				assert.Equal(t, http.StatusBadGateway, status, message)
				assert.Equal(t, "required", e.consent()["state"])
			})
		})
	}
}
