package guarantees_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee6SecretOfTheCredentialInATokenIsRefused(t *testing.T) {
	forms := map[string]func(string) string{
		"verbatim":                  func(s string) string { return s },
		"within a longer token":     func(s string) string { return "t-" + s + "-1" },
		"in capitals":               strings.ToUpper,
		"in hexadecimal":            func(s string) string { return fmt.Sprintf("%x", s) },
		"in a claim":                func(s string) string { return jwtWith(map[string]any{"sub": "7", "key": s}) },
		"in another claim":          func(s string) string { return jwtWith(map[string]any{"client": s}) },
		"as HTTP Basic credentials": func(s string) string { return base64.StdEncoding.EncodeToString([]byte("me:" + s)) },
	}
	for name, kind := range engine.Kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				engine.Until(0, 10, 0)
				e.Write(kind.Path, kind.Fields())
				for _, field := range engine.CredentialSecretFields {
					secret, ok := kind.Fields()[field].(string)
					if !ok {
						continue
					}
					if field == "private_key" {
						lines := strings.Split(strings.TrimSpace(secret), "\n")
						secret = strings.Join(lines[1:len(lines)-1], "")
					}
					for how, form := range forms {
						e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, fmt.Sprintf(kind.Answer, form(secret), 3600*int64(time.Second/max(kind.Unit, 1)))))})
						_, status, message := e.Request(logical.UpdateOperation, "refresh/prod", nil)
						assert.Equal(t, http.StatusBadGateway, status, "%s, %s", field, how)
						assert.Contains(t, message, "contains a secret of the credential", "%s, %s", field, how)
					}
				}
				e.Sim.Behave(vendorsim.Conduct{})
				e.Write("refresh/prod", nil)
			})
		})
	}
}

func jwtWith(claims map[string]any) string {
	raw, _ := json.Marshal(claims)
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode(raw) + "." + encode([]byte("a signature of sorts"))
}

func TestGuarantee6PastedPrivateKeyInATokenIsRefused(t *testing.T) {
	pem := strings.TrimSpace(engine.PrivateKeyPEM())
	lines := strings.Split(pem, "\n")
	body := strings.Join(lines[1:len(lines)-1], "")
	for form, reformatted := range engine.PastedForms {
		t.Run(form, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Write("config/oauth2/prod", map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": "id", "private_key": reformatted(pem), "verify": false})
				e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, fmt.Sprintf(`{"access_token":%q,"expires_in":3600}`, body)))})
				status, message := e.Refused("creds/prod")
				assert.Equal(t, http.StatusBadGateway, status)
				assert.Contains(t, message, "the vendor's access token contains a secret of the credential")
			})
		})
	}
}

func TestGuarantee6AnswerThatRepeatsItsOwnTokenIsRefused(t *testing.T) {
	const token, refresh = "kT9vXw2Lq8ZrBn4Y-access", "8ZrBn4YcHd6kT9vX-refresh"
	for name, c := range map[string]struct{ member, text, says string }{
		"the token as a scope":             {"scope", token, "scope"},
		"the token among scopes":           {"scope", "read " + token, "scope"},
		"a new refresh token among scopes": {"scope", "read x-" + refresh, "scope"},
		"the token as its type":            {"token_type", token, "token_type"},
		"the refresh token, in a URI":      {"token_type", "urn:" + refresh, "token_type"},
	} {
		for _, grant := range []string{"client_credentials", "refresh_token"} {
			t.Run(name+", "+grant, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := engine.NewOAuth(t)
					fields := engine.With(engine.SecretClient(false), "grant_type", grant)
					fields["verify"] = false
					if grant == "refresh_token" {
						fields["refresh_token"] = engine.RefreshToken
					}
					e.Write("config/oauth2/prod", fields)
					body, _ := json.Marshal(map[string]any{"access_token": token, "refresh_token": refresh, "expires_in": 3600, c.member: c.text})
					e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, string(body)))})
					status, message := e.Refused("creds/prod")
					assert.Equal(t, http.StatusBadGateway, status)
					assert.Contains(t, message, "the vendor's "+c.says+" contains a ")
					for _, secret := range []string{token, refresh} {
						assert.NotContains(t, fmt.Sprint(message, e.Read("status/prod").Data, e.Lines()), secret)
					}
				})
			})
		}
	}
}
