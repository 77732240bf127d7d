package provider

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func at(clock string) time.Time {
	t, err := time.Parse("15:04:05.000", clock)
	if err != nil {
		panic(err)
	}
	return time.Date(2026, 3, 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

func signed(t *testing.T, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte("k"))
	require.NoError(t, err)
	return token
}

func token(t *testing.T, a Answer, ttl TTL, last Token) Token {
	t.Helper()
	got, err := a.Token(ttl, last)
	require.NoError(t, err)
	return got
}

func TestGuarantee1TheEarliestOfStatedLifetimeExpAndMaxTTLApplies(t *testing.T) {
	clock := Clock{Sent: at("10:20:00.000"), Received: at("10:20:00.400"), Date: at("10:20:00.000")}
	jwtOf := func(exp string) string { return signed(t, jwt.MapClaims{"exp": at(exp).Unix()}) }
	for name, test := range map[string]struct {
		answer Answer
		ttl    TTL
		expire string
	}{
		"stated earlier":           {Answer{AccessToken: jwtOf("10:50:00.000"), ExpiresIn: 10 * time.Minute}, TTL{}, "10:30:00.000"},
		"exp earlier":              {Answer{AccessToken: jwtOf("10:35:00.000"), ExpiresIn: time.Hour}, TTL{}, "10:34:59.000"},
		"max_ttl earlier":          {Answer{AccessToken: jwtOf("10:50:00.000"), ExpiresIn: 10 * time.Minute}, TTL{Max: 5 * time.Minute}, "10:25:00.000"},
		"max_ttl later":            {Answer{AccessToken: "opaque", ExpiresIn: 10 * time.Minute}, TTL{Max: time.Hour}, "10:30:00.000"},
		"milliseconds for seconds": {Answer{AccessToken: "opaque", ExpiresIn: 3600000 * time.Second}, TTL{Max: time.Hour}, "11:20:00.000"},
		"rule capped":              {Answer{AccessToken: "opaque", OnTheHour: true}, TTL{Max: 5 * time.Minute}, "10:25:00.000"},
		"exp before the rule":      {Answer{AccessToken: jwtOf("10:50:00.000"), OnTheHour: true, Lifetime: time.Minute}, TTL{}, "10:49:59.000"},
		"rule before default_ttl":  {Answer{AccessToken: "opaque", Lifetime: time.Hour}, TTL{Default: time.Minute}, "11:20:00.000"},
		"default_ttl":              {Answer{AccessToken: "opaque"}, TTL{Default: time.Minute}, "10:21:00.000"},
		"default_ttl of a vendor":  {Answer{AccessToken: "opaque", DefaultTTL: time.Minute}, TTL{}, "10:21:00.000"},
		"no lifetime, default_ttl": {Answer{AccessToken: "opaque", ExpiresIn: noLifetime, Lifetime: time.Hour, OnTheHour: true}, TTL{Default: time.Minute}, "10:21:00.000"},
		"no lifetime, exp":         {Answer{AccessToken: jwtOf("10:35:00.000"), ExpiresIn: noLifetime}, TTL{Default: time.Minute}, "10:34:59.000"},
		"exp passed, stated":       {Answer{AccessToken: jwtOf("10:19:00.000"), ExpiresIn: 10 * time.Minute}, TTL{}, "10:30:00.000"},
		"time stated":              {Answer{AccessToken: "opaque", ExpiresAt: at("10:50:00.000")}, TTL{}, "10:49:59.000"},
		"time after exp":           {Answer{AccessToken: jwtOf("10:35:00.000"), ExpiresAt: at("10:50:00.000")}, TTL{}, "10:34:59.000"},
		"time before exp":          {Answer{AccessToken: jwtOf("10:50:00.000"), ExpiresAt: at("10:35:00.000")}, TTL{}, "10:34:59.000"},
		"time after max_ttl":       {Answer{AccessToken: "opaque", ExpiresAt: at("10:50:00.000")}, TTL{Max: 5 * time.Minute}, "10:25:00.000"},
		"time before the rule":     {Answer{AccessToken: "opaque", ExpiresAt: at("10:50:00.000"), OnTheHour: true, Lifetime: time.Hour}, TTL{}, "10:49:59.000"},
		"time passed":              {Answer{AccessToken: "opaque", ExpiresAt: at("10:19:00.000")}, TTL{Default: time.Minute}, "10:21:00.000"},
		"time passed, and rule":    {Answer{AccessToken: "opaque", ExpiresAt: at("10:20:00.000"), Lifetime: time.Hour}, TTL{Default: time.Minute}, "10:21:00.000"},
		"time passed, exp":         {Answer{AccessToken: jwtOf("10:35:00.000"), ExpiresAt: at("10:19:00.000")}, TTL{Default: time.Hour}, "10:34:59.000"},
		"time and lifetime":        {Answer{AccessToken: "opaque", ExpiresAt: at("10:50:00.000"), ExpiresIn: 10 * time.Minute}, TTL{}, "10:30:00.000"},
		"exp passed":               {Answer{AccessToken: jwtOf("10:19:00.000")}, TTL{Default: time.Hour}, "10:18:59.000"},
	} {
		test.answer.Clock = clock
		assert.Equal(t, at(test.expire), token(t, test.answer, test.ttl, Token{}).ExpireTime, name)
	}

	for name, answer := range map[string]Answer{
		"nothing":               {AccessToken: "opaque", Clock: clock},
		"no lifetime":           {AccessToken: "opaque", Clock: clock, ExpiresIn: noLifetime},
		"time passed":           {AccessToken: "opaque", Clock: clock, ExpiresAt: at("10:19:00.000"), Lifetime: time.Hour},
		"no lifetime, and rule": {AccessToken: "opaque", Clock: clock, ExpiresIn: noLifetime, Lifetime: time.Hour},
	} {
		_, err := answer.Token(TTL{Max: time.Hour}, Token{})
		require.ErrorContains(t, err, "set default_ttl", name)
	}
	_, err := (&Answer{Clock: clock}).Token(TTL{Default: time.Minute}, Token{})
	require.ErrorContains(t, err, "no access token")
}

// A vendor that returns the same token until it expires.
func TestGuarantee1ARepeatedTokenKeepsItsFirstIssueTime(t *testing.T) {
	clock := func(sent string) Clock {
		return Clock{Sent: at(sent), Received: at(sent).Add(100 * time.Millisecond), Date: at(sent).Truncate(time.Second)}
	}
	give := func(sent string, expiresIn time.Duration, ttl TTL, last Token) Token {
		return token(t, Answer{AccessToken: "same", ExpiresIn: expiresIn, Clock: clock(sent)}, ttl, last)
	}
	first := give("10:00:00.000", time.Hour, TTL{}, Token{})
	assert.Zero(t, first.RenewableFrom)
	again := give("10:45:00.000", 15*time.Minute, TTL{}, first)
	assert.Equal(t, at("11:00:01.100"), again.RenewableFrom, "an exchange before gains nothing")
	assert.Equal(t, at("10:00:00.000"), again.FirstTime)

	now := give("11:00:00.000", noLifetime, TTL{Default: time.Hour}, again)
	assert.Equal(t, at("11:00:00.000"), now.ExpireTime, "0 means that it expires now")
	assert.Equal(t, at("11:00:01.100"), now.RenewableFrom)
	other := token(t, Answer{AccessToken: "other", ExpiresIn: noLifetime, Clock: clock("11:00:00.000")}, TTL{Default: time.Hour}, again)
	assert.Equal(t, at("12:00:00.000"), other.ExpireTime, "for another token, 0 is not a lifetime")

	// A stated time that the vendor counts down to is not in doubt once it has passed.
	until := func(sent string, last Token) Token {
		return token(t, Answer{AccessToken: "same", ExpiresAt: at("11:00:00.000"), Clock: clock(sent)}, TTL{Default: time.Hour}, last)
	}
	timed := until("10:45:00.000", until("10:00:00.000", Token{}))
	assert.Equal(t, at("10:59:59.000"), timed.ExpireTime)
	assert.LessOrEqual(t, until("11:00:00.500", timed).ExpireTime, at("11:00:00.000"), "default_ttl does not prolong it")

	// max_ttl counts from the first time that the vendor returned the token.
	capped := give("10:00:00.000", 3600000*time.Second, TTL{Max: time.Hour}, Token{})
	capped = give("10:45:00.000", 900000*time.Second, TTL{Max: time.Hour}, capped)
	assert.Equal(t, at("11:00:00.000"), capped.ExpireTime)
	capped = give("11:30:00.000", 900000*time.Second, TTL{Max: time.Hour}, capped)
	assert.Equal(t, at("11:00:00.000"), capped.ExpireTime)
	assert.Zero(t, capped.RenewableFrom, "it has expired already")

	// A token that never expires, which the vendor states as 0, gets default_ttl each time.
	endless := give("10:00:00.000", noLifetime, TTL{Default: time.Hour}, Token{})
	endless = give("10:45:00.000", noLifetime, TTL{Default: time.Hour}, endless)
	assert.Equal(t, at("11:45:00.000"), endless.ExpireTime)

	// A JWT is certain to have expired a second after it may have.
	exp := signed(t, jwt.MapClaims{"exp": at("11:00:00.000").Unix()})
	last := token(t, Answer{AccessToken: exp, Clock: clock("10:00:00.000")}, TTL{}, Token{})
	last = token(t, Answer{AccessToken: exp, Clock: clock("10:59:59.500")}, TTL{}, last)
	assert.Equal(t, at("10:59:59.500"), last.ExpireTime)
	assert.Equal(t, at("11:00:00.600"), last.RenewableFrom)
}

func TestGuarantee1ADateThatIsFarOffIsIgnored(t *testing.T) {
	sent := at("10:20:00.000")
	exp := signed(t, jwt.MapClaims{"exp": sent.Add(20 * time.Second).Unix()})
	for name, date := range map[string]time.Time{
		"1970":          time.Unix(0, 0),
		"a day behind":  sent.Add(-24 * time.Hour),
		"11 min behind": sent.Add(-11 * time.Minute),
		"11 min ahead":  sent.Add(11 * time.Minute),
		"a day ahead":   sent.Add(24 * time.Hour),
		"ancient":       time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC),
		"the year 9999": time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		clock := Clock{Sent: sent, Received: sent.Add(400 * time.Millisecond), Date: date}
		assert.False(t, clock.Believed(), name)
		assert.Greater(t, clock.Skew().Abs(), 10*time.Minute, "%s is still reported", name)
		got := token(t, Answer{AccessToken: exp, Clock: clock}, TTL{}, Token{})
		assert.Equal(t, sent.Add(18*time.Second), got.ExpireTime, name)
		got = token(t, Answer{AccessToken: "opaque", OnTheHour: true, Clock: clock}, TTL{}, Token{})
		assert.Equal(t, at("10:59:58.000"), got.ExpireTime, name)
		assert.Equal(t, time.Minute-400*time.Millisecond, retryAfter(sent.Add(time.Minute).Format(http.TimeFormat), clock), name)
	}
	for _, off := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		clock := Clock{Sent: sent, Received: sent.Add(400 * time.Millisecond), Date: sent.Add(off)}
		assert.True(t, clock.Believed())
		got := token(t, Answer{AccessToken: exp, Clock: clock}, TTL{}, Token{})
		assert.LessOrEqual(t, got.ExpireTime, sent.Add(20*time.Second+10*time.Minute), "at most MaxSkew after exp")
	}
}

