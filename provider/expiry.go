package provider

import (
	"cmp"
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// maxLifetime bounds the lifetime that a vendor may state, to avoid overflows.
	maxLifetime = 10 * 365 * 24 * time.Hour

	// noLifetime is an invalid stated lifetime: 0, a negative number or other text.
	noLifetime time.Duration = -1

	// futilePart defines a futile exchange: the expiry moved by less than 1/futilePart of
	// the time since the previous exchange.
	futilePart = 2

	// lastMoments is the remaining lifetime below which a token is not leased.
	lastMoments = 2 * time.Second

	// maxUnixSeconds is the end of the year 9999, the last that RFC 3339 can represent.
	maxUnixSeconds = 253402300799
)

// An Answer is the vendor's response to an exchange. [Answer.Token] determines when its
// token expires.
type Answer struct {
	AccessToken string
	TokenType   string // "Bearer" if empty
	Scope       []string

	// RefreshToken is the refresh token in the response, even if the credential does not
	// use it. No other part of the response may show it (see CheckSecrets).
	RefreshToken string

	// ExpiresIn is the stated lifetime, as [Lifetime] returns it.
	ExpiresIn time.Duration

	// ExpiresAt is the stated time of expiry, by the vendor's clock; zero if the response states none.
	ExpiresAt time.Time

	// RenewalWindow is the end of the token's lifetime in which the vendor issues the next one; zero if
	// it does so at any time.
	RenewalWindow time.Duration

	// Extra are further members of the response, for readers. None is a secret.
	Extra map[string]string

	// Lifetime and OnTheHour are the vendor's documented rules for a token whose lifetime
	// is stated neither by the response nor by the token itself: a fixed lifetime, or
	// expiry at the next full hour, UTC.
	Lifetime  time.Duration
	OnTheHour bool

	// Granted are the values that the answer states for fields that a role can set, by the fields' names:
	// lists of texts, and maps of them. Ignored are elements and entries of them that the vendor grants
	// always.
	Granted map[string]Granted

	// DefaultTTL applies if the operator did not set default_ttl.
	DefaultTTL time.Duration

	// Unusable is the error if there is no token. There may be a Grant all the same.
	Unusable *Error

	// InvalidatesPrevious reports whether the next exchange invalidates this token, so that
	// the engine must not renew it before it expires.
	InvalidatesPrevious bool

	// NotRenewable reports whether no exchange will ever yield a later token.
	NotRenewable bool

	// Grant is the grant for the next exchange; nil leaves the previous one in use.
	Grant *Grant

	// Clock is the vendor's clock as the response shows it.
	Clock Clock
}

// A Granted is what an answer states of a field.
type Granted struct {
	Value   any // []string or map[string]string
	Ignored []string
}

// A TTL has the operator's settings for the lifetime of tokens; zero means not set.
type TTL struct {
	Default time.Duration // default_ttl: the lifetime if nothing states one
	Max     time.Duration // max_ttl: the upper bound
}

