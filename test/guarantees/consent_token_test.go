package guarantees_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// ends lets a person consent in a browser or on another device, and returns the page of the browser.
var ends = map[string]func(e *consenting) (page string){
	"in a browser": func(e *consenting) string {
		_, page := e.open(e.Sim.Consent(e.begin(), person))
		return page
	},
	"on another device": func(e *consenting) string {
		e.Sim.Approve(e.device(), person)
		time.Sleep(6 * time.Second)
		return ""
	},
}

// amendTokens amends each answer of the token endpoint.
func (e *consenting) amendTokens(amend func(answer map[string]any)) {
	e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.Sim.Amend(func(answer map[string]any) {
		if answer["access_token"] != nil {
			amend(answer)
		}
	}))})
}

// Another consent takes a person, so a refresh token that came without an access token is stored and exchanged.
func TestGuarantee3ARefreshTokenOfAConsentWithoutAnAccessTokenIsKept(t *testing.T) {
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			withDevices(t, func(t *testing.T, e *consenting) {
				e.amendTokens(func(answer map[string]any) {
					if answer["id_token"] != nil { // the answer to the consent
						delete(answer, "access_token")
					}
				})
				end(e)
				assert.Equal(t, "connected", e.consent()["state"], e.consent()["error"])
				assert.Equal(t, person, e.consent()["claims"].(map[string]any)["email"])
				before := e.Exchanges()
				e.Creds(person)
				assert.Equal(t, before, e.Exchanges(), "it was exchanged at once")
			})
		})
	}
	withDevices(t, func(t *testing.T, e *consenting) {
		e.amendTokens(func(answer map[string]any) { delete(answer, "access_token") })
		status, page := e.open(e.Sim.Consent(e.begin(), person))
		assert.Equal(t, http.StatusBadGateway, status)
		assert.Contains(t, page, "Do not consent again")
		assert.Contains(t, page, "no access token")
		assert.Contains(t, e.Read("status/" + person).Data["last_error"], "no access token")
		metrics := e.MetricsText()
		assert.Contains(t, metrics, `tokenbroker_consents_total{result="no_token"} 1.0`)
		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(time.Minute)
		e.Creds(person)
	})
}

// The operator adds what is missing; the person need not consent again.
func TestGuarantee3ARefreshTokenOfAConsentWaitsForADefaultTTL(t *testing.T) {
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			withDevices(t, func(t *testing.T, e *consenting) {
				e.amendTokens(func(answer map[string]any) { delete(answer, "expires_in") })
				if page := end(e); page != "" {
					assert.Contains(t, page, "set default_ttl")
				}
				assert.Equal(t, "connected", e.consent()["state"], e.consent()["error"])
				e.Restart()
				status := e.Read("status/" + person).Data
				assert.Equal(t, "failed", status["state"])
				assert.Contains(t, status["last_error"], "set default_ttl")
				_, code, message := e.Request(logical.PatchOperation, "config/oauth2/"+person, map[string]any{"default_ttl": "1h"})
				require.Equal(t, http.StatusOK, code, message)
				e.Creds(person)
				assert.Equal(t, person, e.consent()["claims"].(map[string]any)["email"])
			})
		})
	}
}

// An error counts, whatever comes with it, and so does a person who cannot be verified.
func TestARefreshTokenInARefusalIsNotStored(t *testing.T) {
	for name, amend := range map[string]func(answer map[string]any){
		"an error beside a token": func(a map[string]any) { a["error"] = "invalid_grant" },
		"an error":                func(a map[string]any) { a["error"] = "invalid_grant"; delete(a, "access_token") },
		"no ID token":             func(a map[string]any) { delete(a, "access_token"); delete(a, "id_token") },
		"a wrong ID token":        func(a map[string]any) { delete(a, "access_token"); a["id_token"] = "x.y.z" },
	} {
		t.Run(name, func(t *testing.T) {
			withDevices(t, func(t *testing.T, e *consenting) {
				e.amendTokens(amend)
				status, page := e.open(e.Sim.Consent(e.begin(), person))
				assert.Equal(t, http.StatusBadGateway, status, page)
				assert.Equal(t, "failed", e.consent()["state"])
				assert.NotContains(t, e.Read("config/oauth2/" + person).Data["secrets_set"], "refresh_token")
			})
		})
	}
}
