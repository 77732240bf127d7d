package provider

import (
	"fmt"
	"net/http"
	"time"
)

// Kind tells what an error means for whoever has to act on it.
type Kind int

const (
	// Invalid is bad input: the operator mends it before anything is stored.
	Invalid Kind = iota + 1
	// Rejected means that the vendor says the credential is no good: a person
	// must act, and asking again changes nothing.
	Rejected
	// Expired means that what the operator stored has run out: a person must act.
	Expired
	// Unavailable passes by itself: the vendor is down, slow or throttling.
	Unavailable
	// InvalidResponse is an answer that is none: no JSON, no token, too long, a redirect.
	InvalidResponse
)

// String is the kind in one word.
func (k Kind) String() string {
	switch k {
	case Invalid:
		return "invalid"
	case Rejected:
		return "rejected"
	case Expired:
		return "expired"
	case Unavailable:
		return "unavailable"
	case InvalidResponse:
		return "invalid_response"
	}
	return "unknown"
}

// Error is why an exchange failed, or why a credential cannot be used. Its text
// holds no secret.
type Error struct {
	Kind   Kind
	Reason string

	// RetryAfter is how long the vendor asks to be left alone; zero if it does not.
	RetryAfter time.Duration

	// Clock is what the answer told of the vendor's clock; zero if there was none.
	Clock Clock

	// Code is the error code of RFC 6749 §5.2, where the vendor's answer has one.
	Code string

	// Status is the status of the answer that refused; zero if there was none.
	Status int

	// Timeout is whether no answer came in time.
	Timeout bool

	// WrongURL is whether a wrong URL causes such a failure. Reason has the URL.
	WrongURL bool

	// MayBeScope is, of a rejection, whether it may be of the scope that was asked for
	// and not of the credential.
	MayBeScope bool

	// Widened is, of a rejection, whether the vendor granted more than it was asked for.
	Widened bool
}

func (e *Error) Error() string { return e.Reason }

// Outage reports whether the vendor is known to be unavailable now, by its answer or because
// none came in time: nothing speaks against the URL or the credential.
func (e *Error) Outage() bool { return e.Kind == Unavailable && (e.Status != 0 || e.Timeout) }

// Throttled reports whether the vendor asks for fewer requests.
func (e *Error) Throttled() bool { return e.Status == http.StatusTooManyRequests || e.RetryAfter > 0 }

// Errorf makes an Error. What goes into it must be free of secrets.
func Errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Reason: fmt.Sprintf(format, args...)}
}
