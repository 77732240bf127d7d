package vendorsim_test

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// token returns an access token of the account for a scope or an audience.
func (s *stored) token(changes map[string]any) string {
	s.t.Helper()
	own := *s
	own.fields = maps.Clone(s.fields)
	maps.Copy(own.fields, changes)
	answer, err := own.open().Exchange(s.t.Context(), provider.Grant{})
	require.NoError(s.t, err)
	return answer.AccessToken
}

// fill replaces {name} by the field of that name.
func (s *stored) fill(text string) string {
	for name, value := range s.fields {
		if one, isText := value.(string); isText {
			text = strings.ReplaceAll(text, "{"+name+"}", one)
		}
	}
	return text
}

// call sends a request with the vendor's usual headers, in which {name} is a field.
func (s *stored) call(method, url, authorization, body string) (int, string) {
	s.t.Helper()
	header := map[string]string{"Accept": "application/json", "User-Agent": "test"}
	if body != "" {
		header["Content-Type"] = "application/json"
	}
	for _, line := range strings.Split(authorization, "\n") {
		if name, value, isHeader := strings.Cut(line, ": "); isHeader {
			header[name] = s.fill(value)
		}
	}
	return call(s.t, s.sim, method, s.fill(url), header, s.fill(body))
}

func scope(one string) map[string]any { return map[string]any{"scope": []string{one}} }

const (
	graphURL      = "https://graph.microsoft.com/v1.0/applications(appId='{client_id}')"
	oktaURL       = "https://acme.okta.com/api/v1/apps/{app_id}/credentials"
	auth0URL      = "https://acme.us.auth0.com/api/v2/clients/{client_id}"
	databricksURL = "https://{host}/api/2.0/accounts/servicePrincipals/{service_principal_id}/credentials/secrets"
	snowflakeURL  = "https://acme-main.snowflakecomputing.com/api/v2/statements"
	googleURL     = "https://iam.googleapis.com/v1/projects/{project}/serviceAccounts/{client_email}/keys"
	gitLabURL     = "https://gitlab.com/api/v4/"
	cloudflareURL = "https://api.cloudflare.com/client/v4/user/tokens"
	datadogURL    = "https://api.datadoghq.com/api/v2"

	bearer  = "Authorization: Bearer <token>"
	ssws    = "Authorization: SSWS {api_token}"
	private = "PRIVATE-TOKEN: {personal_access_token}"
	manager = "Authorization: Bearer {api_token}"
	pair    = "DD-API-KEY: {api_key}\nDD-APPLICATION-KEY: {application_key}"
)

var (
	graphScope      = scope("https://graph.microsoft.com/.default")
	auth0Management = map[string]any{"audience": "https://acme.us.auth0.com/api/v2/"}
	cloudPlatform   = scope("https://www.googleapis.com/auth/cloud-platform")
)

