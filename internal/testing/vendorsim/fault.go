package vendorsim

import (
	"io"
	"net/http"
	"time"
)

// Always returns a Conduct.Fault that applies one fault to every call.
func Always(fault http.HandlerFunc) func(*http.Request) http.HandlerFunc {
	return func(*http.Request) http.HandlerFunc { return fault }
}

// Answer is a fault: a response with the given status and body.
func Answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// Throttle is a fault: status 429 with the given Retry-After header, unless it is empty.
func Throttle(retryAfter string) http.HandlerFunc {
	return Later(http.StatusTooManyRequests, retryAfter)
}

// Later is a fault: a response with the given status and Retry-After header, unless the latter
// is empty.
func Later(status int, retryAfter string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
	}
}

// LaterDate is Later with a date in Retry-After, the given time after the response.
func LaterDate(status int, after time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		Later(status, time.Now().Add(after).UTC().Format(http.TimeFormat))(w, r)
	}
}

// Redirect is a fault: a redirect to another host.
func Redirect(w http.ResponseWriter, r *http.Request) {
	RedirectTo(http.StatusFound, "https://elsewhere.example/")(w, r)
}

// RedirectTo is a fault: a redirect to location with the given status.
func RedirectTo(status int, location string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(status)
	}
}

// Reset is a fault: the connection breaks before a response.
func Reset(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// Break is a fault: the connection breaks after the given beginning of a response.
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

// Hang is a fault: there is no response until the caller gives up.
func Hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // net/http detects that the caller has gone only after the body is read
	<-r.Context().Done()
}
