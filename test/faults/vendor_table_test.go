package faults_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

type strike = func(*vendorsim.Conduct, *vendorsim.Sim, kindOfCredential)

// answering has a fault in the vendor's place.
func answering(fault http.HandlerFunc) strike {
	return func(c *vendorsim.Conduct, _ *vendorsim.Sim, _ kindOfCredential) { c.Fault = vendorsim.Always(fault) }
}

// working has the vendor do his work, and a fault after that.
func working(fault func(*vendorsim.Sim) http.HandlerFunc) strike {
	return func(c *vendorsim.Conduct, sim *vendorsim.Sim, _ kindOfCredential) {
		c.Fault = vendorsim.Always(fault(sim))
	}
}

// amending has the vendor do his work, and something be wrong with what he answers.
func amending(amend func(answer map[string]any, k kindOfCredential)) strike {
	return func(c *vendorsim.Conduct, sim *vendorsim.Sim, k kindOfCredential) {
		c.Fault = vendorsim.Always(sim.Amend(func(answer map[string]any) { amend(answer, k) }))
	}
}

func withToken(value any) strike {
	return amending(func(answer map[string]any, k kindOfCredential) { answer[k.token] = value })
}

// withExpiry has the answer state another expiry, of the one that it should.
func withExpiry(other func(life float64) any) strike {
	return amending(func(answer map[string]any, k kindOfCredential) { answer[k.expiry] = other(k.life) })
}

func statesExpiry(k kindOfCredential) bool { return k.expiry != "" }

// isWithoutDefault and hasDefault are whether nothing, or default_ttl, takes the place of
// a lifetime that is none.
func isWithoutDefault(k kindOfCredential) bool {
	return statesExpiry(k) && k.data["default_ttl"] == nil
}
func hasDefault(k kindOfCredential) bool { return k.data["default_ttl"] != nil }

func isOAuth(k kindOfCredential) bool { return k.oauth }
func rotates(k kindOfCredential) bool { return k.rotates }

func statusText(code int) string { return fmt.Sprintf("%d %s", code, http.StatusText(code)) }

// passingFaults pass by themselves.
func passingFaults() []vendorFault {
	faults := []vendorFault{
		{name: "reset", strike: answering(vendorsim.Reset), says: "connection reset"},
		{name: "hung", strike: answering(vendorsim.Hang), says: "no response in time (request_timeout)"},
		{name: "broken off", strike: answering(vendorsim.Break(`{"access_token": "at-`)), says: "the response broke off: unexpected EOF"},
		{name: "a page, down", strike: answering(vendorsim.Answer(503, "<html>maintenance</html>")), says: "503 Service Unavailable"},
		{name: "a word for it", strike: answering(vendorsim.Answer(400, `{"error":"temporarily_unavailable"}`)), says: "400 Bad Request: temporarily_unavailable"},
		{name: "a word for it, with 200", strike: answering(vendorsim.Answer(200, `{"error":"temporarily_unavailable"}`)), says: "200 OK: temporarily_unavailable"},
		{name: "Slack's word for it, with 200", strike: answering(vendorsim.Answer(200, `{"ok":false,"error":"internal_error"}`)), says: "200 OK: internal_error"},
		{name: "Salesforce's word for it", strike: answering(vendorsim.Answer(400, `{"error":"unknown_error","error_description":"retry your request"}`)), says: "400 Bad Request: unknown_error: retry your request"},
		{name: "401, to come back in 20 minutes", strike: answering(vendorsim.Later(401, "1200")), says: "401 Unauthorized", retryAfter: 20 * time.Minute},
		{name: "401, to come back at a date", strike: answering(vendorsim.LaterDate(401, 20*time.Minute)), says: "401 Unauthorized", retryAfter: 20 * time.Minute},
		{name: "403, to come back in 2 seconds", strike: answering(vendorsim.Later(403, "2")), says: "403 Forbidden", retryAfter: 2 * time.Second},
		{name: "down, and repeats", strike: answering(vendorsim.EchoAs(500, vendorsim.Encodings["plain"], false)), says: "500 Internal Server Error"},
		{name: "429, to come back in a day", strike: answering(vendorsim.Throttle("86400")), says: statusText(429), retryAfter: time.Hour},
		{name: "429, to come back at a date in a day", strike: answering(vendorsim.LaterDate(429, 24*time.Hour)), says: statusText(429), retryAfter: time.Hour},
		{name: "429, to come back in the past", strike: answering(vendorsim.LaterDate(429, -time.Hour)), says: statusText(429)},
		{name: "429, to come back at no time", strike: answering(vendorsim.Throttle("soon")), says: statusText(429)},
		{name: "429, to come back before it is asked", strike: answering(vendorsim.Throttle("-120")), says: statusText(429)},
		{name: "429, to come back in too long for a number", strike: answering(vendorsim.Throttle(strings.Repeat("9", 40))), says: statusText(429), retryAfter: time.Hour},
	}
	for _, code := range []int{408, 425, 429, 500, 502, 503, 504, 520} {
		text := strings.TrimSpace(statusText(code))
		faults = append(faults,
			vendorFault{name: fmt.Sprint(code), strike: answering(vendorsim.Answer(code, "")), says: text},
			vendorFault{name: fmt.Sprint(code, ", to come back in 20 minutes"), strike: answering(vendorsim.Later(code, "1200")), says: text, retryAfter: 20 * time.Minute},
			vendorFault{name: fmt.Sprint(code, ", to come back at a date"), strike: answering(vendorsim.LaterDate(code, 20*time.Minute)), says: text, retryAfter: 20 * time.Minute},
		)
	}
	// The work is done, and nobody gets to know. A refresh token that has been replaced on
	// the occasion is in nobody's hands any more.
	return append(faults,
		vendorFault{name: "done and lost", strike: working(func(s *vendorsim.Sim) http.HandlerFunc { return s.Lose }), says: "connection reset", loses: rotates},
		vendorFault{name: "done and broken off", strike: working(func(s *vendorsim.Sim) http.HandlerFunc { return s.CutOff }), says: "the response broke off: unexpected EOF", loses: rotates},
		vendorFault{name: "done too late", strike: working(func(s *vendorsim.Sim) http.HandlerFunc { return s.Late(15 * time.Second) }), says: "no response in time (request_timeout)", loses: rotates},
	)
}