// Each vendor refuses what its documentation does not allow. Only what no configuration explains is a violation.
func TestVendorsRefuseWrongRequestsForNewSecrets(t *testing.T) {
	for name, c := range map[string]struct {
		kind          string
		token         map[string]any // what the token that replaces <token> is for
		method, url   string
		authorization string
		body          string
		status        int
		isViolation   bool
	}{
		"Entra: a password":            {"entra/client_secret", graphScope, "POST", graphURL + "/addPassword", bearer, `{"passwordCredential":{}}`, 200, false},
		"Entra: for another resource":  {"entra/client_secret", scope("https://vault.azure.net/.default"), "POST", graphURL + "/addPassword", bearer, `{"passwordCredential":{}}`, 401, false},
		"Entra: without a token":       {"entra/client_secret", nil, "POST", graphURL + "/addPassword", "", `{"passwordCredential":{}}`, 401, true},
		"Entra: another member":        {"entra/client_secret", graphScope, "POST", graphURL + "/addPassword", bearer, `{"passwordCredential":{"secretText":"mine"}}`, 400, true},
		"Entra: another method":        {"entra/client_secret", graphScope, "PUT", graphURL + "/addPassword", bearer, `{"passwordCredential":{}}`, 405, true},
		"Entra: another header":        {"entra/client_secret", graphScope, "GET", graphURL, bearer + "\nX-Other: a", "", 400, true},
		"Entra: another parameter":     {"entra/client_secret", graphScope, "GET", graphURL + "?a=b", bearer, "", 400, true},
		"Entra: another property":      {"entra/client_secret", graphScope, "GET", graphURL + "?$select=secrets", bearer, "", 400, true},
		"Entra: an ended lifetime":     {"entra/client_secret", graphScope, "POST", graphURL + "/addPassword", bearer, `{"passwordCredential":{"endDateTime":"1999-01-01T00:00:00Z"}}`, 400, false},
		"Entra: an unknown password":   {"entra/client_secret", graphScope, "POST", graphURL + "/removePassword", bearer, `{"keyId":"other"}`, 400, false},
		"Entra: the object's own path": {"entra/certificate", graphScope, "GET", "https://graph.microsoft.com/v1.0/applications/{object_id}", bearer, "", 200, false},
		"Entra: an unknown app":        {"entra/client_secret", graphScope, "GET", "https://graph.microsoft.com/v1.0/applications(appId='other')", bearer, "", 404, false},
		"Entra: without a proof":       {"entra/certificate", graphScope, "POST", graphURL + "/removeKey", bearer, `{"keyId":"{certificate_id}","proof":""}`, 401, true},

		"Okta: a second secret":        {"okta/client_secret", nil, "POST", oktaURL + "/secrets", ssws, "", 201, false},
		"Okta: delete an active one":   {"okta/client_secret", nil, "DELETE", oktaURL + "/secrets/{secret_id}", ssws, "", 400, false},
		"Okta: deactivate the only":    {"okta/client_secret", nil, "POST", oktaURL + "/secrets/{secret_id}/lifecycle/deactivate", ssws, "", 400, false},
		"Okta: an unknown secret":      {"okta/client_secret", nil, "DELETE", oktaURL + "/secrets/other", ssws, "", 404, false},
		"Okta: another lifecycle":      {"okta/client_secret", nil, "POST", oktaURL + "/secrets/{secret_id}/lifecycle/rotate", ssws, "", 404, true},
		"Okta: a short secret":         {"okta/client_secret", nil, "POST", oktaURL + "/secrets", ssws, `{"client_secret":"short"}`, 400, true},
		"Okta: the client ID":          {"okta/client_secret", nil, "GET", "https://acme.okta.com/api/v1/apps/{client_id}/credentials/secrets", ssws, "", 404, false},
		"Okta: a wrong API token":      {"okta/client_secret", nil, "GET", oktaURL + "/secrets", ssws + "x", "", 401, false},
		"Okta: a token of the server":  {"okta/client_secret", map[string]any{}, "GET", oktaURL + "/secrets", bearer, "", 401, false},
		"Okta: without authorization":  {"okta/client_secret", nil, "GET", oktaURL + "/secrets", "", "", 401, true},
		"Okta: without okta.apps":      {"okta-api", map[string]any{}, "GET", oktaURL + "/jwks", bearer, "", 403, false},
		"Okta: only to read":           {"okta-api", scope("okta.apps.read"), "POST", oktaURL + "/jwks", bearer, oktaJWK, 403, false},
		"Okta: a key":                  {"okta-api", scope("okta.apps.manage"), "POST", oktaURL + "/jwks", bearer, oktaJWK, 201, false},
		"Okta: the same kid":           {"okta-api", scope("okta.apps.manage"), "POST", oktaURL + "/jwks", bearer, strings.Replace(oktaJWK, "my-kid", "{key_id}", 1), 400, false},
		"Okta: without a kid":          {"okta-api", scope("okta.apps.manage"), "POST", oktaURL + "/jwks", bearer, strings.Replace(oktaJWK, "my-kid", "", 1), 400, true},
		"Okta: a private key":          {"okta-api", scope("okta.apps.manage"), "POST", oktaURL + "/jwks", bearer, strings.Replace(oktaJWK, `"kid"`, `"d":"AAAA","kid"`, 1), 400, true},
		"Okta: delete an active key":   {"okta-api", scope("okta.apps.manage"), "DELETE", oktaURL + "/jwks/{jwk_id}", bearer, "", 400, false},
		"Auth0: another secret":        {"auth0/client_secret", auth0Management, "PATCH", auth0URL, bearer, `{"client_secret":"0123456789abcdef"}`, 200, false},
		"Auth0: a token for the API":   {"auth0/client_secret", map[string]any{}, "PATCH", auth0URL, bearer, `{"client_secret":"0123456789abcdef"}`, 401, false},
		"Auth0: two changes":           {"auth0/client_secret", auth0Management, "PATCH", auth0URL, bearer, `{"client_secret":"a","client_authentication_methods":{}}`, 400, true},
		"Auth0: a secret of a key":     {"auth0/private_key", auth0Management, "PATCH", auth0URL, bearer, `{"client_secret":"0123456789abcdef"}`, 400, false},
		"Auth0: delete one in use":     {"auth0/private_key", auth0Management, "DELETE", auth0URL + "/credentials/{credential_id}", bearer, "", 400, false},
		"Auth0: delete another":        {"auth0/private_key", auth0Management, "DELETE", auth0URL + "/credentials/cred_x", bearer, "", 404, false},
		"Auth0: without a credential":  {"auth0/private_key", auth0Management, "PATCH", auth0URL, bearer, `{"client_authentication_methods":{"private_key_jwt":{"credentials":[]}}}`, 400, false},
		"Auth0: an unknown credential": {"auth0/private_key", auth0Management, "PATCH", auth0URL, bearer, `{"client_authentication_methods":{"private_key_jwt":{"credentials":[{"id":"cred_x"}]}}}`, 400, false},
		"Auth0: no PEM":                {"auth0/private_key", auth0Management, "POST", auth0URL + "/credentials", bearer, `{"credential_type":"public_key","pem":"MIIB"}`, 400, true},

		"Databricks: a secret":        {"databricks/workspace", map[string]any{}, "POST", databricksURL, bearer, `{}`, 200, false},
		"Databricks: a plain number":  {"databricks/workspace", map[string]any{}, "POST", databricksURL, bearer, `{"lifetime":"86400"}`, 400, true},
		"Databricks: three years":     {"databricks/workspace", map[string]any{}, "POST", databricksURL, bearer, `{"lifetime":"94608000s"}`, 400, true},
		"Databricks: a wrong token":   {"databricks/workspace", nil, "GET", databricksURL, "Authorization: Bearer other", "", 401, false},
		"Databricks: the account's":   {"databricks/account", map[string]any{}, "GET", databricksURL, bearer, "", 404, true},
		"Databricks: an unknown one":  {"databricks/workspace", map[string]any{}, "DELETE", databricksURL + "/other", bearer, "", 404, false},
		"Snowflake: the user":         {"snowflake", map[string]any{}, "POST", snowflakeURL, bearer, `{"statement":"SELECT CURRENT_USER()"}`, 200, false},
		"Snowflake: without a role":   {"snowflake", map[string]any{}, "POST", snowflakeURL, bearer, `{"statement":"ALTER USER {user} UNSET RSA_PUBLIC_KEY"}`, 422, false},
		"Snowflake: another role":     {"snowflake", map[string]any{}, "POST", snowflakeURL, bearer, `{"statement":"ALTER USER {user} UNSET RSA_PUBLIC_KEY","role":"ACCOUNTADMIN"}`, 403, false},
		"Snowflake: a quoted user":    {"snowflake", map[string]any{}, "POST", snowflakeURL, bearer, `{"statement":"ALTER USER \"{user}\" UNSET RSA_PUBLIC_KEY","role":"KEY_ROTATOR"}`, 422, false},
		"Snowflake: another property": {"snowflake", map[string]any{}, "POST", snowflakeURL, bearer, `{"statement":"ALTER USER {user} SET PASSWORD='a'","role":"KEY_ROTATOR"}`, 422, true},
		"Snowflake: a PEM":            {"snowflake", map[string]any{}, "POST", snowflakeURL, bearer, `{"statement":"ALTER USER {user} SET RSA_PUBLIC_KEY_2='-----BEGIN'","role":"KEY_ROTATOR"}`, 422, true},
		"Snowflake: no key":           {"snowflake", map[string]any{}, "POST", snowflakeURL, bearer, `{"statement":"ALTER USER {user} SET RSA_PUBLIC_KEY_2='AAAA'","role":"KEY_ROTATOR"}`, 422, false},
		"Snowflake: another type":     {"snowflake", map[string]any{}, "POST", snowflakeURL, bearer + "\nX-Snowflake-Authorization-Token-Type: OAUTH", `{"statement":"SELECT CURRENT_USER()"}`, 401, true},
		"Snowflake: a wrong token":    {"snowflake", nil, "POST", snowflakeURL, "Authorization: Bearer other", `{"statement":"SELECT CURRENT_USER()"}`, 401, false},
		"Google: its keys":            {"google", cloudPlatform, "GET", googleURL, bearer, "", 200, false},
		"Google: with another scope":  {"google", map[string]any{}, "GET", googleURL, bearer, "", 403, false},
		"Google: another account":     {"google", cloudPlatform, "GET", strings.Replace(googleURL, "{client_email}", "other", 1), bearer, "", 404, false},
		"Google: an unknown key":      {"google", cloudPlatform, "DELETE", googleURL + "/other", bearer, "", 404, false},
		"Google: by the wildcard":     {"google", cloudPlatform, "DELETE", strings.Replace(googleURL, "{project}", "-", 1) + "/other", bearer, "", 403, false},
		"Google: no certificate":      {"google", cloudPlatform, "POST", googleURL + ":upload", bearer, `{"publicKeyData":"AAAA"}`, 400, true},
		"Google: another action":      {"google", cloudPlatform, "POST", googleURL + ":create", bearer, `{}`, 404, true},

		"GitLab: itself":               {"gitlab-token", nil, "GET", gitLabURL + "personal_access_tokens/self", private, "", 200, false},
		"GitLab: both headers":         {"gitlab-token", nil, "GET", gitLabURL + "personal_access_tokens/self", private + "\nAuthorization: Bearer {personal_access_token}", "", 401, true},
		"GitLab: two years":            {"gitlab-token", nil, "POST", gitLabURL + "personal_access_tokens/self/rotate", private, `{"expires_at":"2002-01-01"}`, 400, false},
		"GitLab: a time":               {"gitlab-token", nil, "POST", gitLabURL + "personal_access_tokens/self/rotate", private, `{"expires_at":"2000-02-01T00:00:00Z"}`, 400, true},
		"GitLab: a name":               {"gitlab-token", nil, "POST", gitLabURL + "personal_access_tokens/self/rotate", private, `{"name":"new"}`, 400, true},
		"GitLab: a project":            {"gitlab-token", nil, "POST", gitLabURL + "projects/acme%2Fsite/access_tokens", private, `{"name":"a","scopes":["read_api"],"expires_at":"2000-02-01"}`, 201, false},
		"GitLab: an unescaped project": {"gitlab-token", nil, "POST", gitLabURL + "projects/acme/site/access_tokens", private, `{"name":"a","scopes":["read_api"],"expires_at":"2000-02-01"}`, 404, true},
		"GitLab: without an expiry":    {"gitlab-token", nil, "POST", gitLabURL + "projects/acme%2Fsite/access_tokens", private, `{"name":"a","scopes":["read_api"]}`, 400, true},
		"GitLab: as owner":             {"gitlab-token", nil, "POST", gitLabURL + "projects/acme%2Fsite/access_tokens", private, `{"name":"a","scopes":["read_api"],"access_level":50,"expires_at":"2000-02-01"}`, 400, false},
		"GitLab: by a created one":     {"gitlab-token", map[string]any{}, "POST", gitLabURL + "personal_access_tokens/self/rotate", "PRIVATE-TOKEN: <token>", `{}`, 403, false},
		"Cloudflare: itself":           {"cloudflare/user", nil, "GET", cloudflareURL + "/verify", manager, "", 200, false},
		"Cloudflare: by a reader":      {"cloudflare/user", map[string]any{}, "GET", cloudflareURL, bearer, "", 403, false},
		"Cloudflare: a reader itself":  {"cloudflare/user", map[string]any{}, "GET", cloudflareURL + "/verify", bearer, "", 200, false},
		"Cloudflare: of the account":   {"cloudflare/account", nil, "GET", cloudflareURL, manager, "", 401, false},
		"Cloudflare: no policies":      {"cloudflare/user", nil, "POST", cloudflareURL, manager, `{"name":"a"}`, 400, true},
		"Cloudflare: from elsewhere":   {"cloudflare/user", nil, "POST", cloudflareURL, manager, `{"name":"a","policies":[{"effect":"allow","resources":{"a":"*"},"permission_groups":[{"id":"686d18d5ac6c441c867cbf6771e58a0a"}]}]}`, 400, true},
		"Cloudflare: another filter":   {"cloudflare/user", nil, "POST", cloudflareURL, manager, `{"name":"a","policies":[{"effect":"allow","resources":{"a":"*"},"permission_groups":[{"id":"c8fed203ed3043cba015a93ad1616f1f"}]}],"condition":{"request.ip":{"in":["192.0.2.0/24"]}}}`, 400, true},
		"Cloudflare: a local time":     {"cloudflare/user", nil, "POST", cloudflareURL, manager, `{"name":"a","policies":[],"expires_on":"2000-02-01"}`, 400, true},
		"Cloudflare: a large page":     {"cloudflare/user", nil, "GET", cloudflareURL + "?per_page=100", manager, "", 400, true},
		"Cloudflare: a roll with none": {"cloudflare/user", nil, "PUT", cloudflareURL + "/{token_id}/value", manager, "", 400, true},
		"Cloudflare: an unknown one":   {"cloudflare/user", nil, "DELETE", cloudflareURL + "/" + strings.Repeat("0", 32), manager, "", 404, false},

		"Datadog: a pair":            {"datadog", nil, "GET", datadogURL + "/validate_keys", pair, "", 200, false},
		"Datadog: one key":           {"datadog", nil, "GET", datadogURL + "/validate_keys", "DD-API-KEY: {api_key}", "", 401, true},
		"Datadog: a wrong pair":      {"datadog", nil, "GET", datadogURL + "/validate_keys", "DD-API-KEY: {application_key}\nDD-APPLICATION-KEY: {api_key}", "", 403, false},
		"Datadog: the same name":     {"datadog", nil, "POST", datadogURL + "/api_keys", pair, `{"data":{"type":"api_keys","attributes":{"name":"first"}}}`, 400, false},
		"Datadog: another type":      {"datadog", nil, "POST", datadogURL + "/api_keys", pair, `{"data":{"type":"application_keys","attributes":{"name":"a"}}}`, 400, true},
		"Datadog: a scope of a key":  {"datadog", nil, "POST", datadogURL + "/api_keys", pair, `{"data":{"type":"api_keys","attributes":{"name":"a","scopes":["a"]}}}`, 400, true},
		"Datadog: the other's ID":    {"datadog", nil, "DELETE", datadogURL + "/api_keys/{application_key_id}", pair, "", 404, false},
		"Datadog: a token of a day":  {"datadog", nil, "POST", datadogURL + "/personal_access_tokens", pair, datadogToken("2000-01-02T00:00:00Z"), 201, false},
		"Datadog: a short one":       {"datadog", nil, "POST", datadogURL + "/personal_access_tokens", pair, datadogToken("2000-01-01T23:00:00Z"), 400, false},
		"Datadog: one for ever":      {"datadog", nil, "POST", datadogURL + "/personal_access_tokens", pair, datadogToken(""), 400, true},
		"Datadog: an unknown object": {"datadog", nil, "GET", datadogURL + "/users", pair, "", 404, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // in 2000
				sim := vendorsim.New()
				s := newStored(t, sim, c.kind, "prod")
				authorization := c.authorization
				if c.token != nil {
					authorization = strings.ReplaceAll(authorization, "<token>", s.token(c.token))
				}
				require.Empty(t, sim.Violations())
				status, text := s.call(c.method, c.url, authorization, c.body)
				assert.Equal(t, c.status, status, text)
				assert.Equal(t, c.isViolation, len(sim.Violations()) > 0, text)
				if status >= 400 {
					require.NoError(t, s.prove(), "nothing has changed")
				}
			})
		})
	}
}

