package faults_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

type injector = func(*vendorsim.Conduct, *vendorsim.Sim, kindOfCredential)

// answerWith makes a fault answer in the vendor's place.
func answerWith(fault http.HandlerFunc) injector {
	return func(c *vendorsim.Conduct, _ *vendorsim.Sim, k kindOfCredential) { c.Fault = k.at(fault) }
}

// processThen makes the vendor process the request before the fault.
func processThen(fault func(*vendorsim.Sim) http.HandlerFunc) injector {
	return func(c *vendorsim.Conduct, sim *vendorsim.Sim, k kindOfCredential) { c.Fault = k.at(fault(sim)) }
}

// amendAnswer makes the vendor process the request and change its answer.
func amendAnswer(amend func(answer map[string]any, k kindOfCredential)) injector {
	return func(c *vendorsim.Conduct, sim *vendorsim.Sim, k kindOfCredential) {
		c.Fault = k.at(sim.Amend(func(answer map[string]any) { amend(answer, k) }))
	}
}

// set changes a member of an answer, by its path such as data.token.
func set(answer map[string]any, path string, value any) {
	parent, name := parentOf(answer, path)
	parent[name] = value
}

func remove(answer map[string]any, path string) {
	parent, name := parentOf(answer, path)
	delete(parent, name)
}

func parentOf(answer map[string]any, path string) (parent map[string]any, name string) {
	for {
		first, rest, isNested := strings.Cut(path, ".")
		if !isNested {
			return answer, path
		}
		answer, path = answer[first].(map[string]any), rest
	}
}

func withToken(value any) injector {
	return amendAnswer(func(answer map[string]any, k kindOfCredential) { set(answer, k.token, value) })
}

// withExpiry makes the vendor state another lifetime, computed from the real one.
func withExpiry(other func(lifetime float64) any) injector {
	return amendAnswer(func(answer map[string]any, k kindOfCredential) { set(answer, k.expiry, other(k.lifetime)) })
}

// withTime makes the vendor state another time of expiry. real is the documented one.
func withTime(other func(real time.Time, k kindOfCredential) any) injector {
	return amendAnswer(func(answer map[string]any, k kindOfCredential) {
		set(answer, k.expiresAt, other(time.Now().Add(kindLifetime), k))
	})
}

func statesExpiry(k kindOfCredential) bool { return k.expiry != "" }
func statesTime(k kindOfCredential) bool   { return k.expiresAt != "" }
func statesUnix(k kindOfCredential) bool   { return statesTime(k) && !k.isRFC3339 }
func statesDate(k kindOfCredential) bool   { return statesTime(k) && k.isRFC3339 }

// isWithoutDefault reports whether a lifetime is stated and has no default_ttl to replace it.
func isWithoutDefault(k kindOfCredential) bool {
	return statesExpiry(k) && k.data["default_ttl"] == nil
}

// hasDefault reports whether the credential has a default_ttl.
func hasDefault(k kindOfCredential) bool { return k.data["default_ttl"] != nil }

// hasToken reports whether the answer has the access token.
func hasToken(k kindOfCredential) bool { return k.token != "" }

// isOAuth reports whether the answer is one of OAuth 2.0 with the access token.
func isOAuth(k kindOfCredential) bool { return k.oauth && hasToken(k) }
func rotates(k kindOfCredential) bool { return k.rotates }

func statusText(code int) string { return fmt.Sprintf("%d %s", code, http.StatusText(code)) }