// Token returns the response's token with its expiry (see expiry). last is the token of
// the previous exchange, or the zero Token. The error is of kind InvalidResponse if there
// is no token, if an HTTP header cannot carry it, or if nothing determines its lifetime.
// It is Unusable if that is set.
func (a *Answer) Token(ttl TTL, last Token) (Token, error) {
	if a.Unusable != nil {
		return Token{}, a.Unusable
	}
	if a.AccessToken == "" {
		return Token{}, Errorf(InvalidResponse, "the vendor's response contains no access token")
	}
	if size := len(a.AccessToken); size > maxToken {
		return Token{}, Errorf(InvalidResponse, "the vendor's access token is too long: %d bytes (at most %d)", size, maxToken)
	}
	if !FitsHeader(a.AccessToken) {
		return Token{}, Errorf(InvalidResponse, "the vendor's access token contains white space or a non-ASCII character, which an HTTP header cannot carry")
	}
	if err := a.checkShown(); err != nil {
		return Token{}, err
	}
	ahead, _ := a.Clock.Bounds()
	t := Token{
		AccessToken:         a.AccessToken,
		TokenType:           cmp.Or(a.TokenType, "Bearer"),
		Scope:               a.Scope,
		IssueTime:           wall(a.Clock.Sent),
		Stated:              a.ExpiresIn > 0 || !a.ExpiresAt.IsZero(),
		Extra:               a.Extra,
		InvalidatesPrevious: a.InvalidatesPrevious,
		NotRenewable:        a.NotRenewable,
		ClockAhead:          ahead,
	}
	if a.AccessToken == last.AccessToken {
		t.FirstTime, t.Stated = last.first(), t.Stated || last.Stated
	}
	expires, isBoundary, err := a.expiry(ttl, t, last)
	if err != nil {
		return Token{}, err
	}
	t.ExpireTime = wall(expires.earliest)

	// If an exchange gains nothing, the vendor returns the next token only once this one is
	// certain to have expired. A vendor may return the same token for another second after
	// it has expired.
	gained, passed := t.ExpireTime.Sub(last.ExpireTime), t.IssueTime.Sub(last.IssueTime)
	isFutile := last.ExpireTime.After(t.IssueTime) && passed > 0 && gained < passed/futilePart
	received := a.Clock.Received
	isLast := a.AccessToken == last.AccessToken && expires.earliest.Sub(received) < lastMoments && received.Sub(expires.latest) < lastMoments
	if soon := a.Clock.after(0); isLast && expires.latest.Before(soon.latest) {
		expires.latest = soon.latest
	}
	switch {
	case a.NotRenewable:
	case isBoundary || isFutile || isLast:
		t.RenewableFrom = wall(expires.latest)
	case a.InvalidatesPrevious:
		t.RenewableFrom = t.ExpireTime
	case a.RenewalWindow > 0:
		t.RenewableFrom = t.ExpireTime.Add(-a.RenewalWindow)
	}
	if !t.RenewableFrom.After(t.IssueTime.Add(a.Clock.Age)) { // it had passed before the request
		t.RenewableFrom = time.Time{}
	}
	return t, nil
}

// expiry returns when a token expires: the first half of guarantee 1 (the second is in
// internal/broker/rules.go). It is the earliest of the stated lifetime, the token's own exp
// and max_ttl. Without the first two, the vendor's documented rule applies, then
// default_ttl. If the response states an invalid lifetime, it departs from the documented
// rule, and only default_ttl applies. isBoundary reports whether the token expires at a
// fixed time of day.
func (a *Answer) expiry(ttl TTL, t, last Token) (expires span, isBoundary bool, err error) {
	isCountedDown := a.AccessToken == last.AccessToken && last.Stated
	switch {
	case a.ExpiresIn > 0:
		expires = a.Clock.after(a.ExpiresIn)
	case a.ExpiresIn < 0 && isCountedDown: // counted down to 0, so it expires now
		expires = a.Clock.after(0)
	}
	isPassed := func(at time.Time) bool { return a.Clock.Believed() && !at.After(a.Clock.Date) }
	isInvalid := a.ExpiresIn < 0
	switch {
	case a.ExpiresAt.IsZero():
	case isPassed(a.ExpiresAt) && !isCountedDown:
		isInvalid = true
	default:
		if stated := a.Clock.at(a.ExpiresAt); a.ExpiresIn <= 0 || stated.earliest.Before(expires.earliest) {
			expires = stated
		}
	}
	isStated := expires != span{}

	// An exp in the vendor's own past is ignored if the response states a lifetime.
	exp, isJWT := jwtExpiry(a.AccessToken)
	if isJWT && (!isStated || !isPassed(exp)) {
		if own := a.Clock.at(exp); !isStated || own.earliest.Before(expires.earliest) {
			expires = own
			isBoundary = a.OnTheHour && exp.Equal(exp.Truncate(time.Hour))
		}
		isStated = true
	}

	defaultTTL := cmp.Or(ttl.Default, a.DefaultTTL)
	switch {
	case isStated:
	case !isInvalid && a.OnTheHour:
		expires = a.Clock.at(a.Clock.issue(last).Truncate(time.Hour).Add(time.Hour))
		isBoundary = true
	case !isInvalid && a.Lifetime > 0:
		expires = a.Clock.after(a.Lifetime)
	case defaultTTL > 0:
		expires = a.Clock.after(defaultTTL)
	case a.ExpiresIn == 0 && isInvalid:
		return span{}, false, Errorf(InvalidResponse, "the vendor's response states an expiry that has passed; set default_ttl if its clock is wrong")
	case isInvalid:
		return span{}, false, Errorf(InvalidResponse, "the vendor's response states a lifetime that is not a positive number; set default_ttl")
	default:
		return span{}, false, Errorf(InvalidResponse, "the lifetime of the vendor's token is unknown; set default_ttl")
	}

	longest := t.first().Add(min(cmp.Or(ttl.Max, maxLifetime), maxLifetime))
	if longest.Before(expires.earliest) {
		return span{longest, longest}, false, nil
	}
	return expires, isBoundary, nil
}