const oktaJWK = `{"kty":"EC","kid":"my-kid","use":"sig","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}`

func datadogToken(expiry string) string {
	return fmt.Sprintf(`{"data":{"type":"personal_access_tokens","attributes":{"name":"a","scopes":["metrics_read"],"expires_at":%q}}}`, expiry)
}

// Each vendor stores a limited number of secrets.
func TestVendorsLimitTheNumberOfSecrets(t *testing.T) {
	for kind, most := range map[string]int{"okta/client_secret": 2, "auth0/private_key": 2, "databricks/workspace": 5, "databricks/account": 5, "google": 10} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStored(t, vendorsim.New(), kind, "prod")
				for range most - 1 {
					_, err := s.rotation().Create(t.Context(), s.newSecret())
					require.NoError(t, err)
					time.Sleep(time.Second)
				}
				assert.Equal(t, most, s.live())
				_, err := s.rotation().Create(t.Context(), s.newSecret())
				var failure *provider.Error
				require.ErrorAs(t, err, &failure)
				assert.True(t, failure.NotConsidered, "%s", err)
				assert.Equal(t, most, s.live())
				assert.Empty(t, s.sim.Violations())
			})
		})
	}
}

// A management API refuses a token that has expired.
func TestManagementTokensExpire(t *testing.T) {
	for kind, c := range map[string]struct {
		token    map[string]any
		url      string
		lifetime time.Duration
	}{
		"entra/client_secret":  {graphScope, graphURL, time.Hour},
		"okta-api":             {scope("okta.apps.manage"), oktaURL + "/jwks", time.Hour},
		"auth0/private_key":    {auth0Management, auth0URL + "/credentials", 24 * time.Hour},
		"databricks/workspace": {map[string]any{}, databricksURL, time.Hour},
		"google":               {cloudPlatform, googleURL, time.Hour},
	} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStored(t, vendorsim.New(), kind, "prod")
				authorization := strings.ReplaceAll(bearer, "<token>", s.token(c.token))
				time.Sleep(c.lifetime - time.Minute)
				status, text := s.call(http.MethodGet, c.url, authorization, "")
				assert.Equal(t, http.StatusOK, status, text)
				time.Sleep(time.Minute)
				status, text = s.call(http.MethodGet, c.url, authorization, "")
				assert.Equal(t, http.StatusUnauthorized, status, text)
				assert.Empty(t, s.sim.Violations())
			})
		})
	}
}