// passingFaults returns the faults that count as an outage.
func passingFaults() []vendorFault {
	faults := []vendorFault{
		{name: "reset", inject: answerWith(vendorsim.Reset), says: "connection reset"},
		{name: "hung", inject: answerWith(vendorsim.Hang), says: "no response in time (request_timeout)"},
		{name: "answer cut off", inject: answerWith(vendorsim.Break(`{"access_token": "at-`)), says: "the response broke off: unexpected EOF"},
		{name: "an HTML page with 503", inject: answerWith(vendorsim.Answer(503, "<html>maintenance</html>")), says: "503 Service Unavailable"},
		{name: "an error code", inject: answerWith(vendorsim.Answer(400, `{"error":"temporarily_unavailable"}`)), says: "400 Bad Request: temporarily_unavailable"},
		{name: "an error code with 200", inject: answerWith(vendorsim.Answer(200, `{"error":"temporarily_unavailable"}`)), says: "200 OK: temporarily_unavailable"},
		{name: "Slack's error code with 200", inject: answerWith(vendorsim.Answer(200, `{"ok":false,"error":"internal_error"}`)), says: "200 OK: internal_error"},
		{name: "Salesforce's error code", inject: answerWith(vendorsim.Answer(400, `{"error":"unknown_error","error_description":"retry your request"}`)), says: "400 Bad Request: unknown_error: retry your request"},
		{name: "401, retry after 20 minutes", inject: answerWith(vendorsim.Later(401, "1200")), says: "401 Unauthorized", retryAfter: 20 * time.Minute},
		{name: "401, retry at a date", inject: answerWith(vendorsim.LaterDate(401, 20*time.Minute)), says: "401 Unauthorized", retryAfter: 20 * time.Minute},
		{name: "403, retry after 2 seconds", inject: answerWith(vendorsim.Later(403, "2")), says: "403 Forbidden", retryAfter: 2 * time.Second},
		{name: "500 that repeats the request", inject: answerWith(vendorsim.EchoAs(500, vendorsim.Encodings["plain"], false)), says: "500 Internal Server Error"},
		{name: "429, retry after a day", inject: answerWith(vendorsim.Throttle("86400")), says: statusText(429), retryAfter: time.Hour},
		{name: "429, retry at a date in a day", inject: answerWith(vendorsim.LaterDate(429, 24*time.Hour)), says: statusText(429), retryAfter: time.Hour},
		{name: "429, retry at a date in the past", inject: answerWith(vendorsim.LaterDate(429, -time.Hour)), says: statusText(429)},
		{name: "429, retry after a word", inject: answerWith(vendorsim.Throttle("soon")), says: statusText(429)},
		{name: "429, retry after a negative time", inject: answerWith(vendorsim.Throttle("-120")), says: statusText(429)},
		{name: "429, retry after a huge number", inject: answerWith(vendorsim.Throttle(strings.Repeat("9", 40))), says: statusText(429), retryAfter: time.Hour},
	}
	for _, code := range []int{408, 425, 429, 500, 502, 503, 504, 520} {
		text := strings.TrimSpace(statusText(code))
		faults = append(faults,
			vendorFault{name: fmt.Sprint(code), inject: answerWith(vendorsim.Answer(code, "")), says: text},
			vendorFault{name: fmt.Sprint(code, ", retry after 20 minutes"), inject: answerWith(vendorsim.Later(code, "1200")), says: text, retryAfter: 20 * time.Minute},
			vendorFault{name: fmt.Sprint(code, ", retry at a date"), inject: answerWith(vendorsim.LaterDate(code, 20*time.Minute)), says: text, retryAfter: 20 * time.Minute},
		)
	}
	// The vendor processes the request, and its answer does not arrive. A refresh token that it
	// rotated is lost.
	return append(faults,
		vendorFault{name: "processed, connection closed", inject: processThen(func(s *vendorsim.Sim) http.HandlerFunc { return s.Lose }), says: "connection reset", losesGrant: rotates},
		vendorFault{name: "processed, answer cut off", inject: processThen(func(s *vendorsim.Sim) http.HandlerFunc { return s.CutOff }), says: "the response broke off: unexpected EOF", losesGrant: rotates},
		vendorFault{name: "processed too late", inject: processThen(func(s *vendorsim.Sim) http.HandlerFunc { return s.Late(15 * time.Second) }), says: "no response in time (request_timeout)", losesGrant: rotates},
	)
}