// invalidResponseFaults are answers that are none.
func invalidResponseFaults() []vendorFault {
	const noObject, noAccessToken, noLifetime = "is not a JSON object", "contains no access token", "states a lifetime that is not a positive number; set default_ttl"
	faults := []vendorFault{
		{name: "nothing", strike: answering(vendorsim.Answer(200, "")), says: noObject},
		{name: "204", strike: answering(vendorsim.Answer(204, "")), says: noObject},
		{name: "a page", strike: answering(vendorsim.Answer(200, "<html><body>Welcome to the hotel's WLAN</body></html>")), says: noObject},
		{name: "JSON cut off", strike: answering(vendorsim.Answer(200, `{"access_token": "at-`)), says: noObject},
		{name: "JSON null", strike: answering(vendorsim.Answer(200, "null")), says: noObject},
		{name: "JSON list", strike: answering(vendorsim.Answer(200, `[{"access_token": "at"}]`)), says: noObject},
		{name: "JSON string", strike: answering(vendorsim.Answer(200, `"at-0123456789"`)), says: noObject},
		{name: "an empty object", strike: answering(vendorsim.Answer(200, "{}")), says: "contains no access token"},
		{name: "over 1 MiB", strike: answering(vendorsim.Answer(200, `{"a":"`+strings.Repeat("x", 1<<20)+`"}`)), says: "the response is over 1 MiB"},
		{name: "a redirect that repeats", says: "unexpected redirect (status 302); redirects are not followed", strike: answering(func(w http.ResponseWriter, r *http.Request) {
			vendorsim.RedirectTo(302, "https://elsewhere.example/?"+r.URL.RawQuery)(w, r)
		})},
		{name: "what it was sent, as an answer", strike: answering(vendorsim.EchoAs(200, vendorsim.Encodings["plain"], false)), says: noObject},

		// Here the work is done: a refresh token that is replaced must not be lost with the
		// token that is none.
		{name: "token null", strike: withToken(nil), says: noAccessToken},
		{name: "token empty", strike: withToken(""), says: noAccessToken},
		{name: "token missing", strike: amending(func(answer map[string]any, k kindOfCredential) { delete(answer, k.token) }), says: noAccessToken},
		{name: "token a number", strike: withToken(7), says: noAccessToken},
		{name: "token a list", strike: withToken([]string{"at"}), says: noAccessToken},
		{name: "token an object", strike: withToken(map[string]any{"value": "at"}), says: noAccessToken},
		{name: "token true", strike: withToken(true), says: noAccessToken},
		{name: "token type with an escape", strike: amending(func(answer map[string]any, _ kindOfCredential) { answer["token_type"] = "Bearer\x1b[2J" }), says: "the vendor's token_type is not", meets: isOAuth},
		{name: "scope with a control character", strike: amending(func(answer map[string]any, _ kindOfCredential) { answer["scope"] = []string{"read\x00"} }), says: "the vendor's scope contains", meets: isOAuth},
		{name: "expiry negative", strike: withExpiry(func(life float64) any { return -life }), says: noLifetime, meets: isWithoutDefault},
		{name: "expiry zero", strike: withExpiry(func(float64) any { return 0 }), says: noLifetime, meets: isWithoutDefault},
		{name: "expiry a word", strike: withExpiry(func(float64) any { return "soon" }), says: noLifetime, meets: isWithoutDefault},
		{name: "expiry no number", strike: withExpiry(func(float64) any { return "NaN" }), says: noLifetime, meets: isWithoutDefault},

		// A refresh token in what passes for all of the answer cannot be told from half of one.
		{name: "done and truncated", strike: working(func(s *vendorsim.Sim) http.HandlerFunc { return s.Truncate }), says: noObject, loses: rotates},
	}
	for _, code := range []int{301, 302, 303, 307, 308} {
		faults = append(faults, vendorFault{
			name: fmt.Sprint(code, " to elsewhere"), strike: answering(vendorsim.RedirectTo(code, "https://elsewhere.example/")),
			says: fmt.Sprintf("unexpected redirect (status %d); redirects are not followed", code),
		})
	}
	for _, code := range []int{404, 405, 410, 421} {
		faults = append(faults, vendorFault{name: fmt.Sprint(code), strike: answering(vendorsim.Answer(code, "")), says: statusText(code) + "; no such endpoint"})
	}
	return append(faults, vendorFault{
		name: "302, to come back in 20 minutes", says: "redirect (302)", retryAfter: 20 * time.Minute,
		strike: answering(vendorsim.Later(302, "1200")),
	})
}