// Lifetime parses a lifetime in the given unit: a JSON number, or a string of decimal digits
// with an optional fraction. It returns zero if no lifetime is stated (absent, null, "" or
// another type), at least a nanosecond if one is, and a negative duration if the value is
// not a lifetime (0, a negative number or other text).
func Lifetime(raw json.RawMessage, unit time.Duration) time.Duration {
	text := string(raw)
	var quoted string
	if json.Unmarshal(raw, &quoted) == nil {
		if text = strings.TrimSpace(quoted); text != "" && !decimal.MatchString(quoted) {
			return noLifetime
		}
	} else if text == "" || !strings.ContainsRune("-0123456789", rune(text[0])) {
		return 0
	}
	if text == "" {
		return 0
	}
	n, err := strconv.ParseFloat(text, 64) // infinite if out of range
	if err != nil && !errors.Is(err, strconv.ErrRange) || !(n > 0) {
		return noLifetime
	}
	return max(time.Duration(min(n*float64(unit), float64(maxLifetime))), 1)
}

// StatedTime parses a time of expiry: a number, or a string with one, of Unix seconds or milliseconds,
// or a text in RFC 3339. It returns the zero time if raw is none, or is after the year 9999.
func StatedTime(raw json.RawMessage, isRFC3339, isMilli bool) time.Time {
	if isRFC3339 {
		var text Text
		_ = text.UnmarshalJSON(raw)
		for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05"} { // some vendors omit the zone of UTC
			if t, err := time.Parse(layout, string(text)); err == nil {
				return t.UTC()
			}
		}
		return time.Time{}
	}
	var number Number
	_ = number.UnmarshalJSON(raw)
	n, err := strconv.ParseFloat(strings.Trim(string(number), `"`), 64)
	if isMilli {
		n /= 1000
	}
	if err != nil || !(n > 0) || n > maxUnixSeconds {
		return time.Time{}
	}
	return time.Unix(int64(math.Floor(n)), 0)
}

// decimal matches a number as vendors write it in a string. [strconv.ParseFloat] also
// accepts signs, exponents, "Inf", "0x10" and "1_000", which are not meant as lifetimes.
var decimal = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)

// wall strips the monotonic clock reading, which stops while a machine is suspended and is
// lost in storage.
func wall(t time.Time) time.Time { return t.Round(0).UTC() }

// JWTAudience returns the aud claim of a token that is a JWT; nil if it is none.
func JWTAudience(token string) []string {
	claims := jwt.MapClaims{}
	_, _, _ = jwt.NewParser().ParseUnverified(token, claims)
	audience, err := claims.GetAudience()
	if err != nil {
		return nil
	}
	return audience
}

// jwtExpiry returns the exp claim of a token that is a JWT, by the vendor's clock. It does
// not verify the signature, since the token is only passed on.
func jwtExpiry(token string) (time.Time, bool) {
	claims := jwt.MapClaims{}
	// The error does not matter: the claims are set even if the library does not know the
	// algorithm, and stay empty if the token is not a JWT.
	_, _, _ = jwt.NewParser().ParseUnverified(token, claims)
	exp, ok := claims["exp"].(float64)
	if !ok || !(exp > 0) || exp > maxUnixSeconds {
		return time.Time{}, false
	}
	return time.Unix(int64(math.Floor(exp)), 0), true
}
