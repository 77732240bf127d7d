package tokenbroker_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestOnlyAnOutageSuggestsVerifyFalse(t *testing.T) {
	for name, test := range map[string]struct {
		fault  http.HandlerFunc
		status int
		says   string
		hint   bool
	}{
		"429":                       {vendorsim.Throttle(""), 503, "429 Too Many Requests", true},
		"500":                       {vendorsim.Answer(500, ""), 503, "500 Internal Server Error", true},
		"503":                       {vendorsim.Answer(503, "<html>down"), 503, "503 Service Unavailable", true},
		"a timeout":                 {vendorsim.Hang, 503, "no response in time", true},
		"404":                       {vendorsim.Answer(404, "<html>"), 502, "https://link-streaming.kensho.com/oauth2/refresh: 404 Not Found; no such endpoint; check refresh_url", false},
		"405":                       {vendorsim.Answer(405, ""), 502, "https://link-streaming.kensho.com/oauth2/refresh: 405 Method Not Allowed; no such endpoint; check refresh_url", false},
		"a redirect":                {vendorsim.Redirect, 502, "https://link-streaming.kensho.com/oauth2/refresh: unexpected redirect (status 302); redirects are not followed; check refresh_url", false},
		"a login page":              {vendorsim.Answer(200, "<html>log in"), 502, "the response of https://link-streaming.kensho.com/oauth2/refresh is not a JSON object but an HTML page; check refresh_url", false},
		"an answer without a token": {vendorsim.Answer(200, "{}"), 502, "contains no access token", false},
		"a connection reset":        {vendorsim.Reset, 503, "connection reset by peer", false},
		"a rejection":               {vendorsim.Answer(401, ""), 400, "401 Unauthorized", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(test.fault)})
				_, status, message := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
				assert.Equal(t, test.status, status)
				assert.Contains(t, message, test.says)
				assert.Contains(t, message, "nothing was stored at config/kensho/prod")
				assert.NotContains(t, message, engine.RefreshToken)
				if test.hint {
					assert.Contains(t, message, "verify=false")
				} else {
					assert.NotContains(t, message, "verify=false")
				}
				engine.AssertStorageEmpty(t, e)
			})
		})
	}
}

func TestAWrongURLIsNotARejection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		for _, code := range []int{404, 405, 302} {
			e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(code, ""))})
			_, status, message := e.Request(logical.UpdateOperation, "refresh/prod", nil)
			assert.Equal(t, http.StatusBadGateway, status)
			assert.NotContains(t, message, "rejected")
			assert.NotContains(t, message, "write a new one")
		}
		e.Sim.Behave(vendorsim.Conduct{})
		e.Write("refresh/prod", nil)
	})
}

func TestTheErrorOfAWrongIssuerQuotesWhatWasFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			switch {
			case r.URL.Host != "a.example":
				return nil
			case r.URL.Path == "/echo/.well-known/openid-configuration":
				return vendorsim.Answer(200, `{"issuer":"https://a.example/`+engine.ClientSecret+`"}`)
			}
			return vendorsim.Answer(404, "")
		}})
		for issuer, says := range map[string]string{
			"https://a.example/tenant": `https://a.example/tenant/.well-known/openid-configuration: 404 Not Found; no such endpoint; check issuer`,
			"https://a.example/echo":   `issuer: expected "https://a.example/echo" in the metadata at https://a.example/echo/.well-known/openid-configuration, found "https://a.example/clien[redacted]"`,
		} {
			_, status, message := e.Request(logical.UpdateOperation, "config/oauth2/api", map[string]any{"issuer": issuer, "client_id": engine.ClientID, "client_secret": engine.ClientSecret})
			assert.Equal(t, http.StatusBadGateway, status)
			assert.Contains(t, message, says)
			assert.NotContains(t, message, "verify=false")
			assert.NotContains(t, message, engine.ClientSecret)
		}
	})
}

func TestTransientErrorsMakeAVendorUnavailable(t *testing.T) {
	for name, test := range map[string]struct {
		fault  http.HandlerFunc
		fields map[string]any
	}{
		"Slack's internal_error, with status 200":       {vendorsim.Answer(200, `{"ok":false,"error":"internal_error"}`), nil},
		"Salesforce's unknown_error":                    {vendorsim.Answer(400, `{"error":"unknown_error","error_description":"retry your request"}`), nil},
		"403 with Retry-After":                          {vendorsim.Later(403, "2"), nil},
		"an error in transient_errors":                  {vendorsim.Answer(400, `{"error":"migrating"}`), map[string]any{"transient_errors": "migrating,busy"}},
		"an error in transient_errors, with status 200": {vendorsim.Answer(200, `{"error":"busy"}`), map[string]any{"transient_errors": "busy"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				if test.fields != nil {
					e.Write("config/oauth2/api", test.fields)
				}
				calls := e.Exchanges()
				e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(test.fault)})
				time.Sleep(2 * time.Hour)
				status, message := e.Refused("creds/api")
				assert.Equal(t, http.StatusServiceUnavailable, status, message)
				assert.Equal(t, calls+1, e.Exchanges())
				e.Sim.Behave(vendorsim.Conduct{})
				time.Sleep(3 * time.Second)
				e.Creds("api")
			})
		})
	}
}

