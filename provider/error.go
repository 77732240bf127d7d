package provider

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// A Kind states who can fix an error: the operator, or time.
type Kind int

const (
	// Invalid means that the operator's input is invalid or incomplete.
	Invalid Kind = iota + 1
	// Rejected means that the vendor rejected the credential. An operator must act; a
	// retry does not help.
	Rejected
	// Expired means that what the operator stored has expired. An operator must act.
	Expired
	// Unavailable means that the vendor is down, slow or throttling. A retry may succeed.
	Unavailable
	// InvalidResponse means that the vendor did not respond as documented: not JSON, no
	// token, too long, a redirect.
	InvalidResponse
)

// String returns the name of the kind, the value of the metrics' result label.
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

// An Error states why an exchange failed or why a credential cannot be used. Its text
// contains no secret.
type Error struct {
	Kind   Kind
	Reason string

	// RetryAfter is the vendor's Retry-After; zero if there was none.
	RetryAfter time.Duration

	// Clock is the vendor's clock as the response shows it; zero if there was no response.
	Clock Clock

	// Code is the error code of the response, if it is one of RFC 6749 §5.2, RFC 7009
	// §2.2.1 or RFC 8628 §3.5; or CodeConsentRequired.
	Code string

	// Status is the HTTP status of the response; zero if there was none, or if it was not
	// a refusal.
	Status int

	// Timeout reports whether no response came in time.
	Timeout bool

	// NotConsidered reports whether the vendor certainly did not consider the request: it was not sent, or
	// was turned away with status 429 or 503. A code in it can be sent again.
	NotConsidered bool

	// NotSent reports whether the request was not sent, because its turn did not come in time or the host is down: it says
	// nothing about the credential. NotBefore is when it would be its turn; zero if unknown.
	NotSent   bool
	NotBefore time.Time

	// WrongURL reports whether a wrong URL is a likely cause. Reason then names the URL.
	WrongURL bool

	// MayBeScope reports whether the vendor may have rejected the requested scope and not
	// the credential. It is set only for kind Rejected.
	MayBeScope bool

	// Widened reports whether the vendor granted more than was requested. It is set only
	// for kind Rejected.
	Widened bool
}

func (e *Error) Error() string { return e.Reason }

// Outage reports whether the vendor itself is unavailable: it stated so, or it did not
// respond in time. The URL and the credential are not the cause.
func (e *Error) Outage() bool { return e.Kind == Unavailable && (e.Status != 0 || e.Timeout) }

// AboutClient reports whether the vendor rejects the OAuth client, so that no other grant helps.
func (e *Error) AboutClient() bool {
	return e.Code == "invalid_client" || e.Code == "unauthorized_client"
}

// AboutGrant reports whether the vendor rejects the refresh token or the assertion, or its use by the client
// (RFC 6749 §5.2).
func (e *Error) AboutGrant() bool {
	return e.Code == "invalid_grant" || e.Code == "unauthorized_client"
}

// Throttled reports whether the vendor asks for fewer requests.
func (e *Error) Throttled() bool { return e.Status == http.StatusTooManyRequests || e.RetryAfter > 0 }

// Prefixed returns a copy of an *Error with a text before its reason. It returns any other error as it is.
func Prefixed(err error, text string) error {
	var failure *Error
	if !errors.As(err, &failure) {
		return err
	}
	own := *failure
	own.Reason = text + own.Reason
	return &own
}

// Errorf returns an Error with a formatted reason. The arguments must not contain secrets.
func Errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Reason: fmt.Sprintf(format, args...)}
}
