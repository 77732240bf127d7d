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
	// maxLifetime bounds what a vendor may claim, so that no arithmetic overflows.
	maxLifetime = 10 * 365 * 24 * time.Hour

	// noLifetime is what an answer states that says 0, a negative number or some text.
	noLifetime time.Duration = -1

	// futilePart is the part of the time between two exchanges that the second must gain.
	futilePart = 2

	// lastMoments is what remains of a token that cannot be leased any more.
	lastMoments = 2 * time.Second

	// maxUnixSeconds is the end of the year 9999, the last that RFC 3339 can write.
	maxUnixSeconds = 253402300799
)

// An Answer is what the vendor said in one exchange, before anyone decides when
// the token expires.
type Answer struct {
	AccessToken string
	TokenType   string // "Bearer" if empty
	Scope       []string

	// RefreshToken is what the answer states beside a scope, whether it is used or not.
	RefreshToken string

	// ExpiresIn is the lifetime that the answer states, as Lifetime reads it.
	ExpiresIn time.Duration

	// Lifetime and OnTheHour are the rules that the vendor documents for a token whose
	// lifetime neither the answer nor the token itself states: a fixed lifetime, or
	// expiry at the next full hour, UTC.
	Lifetime  time.Duration
	OnTheHour bool

	// DefaultTTL takes the place of an operator's default_ttl that is not set.
	DefaultTTL time.Duration

	// Unusable is why there is no token in the answer, though there may be a grant.
	Unusable *Error

	// InvalidatesPrevious says that the next exchange ends the token, which is to live its life.
	InvalidatesPrevious bool

	// NotRenewable says that no exchange will yield a later token than this one.
	NotRenewable bool

	// Grant is what to use in the next exchange; nil leaves it as it is.
	Grant *Grant

	// Clock is what the exchange told of the vendor's clock.
	Clock Clock
}

// A TTL is what an operator says of the lifetime of tokens; zero says nothing.
type TTL struct {
	Default time.Duration // the lifetime where nothing else states one
	Max     time.Duration // the longest lifetime to believe
}

// Token decides when the token expires (see expiry). last is the token of the exchange
// before; the zero Token if there was none. An answer with no token, or one that no
// request can carry, or whose lifetime nothing states, is InvalidResponse.
func (a *Answer) Token(ttl TTL, last Token) (Token, error) {
	if a.Unusable != nil {
		return Token{}, a.Unusable
	}
	if a.AccessToken == "" {
		return Token{}, Errorf(InvalidResponse, "the vendor's answer holds no access token")
	}
	if size := len(a.AccessToken); size > maxToken {
		return Token{}, Errorf(InvalidResponse, "the vendor's access token has %d bytes, and may have %d", size, maxToken)
	}
	if !FitsHeader(a.AccessToken) {
		return Token{}, Errorf(InvalidResponse, "the vendor's access token holds white space or a character outside ASCII, which no request can carry")
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
		Stated:              a.ExpiresIn > 0,
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

	// Where a refresh gains nothing, the vendor gives the next only when this one is sure to
	// have expired. One that was known and expires about now it gives for a second yet.
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
	}
	if !t.RenewableFrom.After(t.IssueTime.Add(a.Clock.Age)) { // the vendor had passed it when it was asked
		t.RenewableFrom = time.Time{}
	}
	return t, nil
}

// expiry is the first half of guarantee 1 (internal/broker/rules.go has the second): a token expires at the earliest of what the
// answer states, the token's own exp and max_ttl. If neither of the first two speaks,
// the vendor's documented rule does, then default_ttl; default_ttl comes first where the
// answer states what is no lifetime, and so departs from the rule. isBoundary is whether
// it is a fixed time of day.
func (a *Answer) expiry(ttl TTL, t, last Token) (expires span, isBoundary bool, err error) {
	isCountedDown := a.AccessToken == last.AccessToken && last.Stated
	switch {
	case a.ExpiresIn > 0:
		expires = a.Clock.after(a.ExpiresIn)
	case a.ExpiresIn < 0 && isCountedDown: // to 0: it expires now
		expires = a.Clock.after(0)
	}
	isStated := expires != span{}

	// Where the vendor states another, an exp that its own clock has passed says nothing.
	exp, isJWT := jwtExpiry(a.AccessToken)
	isPassed := a.Clock.Believed() && !exp.After(a.Clock.Date)
	if isJWT && (!isStated || !isPassed) {
		if own := a.Clock.at(exp); !isStated || own.earliest.Before(expires.earliest) {
			expires = own
			isBoundary = a.OnTheHour && exp.Equal(exp.Truncate(time.Hour))
		}
		isStated = true
	}

	defaultTTL := cmp.Or(ttl.Default, a.DefaultTTL)
	switch {
	case isStated:
	case a.ExpiresIn == 0 && a.OnTheHour:
		expires = a.Clock.at(a.Clock.issue(last).Truncate(time.Hour).Add(time.Hour))
		isBoundary = true
	case a.ExpiresIn == 0 && a.Lifetime > 0:
		expires = a.Clock.after(a.Lifetime)
	case defaultTTL > 0:
		expires = a.Clock.after(defaultTTL)
	case a.ExpiresIn < 0:
		return span{}, false, Errorf(InvalidResponse, "the vendor's answer states a lifetime that is not a number above zero: set default_ttl")
	default:
		return span{}, false, Errorf(InvalidResponse, "nothing tells how long the vendor's token lives: set default_ttl")
	}

	longest := t.first().Add(min(cmp.Or(ttl.Max, maxLifetime), maxLifetime))
	if longest.Before(expires.earliest) {
		return span{longest, longest}, false, nil
	}
	return expires, isBoundary, nil
}

// Lifetime reads a lifetime that an answer states as a JSON number, or as decimal digits in a
// string, with a fraction or without, in the given unit. It is zero where the answer is silent (absent, null or "",
// or of another type than these two), at least a nanosecond where it states one, and
// below zero where it states what is no lifetime: 0, a negative number or some text.
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
	n, err := strconv.ParseFloat(text, 64) // infinite if it is out of range
	if err != nil && !errors.Is(err, strconv.ErrRange) || !(n > 0) {
		return noLifetime
	}
	return max(time.Duration(min(n*float64(unit), float64(maxLifetime))), 1)
}

// decimal is a number as vendors write it in a string. What else [strconv.ParseFloat] takes
// (signs, exponents, "Inf", "0x10", "1_000") nobody has meant for a lifetime.
var decimal = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)

// wall drops the monotonic reading, which stands still while a machine sleeps
// and does not survive storage.
func wall(t time.Time) time.Time { return t.Round(0).UTC() }

// jwtExpiry reads the exp claim of a token that is a JWT, on the vendor's clock.
// The signature is the vendor's affair: the token is only passed on.
func jwtExpiry(token string) (time.Time, bool) {
	claims := jwt.MapClaims{}
	// The error does not matter: of an algorithm unknown to the library the
	// claims are read all the same, and of what is no JWT there are none.
	_, _, _ = jwt.NewParser().ParseUnverified(token, claims)
	exp, ok := claims["exp"].(float64)
	if !ok || !(exp > 0) || exp > maxUnixSeconds {
		return time.Time{}, false
	}
	return time.Unix(int64(math.Floor(exp)), 0), true
}
