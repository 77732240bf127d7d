package provider

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Refusal is why a vendor refused what it was asked, in its own words. It is for
// answers of status 2xx as well, of vendors that refuse with those.
func (r *Reply) Refusal() *Error {
	var refusal struct {
		Error any `json:"error"`
	}
	_ = json.Unmarshal(r.Body, &refusal)
	code, _ := refusal.Error.(string)
	text := http.StatusText(r.status)
	if words := reason(r.Body, r.secrets); words != "" {
		text += ": " + words
	}
	kind := kindOf(r.status, code, r.retryAfter)
	e := Errorf(kind, "%s: %d %s", r.url.Host, r.status, text)
	if kind == Nonsense {
		e = wrongURL(kind, "%s: %d %s; the vendor has no such endpoint", endpoint(r.url), r.status, text)
	}
	if slices.Contains(errorCodes, code) {
		e.Code = code
	}
	e.MayBeScope = e.Kind == Rejected && !ofCredential(r.status, code)
	e.Status, e.Clock, e.RetryAfter = r.status, r.Clock, r.retryAfter
	return e
}

// errorCodes are those of RFC 6749 §5.2, the one of RFC 7009 §2.2.1, and the one that
// some answer the revocation of a token with that is gone.
var errorCodes = []string{"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "invalid_token", "unsupported_token_type"}

// transientCodes are error codes of failures that pass by themselves, whatever the status,
// in lower case and without separators.
var transientCodes = map[string]bool{
	// RFC 6749 §4.1.2.1 has them for the authorization endpoint; token endpoints use them too.
	"temporarilyunavailable": true, "servererror": true,
	// RFC 8628 §3.5.
	"slowdown": true,
	// Slack, with status 200 (https://docs.slack.dev/reference/methods/oauth.v2.access).
	"internalerror": true, "fatalerror": true, "serviceunavailable": true, "ratelimited": true, "requesttimeout": true,
	// Salesforce: "unknown_error", with "retry your request".
	"unknownerror": true,
	// Google's APIs: https://developers.google.com/workspace/drive/api/guides/handle-errors
	"backenderror": true, "internalfailure": true, "ratelimitexceeded": true, "userratelimitexceeded": true,
	// Others, of the same meaning.
	"internalservererror": true, "toomanyrequests": true, "throttled": true, "throttling": true,
	"timeout": true, "gatewaytimeout": true, "unavailable": true, "tryagain": true, "tryagainlater": true,
}

// isTransient is whether an error code, however its words are put together, is one of a
// failure that passes by itself.
func isTransient(code string) bool {
	return transientCodes[strings.NewReplacer("_", "", "-", "", " ", "", ".", "").Replace(strings.ToLower(code))]
}

// kindOf tells what an answer means that is not a token: by its error code, or else by
// its status, and by whether the vendor says when to retry. Too early, too many and all of
// 5xx pass by themselves, and anything else will be said again. Nonsense is that there is no
// such endpoint, which says nothing of the credential.
func kindOf(status int, code string, retryAfter time.Duration) Kind {
	if isTransient(code) {
		return Unavailable
	}
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return Unavailable
	}
	if status >= 500 {
		return Unavailable
	}
	// A vendor that rejects a credential does not say when to try it again.
	if retryAfter > 0 && code != "invalid_client" && code != "invalid_grant" {
		return Unavailable
	}
	if slices.Contains(errorCodes, code) {
		return Rejected
	}
	switch status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusMisdirectedRequest:
		return Nonsense
	}
	return Rejected
}

// ofCredential is whether a rejection is surely of the credential: by its error code
// (RFC 6749 §5.2), or else by its status.
func ofCredential(status int, code string) bool {
	switch code {
	case "invalid_client", "invalid_grant", "unauthorized_client":
		return true
	case "invalid_scope":
		return false
	}
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}
