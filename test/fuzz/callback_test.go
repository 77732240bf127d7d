package fuzz_test

import (
	"html"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const callback = "https://vault.example.com/v1/kensho/callback"

// FuzzCallback sends a browser back with arbitrary parameters, in place of or in addition to the right ones.
// The answer is a page with one of the documented statuses, which has the texts of others only as text, and
// the credential is stored only if the state and the code are the right ones.
func FuzzCallback(f *testing.F) {
	for _, text := range []string{"", "$state", "$code", "x", "$state.", "A.YQ", "A" + strings.Repeat("B", 51) + ".YXBp", "<script>alert(1)</script>", "\r\nSet-Cookie: a=b", "\x00\xff", "javascript:alert(1)", "{{.Name}}"} {
		f.Add("$state", text, "", "", "")
		f.Add(text, "$code", "", "", "")
		f.Add("$state", "", text, text, text)
		f.Add("$state", "$code", text, text, text)
	}
	f.Fuzz(func(t *testing.T, state, code, issuer, errorCode, description string) {
		synctest.Test(t, func(t *testing.T) {
			e := engine.NewUnchecked(t)
			e.Sim.AddOAuthClient(vendorsim.OAuthClient{
				ID: engine.ClientID, Secret: engine.ClientSecret, Scopes: []string{"read"}, AuthMethods: []string{vendorsim.SecretPost},
				Grants: []string{vendorsim.RefreshTokenGrant, vendorsim.AuthorizationCodeGrant}, RedirectURI: callback,
			})
			e.Write("config/oauth2/api", map[string]any{
				"token_url": vendorsim.OAuthTokenURL, "authorization_url": vendorsim.OAuthAuthorizationURL, "redirect_uri": callback,
				"client_id": engine.ClientID, "client_secret": engine.ClientSecret, "auth_style": "client_secret_post", "scope": "read",
			})
			resp, status, message := e.Request(logical.UpdateOperation, "authorize/api", nil)
			require.Equal(t, http.StatusOK, status, message)
			back, err := url.Parse(e.Sim.Consent(resp.Data["authorization_url"].(string), "alice@example.com"))
			require.NoError(t, err)
			right := back.Query()
			with := strings.NewReplacer("$state", right.Get("state"), "$code", right.Get("code")).Replace
			given := map[string]any{}
			for name, text := range map[string]string{"state": state, "code": code, "iss": issuer, "error": errorCode, "error_description": description} {
				if text != "" {
					given[name] = with(text)
				}
			}
			resp, _, message = e.Request(logical.ReadOperation, "callback", given)
			require.NotNil(t, resp, message)
			page := string(resp.Data[logical.HTTPRawBody].([]byte))
			status = resp.Data[logical.HTTPStatusCode].(int)
			require.True(t, slices.Contains([]int{200, 400, 403, 409, 410, 502}, status), "%d: %s", status, page)
			require.NotContains(t, page, "<script")
			require.NotContains(t, page, "<img")
			for _, text := range given {
				if len(text.(string)) > 5 && html.EscapeString(text.(string)) != text { // shorter ones may be in the page itself
					require.NotContains(t, page, text, "quoted as it is")
				}
			}
			for _, values := range resp.Headers {
				for _, value := range values {
					require.False(t, strings.ContainsAny(value, "\r\n"))
				}
			}
			isRight := given["state"] == right.Get("state") && given["code"] == right.Get("code")
			require.Equal(t, isRight, status == http.StatusOK, page)
			require.Equal(t, isRight, slices.Contains(e.Read("config/oauth2/api").Data["secrets_set"].([]string), "refresh_token"))
			if !strings.Contains(issuer+errorCode+description, "$code") { // else the browser says it elsewhere
				require.NotContains(t, page, right.Get("code"), "guarantee 6")
				require.NotContains(t, e.Outside.Text(), right.Get("code"), "guarantee 6")
			}
		})
	})
}
