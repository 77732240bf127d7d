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
	codes := codesIn(r.Body)
	code := codes[0]
	text := http.StatusText(r.status)
	if words := reason(r.Body, r.secrets); words != "" {
		text += ": " + words
	}
	kind := kindOf(r.status, code, r.retryAfter)
	if r.passes(codes) {
		kind = Unavailable
	}
	e := Errorf(kind, "%s: %d %s", r.url.Host, r.status, text)
	if kind == InvalidResponse {
		e = wrongURL(kind, "%s: %d %s; the vendor has no such endpoint", endpoint(r.url), r.status, text)
	}
	if slices.Contains(errorCodes, code) {
		e.Code = code
	}
	e.MayBeScope = e.Kind == Rejected && !ofCredential(r.status, code)
	e.Status, e.Clock, e.RetryAfter = r.status, r.Clock, r.retryAfter
	return e
}

// codesIn are the error codes of an answer, at least one: the first is the "error" of RFC 6749,
// "" if there is none, and the others are where other APIs have theirs.
func codesIn(body []byte) []string {
	var object map[string]any
	if len(body) <= maxRefusal {
		_ = json.Unmarshal(body, &object)
	}
	code, _ := object["error"].(string)
	codes := []string{code}
	nested := []any{object, object["error"], object["fault"]}
	if list, ok := object["errors"].([]any); ok {
		nested = append(nested, list...)
	}
	for _, value := range nested {
		members, _ := value.(map[string]any)
		for _, name := range []string{"code", "errorCode", "error_code", "error_type", "status", "type", "__type"} {
			if code, ok := members[name].(string); ok {
				codes = append(codes, code)
			}
		}
	}
	return codes
}

// passes is whether one of some error codes is of a failure that passes by itself: by the
// vendor's own list, or else by transientCodes, unless the answer is clear on whose fault it
// is.
func (r *Reply) passes(codes []string) bool {
	isOwn := func(code string) bool { return code != "" && slices.Contains(r.transient, code) }
	if slices.ContainsFunc(codes, isOwn) {
		return true
	}
	return codes[0] != "invalid_client" && codes[0] != "invalid_grant" && slices.ContainsFunc(codes, isTransient)
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
	"resourceexhausted": true, "deadlineexceeded": true, "throttlingexception": true, "toomanyrequestsexception": true,
	"timeout": true, "gatewaytimeout": true, "unavailable": true, "tryagain": true, "tryagainlater": true,
}

// codeMarks are removed from error codes.
var codeMarks = strings.NewReplacer("_", "", "-", "", " ", "", ".", "")

// isTransient is whether an error code, however its words are put together, is one of a
// failure that passes by itself.
func isTransient(code string) bool {
	return transientCodes[codeMarks.Replace(strings.ToLower(code))]
}

// kindOf tells what an answer means that is not a token: by its error code, or else by
// its status, and by whether the vendor says when to retry. Too early, too many and all of
// 5xx pass by themselves, and anything else will be said again. InvalidResponse is that there is no
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
		return InvalidResponse
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