func TestGuarantee1AbsoluteTimesAreReadOnTheVendorsClock(t *testing.T) {
	for name, test := range map[string]struct {
		clock    Clock
		exp      string
		expire   string // never later than the actual expiry, whatever the clocks show
		boundary string // never earlier than the actual expiry
	}{
		"no Date":              {Clock{Sent: at("10:20:00.000"), Received: at("10:20:00.400")}, "", "10:59:58.000", "11:00:02.000"},
		"no Date, on the hour": {Clock{Sent: at("11:00:01.000"), Received: at("11:00:01.400")}, "", "10:59:58.000", "11:00:02.000"},
		"clocks agree": {Clock{Sent: at("10:20:00.000"), Received: at("10:20:00.400"), Date: at("10:20:00.000")},
			"", "10:59:59.000", "11:00:00.400"},
		"vendor ten minutes ahead": {Clock{Sent: at("10:20:00.000"), Received: at("10:20:00.400"), Date: at("10:30:00.000")},
			"", "10:49:59.000", "10:50:00.400"},
		"vendor in its next hour": {Clock{Sent: at("10:55:00.000"), Received: at("10:55:00.400"), Date: at("11:05:00.000")},
			"", "11:49:59.000", "11:50:00.400"},
		"vendor behind": {Clock{Sent: at("11:05:00.000"), Received: at("11:05:00.400"), Date: at("10:55:00.000")},
			"", "11:09:59.000", "11:10:00.400"},
		"over the hour": {Clock{Sent: at("10:59:59.700"), Received: at("11:00:00.500"), Date: at("11:00:00.000")},
			"", "10:59:58.700", "11:00:00.500"},
		"exp, vendor ahead": {Clock{Sent: at("10:20:00.000"), Received: at("10:20:00.400"), Date: at("10:30:00.000")},
			"10:45:00.000", "10:34:59.000", ""},
		"exp on the hour": {Clock{Sent: at("10:20:00.000"), Received: at("10:20:00.400"), Date: at("10:20:00.000")},
			"11:00:00.000", "10:59:59.000", "11:00:00.400"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := Answer{AccessToken: "opaque", OnTheHour: true, Clock: test.clock}
			if test.exp != "" {
				answer.AccessToken = signed(t, jwt.MapClaims{"exp": at(test.exp).Unix()})
			}
			token, err := answer.Token(TTL{}, Token{})
			require.NoError(t, err)
			assert.Equal(t, at(test.expire), token.ExpireTime)
			if test.boundary == "" {
				assert.Zero(t, token.RenewableFrom)
			} else {
				assert.Equal(t, at(test.boundary), token.RenewableFrom)
			}
		})
	}
}

