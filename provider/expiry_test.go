package provider

import (
	"encoding/json"
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

// Promise 1: the answer, the token's own exp, the provider's rule, default_ttl.
func TestPromise1TheFirstSourceThatSpeaksDecides(t *testing.T) {
	clock := Clock{Sent: at("10:20:00.000"), Received: at("10:20:01.000")}
	token := signed(t, jwt.MapClaims{"exp": at("10:50:00.000").Unix()})
	all := Answer{AccessToken: token, ExpiresIn: 10 * time.Minute, OnTheHour: true, Lifetime: 2 * time.Hour, Clock: clock}

	expiry := func(a Answer, defaultTTL time.Duration) time.Time {
		t.Helper()
		got, err := a.Token(defaultTTL, Token{})
		require.NoError(t, err)
		return got.ExpireTime
	}
	assert.Equal(t, at("10:30:00.000"), expiry(all, time.Minute), "counted from the sending of the request")
	all.ExpiresIn = 0
	assert.Equal(t, at("10:49:58.000"), expiry(all, time.Minute), "give or take two seconds where there is no Date")
	all.AccessToken = "opaque"
	assert.Equal(t, at("10:59:58.000"), expiry(all, time.Minute))
	all.OnTheHour = false
	assert.Equal(t, at("12:20:00.000"), expiry(all, time.Minute))
	all.Lifetime = 0
	assert.Equal(t, at("10:21:00.000"), expiry(all, time.Minute))
	_, err := all.Token(0, Token{})
	require.ErrorContains(t, err, "set default_ttl")
	all.AccessToken = ""
	_, err = all.Token(time.Minute, Token{})
	assert.ErrorContains(t, err, "no access token")
}

func TestPromise1AbsoluteTimesAreReadOnTheVendorsClock(t *testing.T) {
	for name, test := range map[string]struct {
		clock    Clock
		exp      string
		expire   string // never later than the true death, whatever the clocks
		boundary string // never earlier
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
			token, err := answer.Token(0, Token{})
			require.NoError(t, err)
			assert.Equal(t, at(test.expire), token.ExpireTime)
			if test.boundary == "" {
				assert.Zero(t, token.Boundary)
			} else {
				assert.Equal(t, at(test.boundary), token.Boundary)
			}
		})
	}
}

func TestTheLastExchangeTellsOnWhichSideOfTheHourThisOneIs(t *testing.T) {
	// The vendor is slow: by its Date alone, the token may be of the last hour.
	clock := Clock{Sent: at("11:00:00.200"), Received: at("11:00:05.200"), Date: at("11:00:03.000")}
	answer := Answer{AccessToken: "opaque", OnTheHour: true, Clock: clock}
	token, err := answer.Token(0, Token{})
	require.NoError(t, err)
	assert.Equal(t, at("11:00:02.200"), token.Boundary)

	last := Token{IssueTime: at("10:00:01.000"), ClockAhead: -100 * time.Millisecond}
	token, err = answer.Token(0, last)
	require.NoError(t, err)
	assert.Greater(t, token.ExpireTime, at("11:59:50.000"))

	last.ClockAhead = time.Hour // our clock has been set since
	token, err = answer.Token(0, last)
	require.NoError(t, err)
	assert.Equal(t, at("11:00:02.200"), token.Boundary)
}

func TestSkewIsWhatTheExchangeProves(t *testing.T) {
	sent, received := at("10:20:00.000"), at("10:20:02.000")
	for date, want := range map[string]time.Duration{
		"10:20:00.000": 0,
		"10:20:02.000": 0,
		"10:19:59.000": 0, // the header cuts up to a second off
		"10:19:50.000": -9 * time.Second,
		"10:20:30.000": 28 * time.Second,
	} {
		assert.Equal(t, want, Clock{Sent: sent, Received: received, Date: at(date)}.Skew(), date)
	}
	assert.Zero(t, Clock{Sent: sent, Received: received}.Skew())
}

func TestATokenThatIsNoJWTHasNoExp(t *testing.T) {
	for _, token := range []string{"", "opaque", "a.b.c", "e30.e30.", "a.b.c.d.e",
		signed(t, jwt.MapClaims{"sub": "x"}),
		signed(t, jwt.MapClaims{"exp": "soon"}),
		signed(t, jwt.MapClaims{"exp": -5}),
		signed(t, jwt.MapClaims{"exp": 1e300}),
	} {
		_, ok := jwtExpiry(token)
		assert.False(t, ok, token)
	}
	// An algorithm that the library does not know is the vendor's affair.
	exp, ok := jwtExpiry("eyJhbGciOiJYWFgifQ.eyJleHAiOjE3NzAwMDAwMDAuOX0.c2ln")
	assert.True(t, ok)
	assert.Equal(t, int64(1770000000), exp.Unix())
}

func TestALifetimeIsANumberAboveZero(t *testing.T) {
	for raw, want := range map[string]time.Duration{
		``: 0, `null`: 0, `""`: 0,
		`3600`: time.Hour, `"3600"`: time.Hour, `1.5`: 1500 * time.Millisecond,
		`1e300`: maxLifetime, `1e999`: maxLifetime, `1e-300`: 1, // which is not silence
	} {
		got, err := Lifetime(json.RawMessage(raw), time.Second)
		require.NoError(t, err, raw)
		assert.Equal(t, want, got, raw)
	}
	for _, raw := range []string{`0`, `-1`, `-1e999`, `"soon"`, `{}`, `[1]`, `true`, `"NaN"`} {
		_, err := Lifetime(json.RawMessage(raw), time.Second)
		assert.ErrorContains(t, err, "no number above zero", raw)
	}
}

func TestPromise1NoTokenLivesForEver(t *testing.T) {
	for name, date := range map[string]time.Time{
		"a clock that agrees":      at("10:20:00.000"),
		"a clock that is behind":   at("10:20:00.000").AddDate(-100, 0, 0),
		"a clock of ancient times": time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC),
		"no clock":                 {},
	} {
		clock := Clock{Sent: at("10:20:00.000"), Received: at("10:20:00.400"), Date: date}
		for _, exp := range []int64{maxUnixSeconds, maxUnixSeconds + 1 - 3600} {
			token, err := (&Answer{AccessToken: signed(t, jwt.MapClaims{"exp": exp}), OnTheHour: true, Clock: clock}).Token(0, Token{})
			require.NoError(t, err, name)
			assert.LessOrEqual(t, token.ExpireTime, token.IssueTime.Add(maxLifetime), name)
			assert.LessOrEqual(t, token.Boundary, token.IssueTime.Add(maxLifetime), name)
			_, err = json.Marshal(token)
			assert.NoError(t, err, name)
		}
	}
}

func TestATokenThatNoRequestCanCarryIsNonsense(t *testing.T) {
	for _, token := range []string{" ", "a b", "a\n", "t\u00f6ken", "\x00"} {
		_, err := (&Answer{AccessToken: token, ExpiresIn: time.Hour}).Token(0, Token{})
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, Nonsense, e.Kind)
	}
}