func TestVendorErrorsHaveTheDocumentedStatusAndNoSecret(t *testing.T) {
	for name, test := range map[string]struct {
		fault  http.HandlerFunc
		status int
		says   string
	}{
		"rejected":                  {vendorsim.Answer(401, `{"error":"invalid_grant","error_description":"the token was revoked"}`), 400, "rejected the credential: %s: 401 Unauthorized: invalid_grant: the token was revoked; write a new one to config/"},
		"forbidden":                 {vendorsim.Answer(403, `"account suspended"`), 400, "403 Forbidden: account suspended"},
		"echo":                      {vendorsim.Echo, 400, "401 Unauthorized"},
		"throttled":                 {vendorsim.Answer(429, ""), 503, "429 Too Many Requests"},
		"down":                      {vendorsim.Answer(503, "<html>maintenance</html>"), 503, "503 Service Unavailable"},
		"slow":                      {vendorsim.Hang, 503, "no response in time (request_timeout)"},
		"reset":                     {vendorsim.Reset, 503, "connection reset"},
		"not JSON":                  {vendorsim.Answer(200, "<html>"), 502, "is not a JSON object"},
		"JSON, not an object":       {vendorsim.Answer(200, "null"), 502, "is not a JSON object"},
		"an answer without a token": {vendorsim.Answer(200, "{}"), 502, "contains no access token"},
		"over 1 MiB":                {vendorsim.Answer(200, `{"a":"`+strings.Repeat("x", 1<<20)+`"}`), 502, "over 1 MiB"},
		"redirect":                  {vendorsim.Redirect, 502, "unexpected redirect (status 302)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				engine.Until(0, 10, 0)
				for path, host := range map[string]string{
					"kensho/refresh":  "link-streaming.kensho.com",
					"kensho/keys":     "kensho.okta.com",
					"sitecore/search": "api.rfksrv.com",
				} {
					data := map[string]map[string]any{
						"kensho/refresh":  {"refresh_token": engine.RefreshToken},
						"kensho/keys":     {"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM()},
						"sitecore/search": {"api_key": engine.APIKey},
					}[path]
					data["verify"] = false
					e.Write("config/"+path, data)
					e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(test.fault)})
					_, credential, _ := strings.Cut(path, "/")
					_, status, message := e.Request(logical.ReadOperation, "creds/"+credential, nil)
					assert.Equal(t, test.status, status, message)
					assert.Contains(t, message, strings.ReplaceAll(test.says, "%s", host))
					if test.status == 400 {
						assert.Contains(t, message, "config/"+path)
					}
					assertNoSecret(t, e, message)

					e.Sim.Behave(vendorsim.Conduct{})
					time.Sleep(6 * time.Minute) // the back-off is over
					e.Creds(credential)
				}
			})
		})
	}
}

func TestShortSecretsAreRedacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 10, 0)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Echo)})
		for path, data := range map[string]map[string]any{
			"config/kensho/prod":     {"refresh_token": "s+rt/1"},
			"config/sitecore/prod":   {"api_key": "s+rt/1"},
			"config/sitecore/second": {"refresh_token": "s+rt/1"},
		} {
			_, status, message := e.Request(logical.UpdateOperation, path, data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "401 Unauthorized")
			assert.Contains(t, message, path)
			assert.NotContains(t, message, "s+rt/1")
			assert.NotContains(t, message, "s%2Brt%2F1")
		}
	})
}

// assertNoSecret asserts that text holds no secret that was written or sent, in any encoding
// in which a vendor may echo it.
func assertNoSecret(t *testing.T, e *engine.Engine, text string) {
	t.Helper()
	secrets := []string{engine.RefreshToken, engine.APIKey, engine.PrivateKeyPEM()[40:80]}
	for _, call := range e.Sim.Calls() {
		if form, err := url.ParseQuery(call.Body); err == nil && form.Has("client_assertion") {
			secrets = append(secrets, form.Get("client_assertion"))
		}
	}
	for _, secret := range secrets {
		for _, form := range []string{secret, url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret))} {
			assert.NotContains(t, text, form)
		}
	}
}
