package provider

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// maxLifetime bounds what a vendor may claim, so that no arithmetic overflows.
const maxLifetime = 10 * 365 * 24 * time.Hour

// An Answer is what the vendor said in one exchange, before anyone decides how
// long the token lives.
type Answer struct {
	AccessToken string
	TokenType   string // "Bearer" if empty
	Scope       []string

	// ExpiresIn is the lifetime that the answer states; zero if it is silent.
	ExpiresIn time.Duration

	// Lifetime and OnTheHour are the provider's rules for a token of which
	// neither the answer nor the token itself tells when it dies: a fixed
	// lifetime, or death at the next full hour, UTC.
	Lifetime  time.Duration
	OnTheHour bool

	// Unusable is why there is no token in the answer, though there may be a grant.
	Unusable *Error

	// Single says that the next exchange ends the token, which is to live its life.
	Single bool

	// Final says that no exchange will yield a later token than this one.
	Final bool

	// Grant is what to use in the next exchange; nil leaves it as it is.
	Grant *Grant

	// Clock is what the exchange told of the vendor's clock.
	Clock Clock
}

// Token decides when the token dies: as the answer says, or else as the token's
// own exp says where it is a JWT, or else by the provider's rule, or else after
// defaultTTL; and after maxLifetime, whoever says more. The last token (the zero Token if
// there was none) helps to tell which hour it is by the vendor's clock. An answer with no
// token, or one that no request can carry, or of which nothing tells the lifetime, is
// Nonsense.
func (a *Answer) Token(defaultTTL time.Duration, last Token) (Token, error) {
	if a.Unusable != nil {
		return Token{}, a.Unusable
	}
	if a.AccessToken == "" {
		return Token{}, Errorf(Nonsense, "the vendor's answer holds no access token")
	}
	if !FitsHeader(a.AccessToken) {
		return Token{}, Errorf(Nonsense, "the vendor's access token holds white space or a character outside ASCII, which no request can carry")
	}
	if err := a.checkShown(); err != nil {
		return Token{}, err
	}
	ahead, _ := a.Clock.bounds()
	t := Token{
		AccessToken: a.AccessToken,
		TokenType:   a.TokenType,
		Scope:       a.Scope,
		IssueTime:   wall(a.Clock.Sent),
		Single:      a.Single,
		ClockAhead:  ahead,
	}
	if t.TokenType == "" {
		t.TokenType = "Bearer"
	}

	exp, isJWT := jwtExpiry(a.AccessToken)
	switch {
	case a.ExpiresIn > 0:
		t.ExpireTime = t.IssueTime.Add(a.ExpiresIn)
	case isJWT:
		t.ExpireTime = wall(a.Clock.earliest(exp))
		if a.OnTheHour && exp.Equal(exp.Truncate(time.Hour)) {
			t.Boundary = wall(a.Clock.latest(exp))
		}
	case a.OnTheHour:
		hour := a.Clock.issue(last).Truncate(time.Hour).Add(time.Hour)
		t.ExpireTime = wall(a.Clock.earliest(hour))
		t.Boundary = wall(a.Clock.latest(hour))
	case a.Lifetime > 0:
		t.ExpireTime = t.IssueTime.Add(a.Lifetime)
	case defaultTTL > 0:
		t.ExpireTime = t.IssueTime.Add(defaultTTL)
	default:
		return Token{}, Errorf(Nonsense, "nothing tells how long the vendor's token lives: set default_ttl")
	}
	// An exp may be anything, and so may the Date that it is read by.
	most := t.IssueTime.Add(maxLifetime)
	t.ExpireTime, t.Boundary = earlier(t.ExpireTime, most), earlier(t.Boundary, most)
	if a.Single && t.Boundary.IsZero() {
		t.Boundary = t.ExpireTime
	}
	if a.Final {
		t.Final, t.Boundary = true, time.Time{}
	}
	return t, nil
}

// A Clock is what one exchange told of the vendor's clock: an HTTP Date header,
// whole seconds, somewhere between the sending of the request and the receipt of
// the answer. Where there was no header, the vendor's clock is taken to be ours,
// give or take undated.
type Clock struct {
	Sent     time.Time
	Received time.Time
	Date     time.Time
}

const undated = 2 * time.Second

// bounds are how far the vendor's clock is ahead of ours, at the least and at the
// most: the header cuts up to a second off, and may have been written the moment
// the request left us, or the moment the answer came.
func (c Clock) bounds() (least, most time.Duration) {
	if c.Date.IsZero() {
		return -undated, undated
	}
	return c.Date.Sub(c.Received), c.Date.Add(time.Second).Sub(c.Sent)
}

// earliest is the first instant of our clock at which the vendor's may show t.
func (c Clock) earliest(t time.Time) time.Time {
	_, most := c.bounds()
	return t.Add(-most)
}

// latest is the first instant of our clock at which the vendor's surely shows t.
func (c Clock) latest(t time.Time) time.Time {
	least, _ := c.bounds()
	return t.Add(-least)
}

// issue is the earliest time of the vendor's clock at which it can have made the
// token. An exchange that straddles a full hour may yield a token of the hour
// that has just ended. What the last exchange told of the clock narrows it down,
// unless this one contradicts it.
func (c Clock) issue(last Token) time.Time {
	least, most := c.bounds()
	if !last.IssueTime.IsZero() && last.ClockAhead < most {
		least = max(least, last.ClockAhead)
	}
	return c.Sent.Add(least)
}

// Skew is how far the vendor's clock is ahead of ours, at the least; zero while
// the exchange is consistent with equal clocks.
func (c Clock) Skew() time.Duration {
	switch least, most := c.bounds(); {
	case least > 0:
		return least
	case most < 0:
		return most
	}
	return 0
}

// Lifetime reads a lifetime that an answer states as a JSON number or as a number
// in a string, in the given unit. It is zero where the answer is silent (absent,
// null or ""), and else a nanosecond at the least; one that is not above zero is
// Nonsense: such a token is dead.
func Lifetime(raw json.RawMessage, unit time.Duration) (time.Duration, error) {
	text := strings.Trim(string(raw), `"`)
	if text == "" || text == "null" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(text, 64) // infinite if it is out of range
	if err != nil && !errors.Is(err, strconv.ErrRange) || !(n > 0) {
		return 0, Errorf(Nonsense, "the vendor's answer states a lifetime that is no number above zero")
	}
	return max(time.Duration(min(n*float64(unit), float64(maxLifetime))), 1), nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

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

// maxUnixSeconds is the end of the year 9999, the last that RFC 3339 can write.
const maxUnixSeconds = 253402300799
