package vendorsim

import (
	"bytes"
	"html/template"
	"net/http"
	"net/url"
	"strings"
)

// consentPage is the page on which a person logs in and consents.
var consentPage = template.Must(template.New("consent").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Log in at {{.Server}}</title><link rel="icon" href="data:,">
<style>body { font: 1.1rem/1.6 system-ui, sans-serif; max-width: 30rem; margin: 12vh auto; } button, input { font: inherit; margin-right: 1rem; }</style></head>
<body><h1>{{.Client}} wants to act for you</h1>
<p>It asks for: {{range .Scope}}<code>{{.}}</code> {{end}}</p>
<form method="post"><p><label>E-mail <input name="person" value="{{.Person}}"></label></p>
<p><button name="decision" value="allow" id="allow">Allow</button><button name="decision" value="refuse" id="refuse">Refuse</button></p></form>
</body></html>`))

// oauthAuthorize is the authorization endpoint for a browser: a page, and what its form sends.
func (s *Sim) oauthAuthorize(a *authServer, r *http.Request) reply {
	asSent := a.Issuer + "/oauth2/authorize?" + r.URL.RawQuery
	if server, _ := s.authorization(asSent); server == nil {
		return refuse(http.StatusBadRequest, "the authorization request is wrong")
	}
	query := r.URL.Query()
	switch r.Method {
	case http.MethodGet:
		var page bytes.Buffer
		if err := consentPage.Execute(&page, map[string]any{
			"Server": a.Issuer, "Client": query.Get("client_id"), "Scope": strings.Fields(query.Get("scope")), "Person": "alice@example.com",
		}); err != nil {
			panic(err)
		}
		return reply{status: http.StatusOK, header: map[string]string{"Content-Type": "text/html; charset=utf-8"}, body: page.Bytes()}
	case http.MethodPost:
		to := back(query, url.Values{"error": {"access_denied"}, "error_description": {"The person refused."}})
		if r.FormValue("decision") == "allow" {
			to = s.consented(query, r.FormValue("person"), asSeen(r, a.Issuer))
		}
		return reply{status: http.StatusFound, header: map[string]string{"Location": to}}
	}
	return violation(http.StatusMethodNotAllowed, "must be a GET or a POST")
}
