package vendorsim

import (
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
)

// Error codes of RFC 6749 §5.2 and RFC 7009 §2.2.1.
const (
	invalidRequest       = "invalid_request"
	invalidClient        = "invalid_client"
	invalidGrant         = "invalid_grant"
	invalidScope         = "invalid_scope"
	invalidToken         = "invalid_token"
	unauthorizedClient   = "unauthorized_client"
	unsupportedGrantType = "unsupported_grant_type"
)

// slackWords are what Slack says for an error code
// (https://docs.slack.dev/reference/methods/oauth.v2.access).
var slackWords = map[string]string{
	invalidClient:        "bad_client_secret",
	invalidGrant:         "invalid_refresh_token",
	unsupportedGrantType: "invalid_grant_type",
}

// oauthAnswer is what an endpoint says: an error if there is a code, else a body.
type oauthAnswer struct {
	body map[string]any // nil for none

	code, description string
	violation         bool // no documentation allows the request
	basic             bool // the client used Basic authentication
}

func oauthRefusal(code, format string, args ...any) *oauthAnswer {
	return &oauthAnswer{code: code, description: fmt.Sprintf(format, args...)}
}

func oauthViolation(code, format string, args ...any) *oauthAnswer {
	answer := oauthRefusal(code, format, args...)
	answer.violation = true
	return answer
}

func (a *oauthAnswer) reply(conduct OAuthConduct) reply {
	r := reply{status: http.StatusOK, header: map[string]string{"Cache-Control": "no-store", "Pragma": "no-cache"}}
	if a.violation {
		r.violation = a.description
	}
	switch {
	case a.code == "" && a.body == nil:
	case a.code == "":
		if conduct.Slack {
			a.body["ok"] = true
		}
		r.body = a.body
	case conduct.Slack:
		word := slackWords[a.code]
		if word == "" {
			word = "invalid_arguments"
		}
		r.body = map[string]any{"ok": false, "error": word}
	default:
		r.status = http.StatusBadRequest
		if a.code == invalidClient && !conduct.BadClient400 {
			r.status = http.StatusUnauthorized
			if a.basic {
				r.header["Www-Authenticate"] = `Basic realm="oauth2"`
			}
		}
		r.body = map[string]string{"error": a.code, "error_description": a.description}
	}
	return r
}

// oauthForm is the form of a request, with each parameter once. A parameter without a
// value counts as left out (RFC 6749 §3.2).
func oauthForm(r *http.Request) (map[string]string, *oauthAnswer) {
	if r.Method != http.MethodPost {
		return nil, oauthViolation(invalidRequest, "must be a POST")
	}
	if r.URL.RawQuery != "" {
		return nil, oauthViolation(invalidRequest, "must have its parameters in the body, and no query")
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, oauthViolation(invalidRequest, "Content-Type must be application/x-www-form-urlencoded")
	}
	if err := r.ParseForm(); err != nil {
		return nil, oauthViolation(invalidRequest, "the body is no form")
	}
	form := map[string]string{}
	for name, values := range r.PostForm {
		if len(values) > 1 {
			return nil, oauthViolation(invalidRequest, "%s is given twice", name)
		}
		if values[0] != "" {
			form[name] = values[0]
		}
	}
	return form, nil
}

// clientParams are those of client authentication.
var clientParams = []string{"client_id", "client_secret", "client_assertion", "client_assertion_type"}

// checkKnown refuses parameters that are neither named nor of client authentication.
func checkKnown(form map[string]string, names ...string) *oauthAnswer {
	for name := range form {
		if !slices.Contains(names, name) && !slices.Contains(clientParams, name) {
			return oauthViolation(invalidRequest, "%s is no parameter of this request", name)
		}
	}
	return nil
}

// unescape undoes what RFC 6749 §2.3.1 has done to the parts of Basic authentication.
func unescape(id, secret string) (string, string, error) {
	id, err := url.QueryUnescape(id)
	if err != nil {
		return "", "", err
	}
	secret, err = url.QueryUnescape(secret)
	return id, secret, err
}