func TestThePreviousExchangeNarrowsDownTheHour(t *testing.T) {
	// The vendor is slow: by the Date, the token may be of the previous hour.
	clock := Clock{Sent: at("11:00:00.200"), Received: at("11:00:05.200"), Date: at("11:00:03.000")}
	answer := Answer{AccessToken: "opaque", OnTheHour: true, Clock: clock}
	token, err := answer.Token(TTL{}, Token{})
	require.NoError(t, err)
	assert.Equal(t, at("11:00:02.200"), token.RenewableFrom)

	last := Token{IssueTime: at("10:00:01.000"), ClockAhead: -100 * time.Millisecond}
	token, err = answer.Token(TTL{}, last)
	require.NoError(t, err)
	assert.Greater(t, token.ExpireTime, at("11:59:50.000"))

	last.ClockAhead = time.Hour // our clock has been changed since
	token, err = answer.Token(TTL{}, last)
	require.NoError(t, err)
	assert.Equal(t, at("11:00:02.200"), token.RenewableFrom)
}

func TestSkewIsTheSmallestDifferenceThatExplainsTheDate(t *testing.T) {
	sent, received := at("10:20:00.000"), at("10:20:02.000")
	for date, want := range map[string]time.Duration{
		"10:20:00.000": 0,
		"10:20:02.000": 0,
		"10:19:59.000": 0, // the header is rounded down to the second
		"10:19:50.000": -9 * time.Second,
		"10:20:30.000": 28 * time.Second,
	} {
		assert.Equal(t, want, Clock{Sent: sent, Received: received, Date: at(date)}.Skew(), date)
	}
	assert.Zero(t, Clock{Sent: sent, Received: received}.Skew())
}