// invalidResponseFaults returns the faults that count as an invalid response.
func invalidResponseFaults() []vendorFault {
	const noObject, noLifetime = "is not a JSON object", "states a lifetime that is not a positive number; set default_ttl"
	const passed, unknown = "before it was received", "set default_ttl"
	faults := []vendorFault{
		{name: "empty", inject: answerWith(vendorsim.Answer(200, "")), says: noObject},
		{name: "204", inject: answerWith(vendorsim.Answer(204, "")), says: noObject},
		{name: "an HTML page", inject: answerWith(vendorsim.Answer(200, "<html><body>Welcome to the hotel's WLAN</body></html>")), says: noObject},
		{name: "JSON cut off", inject: answerWith(vendorsim.Answer(200, `{"access_token": "at-`)), says: noObject},
		{name: "JSON null", inject: answerWith(vendorsim.Answer(200, "null")), says: noObject},
		{name: "JSON list", inject: answerWith(vendorsim.Answer(200, `[{"access_token": "at"}]`)), says: noObject},
		{name: "JSON string", inject: answerWith(vendorsim.Answer(200, `"at-0123456789"`)), says: noObject},
		{name: "an empty object", inject: answerWith(vendorsim.Answer(200, "{}")), says: noAccessToken},
		{name: "over 1 MiB", inject: answerWith(vendorsim.Answer(200, `{"a":"`+strings.Repeat("x", 1<<20)+`"}`)), says: "the response is over 1 MiB"},
		{name: "a redirect that repeats the request", says: "unexpected redirect (status 302); redirects are not followed", inject: answerWith(func(w http.ResponseWriter, r *http.Request) {
			vendorsim.RedirectTo(302, "https://elsewhere.example/?"+r.URL.RawQuery)(w, r)
		})},
		{name: "the request repeated as an answer", inject: answerWith(vendorsim.EchoAs(200, vendorsim.Encodings["plain"], false)), says: noObject},

		// The vendor has processed these requests: a rotated refresh token beside an invalid
		// access token must not be lost.
		{name: "token null", inject: withToken(nil), says: noAccessToken, appliesTo: hasToken},
		{name: "token empty", inject: withToken(""), says: noAccessToken, appliesTo: hasToken},
		{name: "token missing", inject: amendAnswer(func(answer map[string]any, k kindOfCredential) { remove(answer, k.token) }), says: noAccessToken, appliesTo: hasToken},
		{name: "token a number", inject: withToken(7), says: noAccessToken, appliesTo: hasToken},
		{name: "token a list", inject: withToken([]string{"at"}), says: noAccessToken, appliesTo: hasToken},
		{name: "token an object", inject: withToken(map[string]any{"value": "at"}), says: noAccessToken, appliesTo: hasToken},
		{name: "token true", inject: withToken(true), says: noAccessToken, appliesTo: hasToken},
		{name: "token type with an escape", inject: amendAnswer(func(answer map[string]any, _ kindOfCredential) { answer["token_type"] = "Bearer\x1b[2J" }), says: "the vendor's token_type is not", appliesTo: isOAuth},
		{name: "scope with a control character", inject: amendAnswer(func(answer map[string]any, _ kindOfCredential) { answer["scope"] = []string{"read\x00"} }), says: "the vendor's scope contains", appliesTo: isOAuth},
		{name: "expiry negative", inject: withExpiry(func(lifetime float64) any { return -lifetime }), says: noLifetime, appliesTo: isWithoutDefault},
		{name: "expiry zero", inject: withExpiry(func(float64) any { return 0 }), says: noLifetime, appliesTo: isWithoutDefault},
		{name: "expiry a word", inject: withExpiry(func(float64) any { return "soon" }), says: noLifetime, appliesTo: isWithoutDefault},
		{name: "expiry NaN", inject: withExpiry(func(float64) any { return "NaN" }), says: noLifetime, appliesTo: isWithoutDefault},

		{name: "time passed", inject: withTime(func(_ time.Time, k kindOfCredential) any { return k.stated(time.Now().Add(-time.Minute)) }), says: passed, appliesTo: statesTime},
		{name: "time null", inject: withTime(func(time.Time, kindOfCredential) any { return nil }), says: unknown, appliesTo: statesTime},
		{name: "time a word", inject: withTime(func(time.Time, kindOfCredential) any { return "tomorrow" }), says: unknown, appliesTo: statesTime},
		{name: "time an object", inject: withTime(func(time.Time, kindOfCredential) any { return map[string]any{"at": 7} }), says: unknown, appliesTo: statesTime},
		{name: "a lifetime as a time", inject: withTime(func(time.Time, kindOfCredential) any { return kindLifetime.Seconds() }), says: passed, appliesTo: statesUnix},
		{name: "a negative time", inject: withTime(func(real time.Time, _ kindOfCredential) any { return -real.Unix() }), says: unknown, appliesTo: statesUnix},
		{name: "a time in milliseconds", inject: withTime(func(real time.Time, _ kindOfCredential) any { return real.UnixMilli() }), says: unknown, appliesTo: statesUnix},
		{name: "a time beyond floating point", inject: withTime(func(time.Time, kindOfCredential) any { return json.RawMessage("1e999") }), says: unknown, appliesTo: statesUnix},
		{name: "a number for a date", inject: withTime(func(real time.Time, _ kindOfCredential) any { return real.Unix() }), says: unknown, appliesTo: statesDate},
		{name: "a date without a time", inject: withTime(func(real time.Time, _ kindOfCredential) any { return real.Format(time.DateOnly) }), says: unknown, appliesTo: statesDate},
		{name: "a date of HTTP", inject: withTime(func(real time.Time, _ kindOfCredential) any { return real.Format(http.TimeFormat) }), says: unknown, appliesTo: statesDate},

		// A refresh token in a truncated answer may itself be truncated, so it is not used.
		{name: "processed, answer truncated", inject: processThen(func(s *vendorsim.Sim) http.HandlerFunc { return s.Truncate }), says: noObject, losesGrant: rotates},
	}
	for _, code := range []int{301, 302, 303, 307, 308} {
		faults = append(faults, vendorFault{
			name: fmt.Sprint(code, " to another host"), inject: answerWith(vendorsim.RedirectTo(code, "https://elsewhere.example/")),
			says: fmt.Sprintf("unexpected redirect (status %d); redirects are not followed", code),
		})
	}
	for _, code := range []int{404, 405, 410, 421} {
		faults = append(faults, vendorFault{name: fmt.Sprint(code), inject: answerWith(vendorsim.Answer(code, "")), says: statusText(code) + "; no such endpoint"})
	}
	return append(faults, vendorFault{
		name: "302, retry after 20 minutes", says: "unexpected redirect (status 302)", retryAfter: 20 * time.Minute,
		inject: answerWith(vendorsim.Later(302, "1200")),
	})
}

