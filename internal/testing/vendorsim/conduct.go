package vendorsim

import (
	"net/http"
	"time"
)

// Conduct is the behavior of all vendors. The zero value is as documented.
type Conduct struct {
	// Latency is how long a response takes. The vendor issues the token after half of it, and
	// sets the Date header after three quarters.
	Latency time.Duration

	// Rate is how many requests each host accepts.
	Rate Rate

	// Skew is how far the vendors' clocks are ahead of the caller's.
	Skew time.Duration

	// NoDate omits the Date header. Date, unless zero, replaces the time of the vendors' clocks
	// in it.
	NoDate bool
	Date   time.Time

	// Fault may return a handler that answers the request instead of the vendor.
	Fault func(*http.Request) http.HandlerFunc

	// JWT makes the access tokens of Kensho and of OAuth 2.0 servers JWTs instead of opaque
	// strings.
	JWT bool

	// HourOffset makes Kensho's access tokens of a refresh token JWTs that expire this long
	// after the full hour, unlike those of the real vendor.
	HourOffset time.Duration

	// StrictDates rejects assertions that were issued in the future, without any leeway, or more
	// than 10 seconds ago.
	StrictDates bool

	// Rotate makes Kensho rotate the refresh token with each exchange.
	Rotate bool

	// Lifetime is the lifetime of the access tokens of Kensho's key pairs and of the vendors with
	// definitions; zero means 1 hour. Unstated omits the lifetime from the responses of key pairs
	// and of OAuth 2.0 servers.
	Lifetime time.Duration
	Unstated bool

	// Sticky makes the exchange of a key pair, and the client credentials grant, return the last
	// token with its remaining lifetime until it expires.
	Sticky bool

	// TokenSize is the minimum length in bytes of new tokens, except JWTs.
	TokenSize int

	// Propagation is how long vendors whose servers do not all know a change at once go on as before it: Entra,
	// Google, Auth0 and Okta refuse a new secret and accept a removed one. Entra and Google list secrets as before,
	// too. (https://learn.microsoft.com/graph/api/application-addpassword, https://cloud.google.com/iam/docs/keys-upload,
	// https://auth0.com/docs/get-started/applications/rotate-client-secret)
	Propagation time.Duration

	// NestedKeys makes Okta list public keys in {"jwks": {"keys": []}}, as an example of its documentation has it, rather
	// than in {"keys": []}, as its specification has it.
	NestedKeys bool

	// LostAnswers reports whether the connection breaks after the vendor has handled a request and before its
	// response; nil for never.
	LostAnswers func(*http.Request) bool

	// OAuth is the behavior of OAuth 2.0 servers.
	OAuth OAuthConduct
}

// setDate sets the Date header of a response to the time by the vendors' clocks.
func (c Conduct) setDate(w http.ResponseWriter) {
	if c.NoDate {
		w.Header()["Date"] = nil
		return
	}
	date := c.Date
	if date.IsZero() {
		date = time.Now().Add(c.Skew)
	}
	w.Header().Set("Date", date.UTC().Format(http.TimeFormat))
}