func TestAnOpaqueTokenHasNoExp(t *testing.T) {
	for _, token := range []string{"", "opaque", "a.b.c", "e30.e30.", "a.b.c.d.e",
		signed(t, jwt.MapClaims{"sub": "x"}),
		signed(t, jwt.MapClaims{"exp": "soon"}),
		signed(t, jwt.MapClaims{"exp": -5}),
		signed(t, jwt.MapClaims{"exp": 1e300}),
	} {
		_, ok := jwtExpiry(token)
		assert.False(t, ok, token)
	}
	// The algorithm need not be known to the library.
	exp, ok := jwtExpiry("eyJhbGciOiJYWFgifQ.eyJleHAiOjE3NzAwMDAwMDAuOX0.c2ln")
	assert.True(t, ok)
	assert.Equal(t, int64(1770000000), exp.Unix())
}

func TestALifetimeIsAPositiveNumber(t *testing.T) {
	for raw, want := range map[string]time.Duration{
		``: 0, `null`: 0, `""`: 0, `" "`: 0, `false`: 0, `true`: 0, `{}`: 0, `[1]`: 0, // no lifetime stated
		`3600`: time.Hour, `"3600"`: time.Hour, `1.5`: 1500 * time.Millisecond,
		`1e300`: maxLifetime, `1e999`: maxLifetime, `1e-300`: 1, // stated, however short
		`0`: noLifetime, `-1`: noLifetime, `-1e999`: noLifetime, `"0"`: noLifetime, `"soon"`: noLifetime, `"NaN"`: noLifetime,
		`"3600.5"`: time.Hour + 500*time.Millisecond, `1e3`: 1000 * time.Second, `"007"`: 7 * time.Second,
		// strconv accepts these, but no vendor means them as a lifetime.
		`"Inf"`: noLifetime, `"+Inf"`: noLifetime, `"infinity"`: noLifetime, `"1_000"`: noLifetime, `"+5000"`: noLifetime, `"0x10"`: noLifetime,
		`"0x1p4"`: noLifetime, `" 60 "`: noLifetime, `"60\n"`: noLifetime, `"1e3"`: noLifetime, `"-60"`: noLifetime, `".5"`: noLifetime, `"5."`: noLifetime,
		`"٦٠"`: noLifetime, `"1,000"`: noLifetime,
	} {
		assert.Equal(t, want, Lifetime(json.RawMessage(raw), time.Second), raw)
	}
}