// rejectingFaults returns the faults that count as a rejection of the credential.
func rejectingFaults() []vendorFault {
	faults := []vendorFault{
		{name: "an HTML page with 403", inject: answerWith(vendorsim.Answer(403, "<html>blocked</html>")), says: "403 Forbidden"},
		{name: "an error code with 200", inject: answerWith(vendorsim.Answer(200, `{"error":"invalid_grant"}`)), says: "200 OK: invalid_grant"},
		{name: "an error code in a form", inject: answerWith(vendorsim.Answer(400, "error=invalid_grant&error_description=used+twice")), says: "400 Bad Request: invalid_grant: used twice"},
		{name: "an error code after a byte order mark", inject: answerWith(vendorsim.Answer(400, "\ufeff"+`{"error":"invalid_grant"}`)), says: "400 Bad Request: invalid_grant"},
		{name: "a list of errors", inject: answerWith(vendorsim.Answer(400, `{"errors":[{"title":"key disabled"}]}`)), says: "400 Bad Request: key disabled"},
		{name: "a fault object", inject: answerWith(vendorsim.Answer(401, `{"fault":{"faultstring":"key disabled"}}`)), says: "401 Unauthorized: key disabled"},
		{name: "a nested error", inject: answerWith(vendorsim.Answer(401, `{"error":{"code":"E7","message":"key disabled"}}`)), says: "401 Unauthorized: E7: key disabled"},
	}
	for _, code := range []int{400, 401, 403, 407, 409, 415, 418, 422, 451} {
		faults = append(faults, vendorFault{name: fmt.Sprint(code), inject: answerWith(vendorsim.Answer(code, "")), says: statusText(code)})
	}
	for _, word := range []string{"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"} {
		faults = append(faults, vendorFault{name: word, inject: answerWith(vendorsim.Answer(400, fmt.Sprintf(`{"error":%q}`, word))), says: "400 Bad Request: " + word})
	}
	for _, name := range slices.Sorted(maps.Keys(vendorsim.Encodings)) {
		encode := vendorsim.Encodings[name]
		faults = append(faults,
			vendorFault{name: "repeats: " + name, inject: answerWith(vendorsim.EchoAs(401, encode, false)), says: "401 Unauthorized"},
			vendorFault{name: "repeats in an error: " + name, inject: answerWith(vendorsim.EchoAs(400, encode, true)), says: "400 Bad Request"},
		)
	}
	return faults
}