// rejectingFaults are of a vendor who says that the credential is no good.
func rejectingFaults() []vendorFault {
	faults := []vendorFault{
		{name: "a page, forbidden", strike: answering(vendorsim.Answer(403, "<html>blocked</html>")), says: "403 Forbidden"},
		{name: "a word for it, with 200", strike: answering(vendorsim.Answer(200, `{"error":"invalid_grant"}`)), says: "200 OK: invalid_grant"},
		{name: "a word for it, as a form", strike: answering(vendorsim.Answer(400, "error=invalid_grant&error_description=used+twice")), says: "400 Bad Request: invalid_grant: used twice"},
		{name: "a word for it, behind a byte order mark", strike: answering(vendorsim.Answer(400, "\ufeff"+`{"error":"invalid_grant"}`)), says: "400 Bad Request: invalid_grant"},
		{name: "a list of errors", strike: answering(vendorsim.Answer(400, `{"errors":[{"title":"key disabled"}]}`)), says: "400 Bad Request: key disabled"},
		{name: "a fault", strike: answering(vendorsim.Answer(401, `{"fault":{"faultstring":"key disabled"}}`)), says: "401 Unauthorized: key disabled"},
		{name: "errors nested", strike: answering(vendorsim.Answer(401, `{"error":{"code":"E7","message":"key disabled"}}`)), says: "401 Unauthorized: E7: key disabled"},
	}
	for _, code := range []int{400, 401, 403, 407, 409, 415, 418, 422, 451} {
		faults = append(faults, vendorFault{name: fmt.Sprint(code), strike: answering(vendorsim.Answer(code, "")), says: statusText(code)})
	}
	for _, word := range []string{"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"} {
		faults = append(faults, vendorFault{name: word, strike: answering(vendorsim.Answer(400, fmt.Sprintf(`{"error":%q}`, word))), says: "400 Bad Request: " + word})
	}
	for _, name := range slices.Sorted(maps.Keys(vendorsim.Encodings)) {
		encode := vendorsim.Encodings[name]
		faults = append(faults,
			vendorFault{name: "repeats: " + name, strike: answering(vendorsim.EchoAs(401, encode, false)), says: "401 Unauthorized"},
			vendorFault{name: "repeats in an error: " + name, strike: answering(vendorsim.EchoAs(400, encode, true)), says: "400 Bad Request"},
		)
	}
	return faults
}
