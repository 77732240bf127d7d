package vendorsim

import (
	"io"
	"net/http"
)

// Always has every call met by one fault.
func Always(fault http.HandlerFunc) func(*http.Request) http.HandlerFunc {
	return func(*http.Request) http.HandlerFunc { return fault }
}

// Answer is a fault: an answer of the given status and body.
func Answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// Throttle is a fault: 429, with a wish as to when to come back (empty is none).
func Throttle(retryAfter string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(http.StatusTooManyRequests)
	}
}

// Redirect is a fault: the vendor points elsewhere.
func Redirect(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Location", "https://elsewhere.example/")
	w.WriteHeader(http.StatusFound)
}

// Reset is a fault: the connection breaks before an answer.
func Reset(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// Hang is a fault: no answer comes until the caller gives up.
func Hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// Echo is a fault: the vendor refuses, and repeats all that it was sent.
func Echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, "bad request: "+r.URL.String()+" ")
	for name, values := range r.Header {
		_, _ = io.WriteString(w, name+"="+values[0]+" ")
	}
	_, _ = w.Write(body)
}