func TestGuarantee1EveryTokenExpires(t *testing.T) {
	for name, date := range map[string]time.Time{
		"a clock that agrees":    at("10:20:00.000"),
		"a clock that is behind": at("10:20:00.000").AddDate(-100, 0, 0),
		"a clock in the year 1":  time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC),
		"no clock":               {},
	} {
		clock := Clock{Sent: at("10:20:00.000"), Received: at("10:20:00.400"), Date: date}
		for _, exp := range []int64{maxUnixSeconds, maxUnixSeconds + 1 - 3600} {
			token, err := (&Answer{AccessToken: signed(t, jwt.MapClaims{"exp": exp}), OnTheHour: true, Clock: clock}).Token(TTL{}, Token{})
			require.NoError(t, err, name)
			assert.LessOrEqual(t, token.ExpireTime, token.IssueTime.Add(maxLifetime), name)
			assert.LessOrEqual(t, token.RenewableFrom, token.IssueTime.Add(maxLifetime), name)
			_, err = json.Marshal(token)
			assert.NoError(t, err, name)
		}
	}
}

func TestATokenThatAHeaderCannotCarryIsAnInvalidResponse(t *testing.T) {
	for _, token := range []string{" ", "a b", "a\n", "t\u00f6ken", "\x00"} {
		_, err := (&Answer{AccessToken: token, ExpiresIn: time.Hour}).Token(TTL{}, Token{})
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, InvalidResponse, e.Kind)
	}
}
