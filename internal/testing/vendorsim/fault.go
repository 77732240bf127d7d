package vendorsim

import (
	"io"
	"net/http"
	"time"
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
	return Later(http.StatusTooManyRequests, retryAfter)
}

// Later is a fault: an answer of the given status, with a wish as to when to come back
// (empty is none).
func Later(status int, retryAfter string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
	}
}

// LaterDate is Later with the wish as a date, so long after the answer.
func LaterDate(status int, after time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		Later(status, time.Now().Add(after).UTC().Format(http.TimeFormat))(w, r)
	}
}

// Redirect is a fault: the vendor points elsewhere.
func Redirect(w http.ResponseWriter, r *http.Request) {
	RedirectTo(http.StatusFound, "https://elsewhere.example/")(w, r)
}

// RedirectTo is a fault: the vendor points to a place, with the given status.
func RedirectTo(status int, location string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(status)
	}
}

// Reset is a fault: the connection breaks before an answer.
func Reset(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// Break is a fault: the connection breaks after the given beginning of an answer.
func Break(beginning string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		breakOff(w, http.StatusOK, []byte(beginning))
	}
}

func breakOff(w http.ResponseWriter, status int, beginning []byte) {
	w.WriteHeader(status)
	_, _ = w.Write(beginning)
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// Hang is a fault: no answer comes until the caller gives up.
func Hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // or a server does not notice that the caller has gone
	<-r.Context().Done()
}
