package vendorsim

import (
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
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

// slackWords maps error codes to those of Slack
// (https://docs.slack.dev/reference/methods/oauth.v2.access).
var slackWords = map[string]string{
	invalidClient:        "bad_client_secret",
	invalidGrant:         "invalid_refresh_token",
	unsupportedGrantType: "invalid_grant_type",
}

// An oauthAnswer is the response of an endpoint: an error if code is set, otherwise a body.
type oauthAnswer struct {
	body map[string]any // nil for none

	code, description string
	violation         bool // the request does not comply with the documentation
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

// adapt changes an answer to what the vendor returns.
func (s OAuthServer) adapt(a *oauthAnswer) *oauthAnswer {
	if words := s.Descriptions[a.code]; words != "" && !a.violation {
		a.description = words
	}
	if s.Unstated {
		delete(a.body, "expires_in")
	}
	return a
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

// oauthForm returns the form of a request. A repeated parameter is an error, and one without a
// value counts as omitted (RFC 6749 §3.2).
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
		return nil, oauthViolation(invalidRequest, "the body is not a valid form")
	}
	form := map[string]string{}
	for name, values := range r.PostForm {
		isList := r.PostForm.Get("grant_type") == TokenExchangeGrant && (name == "audience" || name == "resource") // RFC 8693 §2.1
		if isList {
			values = []string{strings.Join(values, " ")}
		}
		if len(values) > 1 {
			return nil, oauthViolation(invalidRequest, "%s is given twice", name)
		}
		if values[0] != "" {
			form[name] = values[0]
		}
	}
	return form, nil
}

// clientParams are the parameters of client authentication.
var clientParams = []string{"client_id", "client_secret", "client_assertion", "client_assertion_type"}

// checkKnown rejects parameters that are neither in names nor in clientParams.
func checkKnown(form map[string]string, names ...string) *oauthAnswer {
	for name := range form {
		if !slices.Contains(names, name) && !slices.Contains(clientParams, name) {
			return oauthViolation(invalidRequest, "unknown parameter %s", name)
		}
	}
	return nil
}

// unescape decodes the client ID and secret of Basic authentication (RFC 6749 §2.3.1).
func unescape(id, secret string) (string, string, error) {
	id, err := url.QueryUnescape(id)
	if err != nil {
		return "", "", err
	}
	secret, err = url.QueryUnescape(secret)
	return id, secret, err
}
