package provider

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Refusal returns the error of a response that refuses the request, with the vendor's own
// message. It also serves responses with a 2xx status, which some vendors use for errors.
func (r *Reply) Refusal() *Error {
	codes := codesIn(r.Body)
	if own := r.ownCode(); own != "" {
		codes = append([]string{own}, codes...)
	}
	code := codes[0]
	text := http.StatusText(r.status)
	if words := r.words(); words != "" {
		text += ": " + words
	}
	kind := kindOf(r.status, code, r.retryAfter)
	if r.hasTransientCode(codes) {
		kind = Unavailable
	}
	e := Errorf(kind, "%s: %d %s", r.url.Host, r.status, text)
	if kind == InvalidResponse {
		e = wrongURL(kind, "%s: %d %s; no such endpoint", endpoint(r.url), r.status, text)
	}
	if slices.Contains(errorCodes, code) {
		e.Code = code
	}
	e.MayBeScope = e.Kind == Rejected && !isAboutCredential(r.status, code)
	e.Status, e.Clock, e.RetryAfter = r.status, r.Clock, r.retryAfter
	e.NotConsidered = r.status == http.StatusTooManyRequests || r.status == http.StatusServiceUnavailable
	return e
}

// words returns what the vendor says about an error, for people: its own code first.
func (r *Reply) words() string {
	words, own := reason(r.Body, r.secrets), redact(r.ownCode(), r.secrets)
	switch {
	case own == "" || strings.Contains(words, own):
		return words
	case words == "":
		return own
	}
	return own + ": " + words
}

// ownCode returns the error code at the place where the vendor puts it; "" if there is none.
func (r *Reply) ownCode() string {
	if r.errorAt == "" || len(r.Body) > maxRefusal {
		return ""
	}
	var body any
	_ = json.Unmarshal(r.Body, &body)
	raw := Member(body, r.errorAt)
	var code Text
	if _ = code.UnmarshalJSON(raw); code != "" {
		return string(code)
	}
	if isStated(raw) {
		return string(raw)
	}
	return ""
}

// codesIn returns the error codes in a body, at least one. The first is the "error" of RFC
// 6749, or "" if there is none. The others come from where other APIs put theirs.
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

// hasTransientCode reports whether one of the error codes is transient, by the vendor's own
// list or by transientCodes. The latter does not count if the first code says that the
// client or the grant is at fault.
func (r *Reply) hasTransientCode(codes []string) bool {
	isOwn := func(code string) bool { return code != "" && slices.Contains(r.transient, code) }
	if slices.ContainsFunc(codes, isOwn) {
		return true
	}
	return codes[0] != "invalid_client" && codes[0] != "invalid_grant" && slices.ContainsFunc(codes, isTransient)
}

// errorCodes are the error codes of RFC 6749 §5.2, RFC 7009 §2.2.1 and RFC 8628 §3.5, and invalid_token,
// which some vendors return when a revoked token is already invalid. access_denied is not among them, as
// some vendors return it for a wrong client secret.
var errorCodes = []string{
	CodePending, CodeSlowDown, CodeExpired,
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "invalid_token", "unsupported_token_type",
}

// transientCodes are error codes of transient failures, whatever the status. They are in
// lower case and without separators.
var transientCodes = map[string]bool{
	// RFC 6749 §4.1.2.1, for the authorization endpoint; token endpoints use them too.
	"temporarilyunavailable": true, "servererror": true,
	// RFC 8628 §3.5.
	"slowdown": true,
	// Slack, with status 200 (https://docs.slack.dev/reference/methods/oauth.v2.access).
	"internalerror": true, "fatalerror": true, "serviceunavailable": true, "ratelimited": true, "requesttimeout": true,
	// Salesforce: "unknown_error", with "retry your request".
	"unknownerror": true,
	// Google's APIs: https://developers.google.com/workspace/drive/api/guides/handle-errors
	"backenderror": true, "internalfailure": true, "ratelimitexceeded": true, "userratelimitexceeded": true,
	// Common elsewhere, with the same meaning.
	"internalservererror": true, "toomanyrequests": true, "throttled": true, "throttling": true,
	"resourceexhausted": true, "deadlineexceeded": true, "throttlingexception": true, "toomanyrequestsexception": true,
	"timeout": true, "gatewaytimeout": true, "unavailable": true, "tryagain": true, "tryagainlater": true,
}

// codeMarks removes separators from error codes.
var codeMarks = strings.NewReplacer("_", "", "-", "", " ", "", ".", "")

// isTransient reports whether an error code is in transientCodes, in any case and with any
// separators.
func isTransient(code string) bool {
	return transientCodes[codeMarks.Replace(strings.ToLower(code))]
}

// kindOf returns the kind of error of a response without a token. The error code decides,
// then the status, then whether there is a Retry-After. Statuses 408, 425, 429 and 5xx are
// transient; a retry does not change any other. InvalidResponse stands for a status that
// means that the endpoint does not exist, and does not concern the credential.
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
	// A Retry-After makes no sense with the rejection of a credential.
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

// isAboutCredential reports whether a rejection is certain to be about the credential, by
// its error code (RFC 6749 §5.2) or else by its status.
func isAboutCredential(status int, code string) bool {
	switch code {
	case "invalid_client", "invalid_grant", "unauthorized_client":
		return true
	case "invalid_scope":
		return false
	}
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}
