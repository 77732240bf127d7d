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
