package broker

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A vendorClock is how far a vendor's clock is ahead of ours, and its Date; none if "".
type vendorClock struct {
	ahead time.Duration
	date  func(vendor time.Time) time.Time
}

func toSecond(t time.Time) time.Time { return t.Truncate(time.Second) }

// vendorClocks are the clocks of the table. Where the Date is not believed, the vendor's
// clock is as ours.
var vendorClocks = map[string]vendorClock{
	"right":      {0, toSecond},
	"behind":     {-5 * time.Minute, toSecond},
	"ahead":      {5 * time.Minute, toSecond},
	"1970":       {0, func(time.Time) time.Time { return time.Unix(0, 0) }},
	"a day on":   {0, func(t time.Time) time.Time { return toSecond(t).AddDate(0, 0, 1) }},
	"none":       {0, func(time.Time) time.Time { return time.Time{} }},
	"none, 2 s+": {2 * time.Second, func(time.Time) time.Time { return time.Time{} }},
	"none, 2 s-": {-2 * time.Second, func(time.Time) time.Time { return time.Time{} }},
}

const (
	oneWay         = 100 * time.Millisecond // from us to the vendor, and back
	statedLifetime = time.Hour
	ownLifetime    = 41 * time.Minute // until a token's own exp
	maxTTL         = 30 * time.Minute
	fixed          = 2 * time.Hour
	defaultTTL     = 20 * time.Minute // default_ttl
)

// A row is what there is to tell of a token's expiry.
type row struct {
	clock            string
	sent             time.Time
	states, isCapped bool
	exp, rule        string // "", "own" or "hour", "", "hour" or "fixed"
	isDefault        bool
}

func (r row) String() string {
	return fmt.Sprintf("clock %s, sent %s: states=%t exp=%q max_ttl=%t rule=%q default_ttl=%t", r.clock, r.sent.Format("15:04:05.0"), r.states, r.exp, r.isCapped, r.rule, r.isDefault)
}

// expectedExpiry is when the token of a row expires, by our clock, and whether that is on the
// vendor's hour: guarantee 1 in the words of design, by one that knows the vendor's clock.
func (r row) expectedExpiry() (expires time.Time, onTheHour, known bool) {
	made := r.sent.Add(oneWay)
	ahead := vendorClocks[r.clock].ahead
	hour := made.Add(ahead).Truncate(time.Hour).Add(time.Hour).Add(-ahead)
	consider := func(at time.Time, isHour bool) {
		if !known || at.Before(expires) {
			expires, onTheHour, known = at, isHour, true
		}
	}
	if r.states {
		consider(made.Add(statedLifetime), false)
	}
	switch r.exp {
	case "own":
		consider(r.ownExp().Add(-ahead), false)
	case "hour":
		consider(hour, r.rule == "hour")
	}
	switch {
	case known:
	case r.rule == "hour":
		consider(hour, true)
	case r.rule == "fixed":
		consider(made.Add(fixed), false)
	case r.isDefault:
		consider(made.Add(defaultTTL), false)
	}
	if known && r.isCapped {
		consider(made.Add(maxTTL), false)
	}
	return expires, onTheHour, known
}

// ownExp is the exp of a row's JWT, by the vendor's clock.
func (r row) ownExp() time.Time {
	vendor := r.sent.Add(oneWay + vendorClocks[r.clock].ahead)
	if r.exp == "hour" {
		return vendor.Truncate(time.Hour).Add(time.Hour)
	}
	return vendor.Add(ownLifetime).Truncate(time.Second)
}

func (r row) answer(t *testing.T) (*provider.Answer, provider.TTL) {
	t.Helper()
	clock := vendorClocks[r.clock]
	a := &provider.Answer{AccessToken: "opaque", Clock: provider.Clock{
		Sent: r.sent, Received: r.sent.Add(2 * oneWay), Date: clock.date(r.sent.Add(oneWay + clock.ahead)),
	}}
	if r.states {
		a.ExpiresIn = statedLifetime
	}
	if r.exp != "" {
		var err error
		a.AccessToken, err = jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"exp": r.ownExp().Unix()}).SignedString([]byte("k"))
		require.NoError(t, err)
	}
	a.OnTheHour = r.rule == "hour"
	if r.rule == "fixed" {
		a.Lifetime = fixed
	}
	var ttl provider.TTL
	if r.isCapped {
		ttl.Max = maxTTL
	}
	if r.isDefault {
		ttl.Default = defaultTTL
	}
	return a, ttl
}

func rows() []row {
	var all []row
	ten := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	for clock := range vendorClocks {
		for _, sent := range []time.Duration{20 * time.Minute, 55*time.Minute + 30*time.Second, 59*time.Minute + 55*time.Second, time.Hour - 50*time.Millisecond, time.Hour + 200*time.Millisecond} {
			for i := range 8 {
				for _, exp := range []string{"", "own", "hour"} {
					for _, rule := range []string{"", "hour", "fixed"} {
						all = append(all, row{clock: clock, sent: ten.Add(sent), states: i&1 > 0, isCapped: i&2 > 0, isDefault: i&4 > 0, exp: exp, rule: rule})
					}
				}
			}
		}
	}
	return all
}

// TestGuarantee1IsThisTable goes over every source of an expiry × the vendor's clock × the
// boundary × the margin.
func TestGuarantee1IsThisTable(t *testing.T) {
	for _, r := range rows() {
		answer, ttl := r.answer(t)
		token, err := answer.Token(ttl, provider.Token{})
		expires, onTheHour, known := r.expectedExpiry()
		if !known {
			require.ErrorContains(t, err, "set default_ttl", r)
			continue
		}
		require.NoError(t, err, r)

		// The source, by the vendor's clock: never late, and at most 4 s early, unless the
		// exchange was so near the hour that the token may be of the one that ends.
		require.False(t, token.ExpireTime.After(expires), "%s: it expires at %s, and was to at %s", r, token.ExpireTime, expires)
		isNear := r.rule == "hour" && r.sent.Add(5*time.Second).Truncate(time.Hour) != r.sent.Add(-5*time.Second).Truncate(time.Hour)
		if early := expires.Sub(token.ExpireTime); early > 4*time.Second {
			require.True(t, isNear, "%s: it expires at %s, and was to at %s", r, token.ExpireTime, expires)
			require.LessOrEqual(t, token.RenewableFrom.Sub(r.sent), 5*time.Second, "%s: the next is seconds away", r)
			continue
		}

		// The boundary: at the vendor's hour only, and never before it.
		require.Equal(t, onTheHour, !token.RenewableFrom.IsZero(), "%s: boundary", r)
		if onTheHour {
			require.WithinRange(t, token.RenewableFrom, expires, expires.Add(5*time.Second), "%s: boundary", r)
			require.False(t, isExpiring(token, token.RenewableFrom.Add(-10*time.Second-time.Millisecond)) && leaseTTL(token, token.RenewableFrom.Add(-10*time.Second-time.Millisecond)) > 0, r)
			require.True(t, isExpiring(token, token.RenewableFrom.Add(-10*time.Second)), "%s: a read waits for the next", r)
		}

		// The margin.
		for _, left := range []time.Duration{2 * time.Hour, time.Hour, 20 * time.Minute, 10 * time.Minute, time.Minute, 10 * time.Second, 2 * time.Second, time.Second, 0, -time.Hour} {
			now := token.ExpireTime.Add(-left)
			margin := min(30*time.Second, left/20)
			ttl := leaseTTL(token, now)
			require.False(t, ttl > 0 && now.Add(ttl).After(token.ExpireTime.Add(-margin)), "%s: leased for %s of %s", r, ttl, left)
			require.Equal(t, left-margin >= time.Second, ttl > 0, "%s: leased for %s of %s", r, ttl, left)
		}
	}
}

// setBack is a time as the clocks show it after the wall clock has been set back.
func setBack(t *testing.T, now time.Time, by time.Duration) time.Time {
	t.Helper()
	before := now
	now = now.Add(-by)
	shiftMonotonic(&now, by)
	require.Equal(t, -by, now.Round(0).Sub(before.Round(0)), "by the wall clock")
	require.Zero(t, now.Sub(before), "by the monotonic clock")
	return now
}

func TestGuarantee1HoldsWhateverOurOwnClockIsSetTo(t *testing.T) {
	seen := time.Now()
	token := provider.Token{AccessToken: "a", IssueTime: seen.Round(0), ExpireTime: seen.Round(0).Add(time.Hour), Seen: seen}
	for name, test := range map[string]struct {
		passed time.Duration // by the monotonic clock
		back   time.Duration
		left   time.Duration
	}{
		"right":           {20 * time.Minute, 0, 40 * time.Minute},
		"back":            {20 * time.Minute, time.Hour, 40 * time.Minute},
		"back, expired":   {70 * time.Minute, time.Hour, -10 * time.Minute},
		"back for years":  {70 * time.Minute, 30 * 365 * 24 * time.Hour, -10 * time.Minute},
		"on":              {20 * time.Minute, -30 * time.Minute, 10 * time.Minute},
		"on, expired":     {20 * time.Minute, -time.Hour, -20 * time.Minute},
		"suspended":       {0, -2 * time.Hour, -time.Hour},
		"back, last 10 s": {time.Hour - 10*time.Second, time.Hour, 10 * time.Second},
	} {
		now := setBack(t, seen.Add(test.passed), test.back)
		assert.Equal(t, test.left, token.ExpireTime.Sub(token.Now(now)), name)
		assert.Equal(t, max(0, (test.left-margin(test.left)).Truncate(time.Second)), leaseTTL(token, now), name)
		assert.Equal(t, test.left <= 15*time.Minute, isRenewalDue(token, now), name)
		assert.Equal(t, test.left > -time.Hour, wasRecentlyValid(token, now), name)
		v := snapshot{credential: &Credential{}, state: &State{Tokens: map[string]provider.Token{"": token}}}.of(ownScope)
		act, _ := v.decide(demand{}, now)
		assert.Equal(t, test.left <= 15*time.Minute, act != serve, name)
		issued := v.fresh(now, 0)
		assert.Equal(t, test.left > 0, issued != nil, name)
		if issued != nil {
			assert.LessOrEqual(t, issued.Reread, test.left, name)
		}
		renewable := token
		renewable.RenewableFrom = token.ExpireTime
		assert.Equal(t, test.left <= 10*time.Second, isExpiring(renewable, now), name)
	}
}

func TestAStepOfOurOwnClockHoldsUpNothing(t *testing.T) {
	now := time.Now()
	later := setBack(t, now.Add(time.Minute), time.Hour)
	c := &Credential{WriteTime: now.Round(0), Keepalive: 24 * time.Hour, Vendor: disuseVendor{}}
	s := &State{Health: Health{Exchanges: 2, ExchangeTime: now.Round(0), Failure: Failure{
		Kind: provider.Unavailable, Count: 10, Time: now.Round(0), NextAttempt: now.Round(0).Add(5 * time.Minute),
	}}}
	v := snapshot{credential: c, state: s}.of(ownScope)
	assert.True(t, v.backingOff(now.Add(time.Minute)))
	assert.False(t, v.backingOff(later), "the back-off does not go on for another hour")
	keepalive := func(now time.Time) action {
		act, _ := v.decide(demand{isBackground: true}, now)
		return act
	}
	assert.Equal(t, serve, keepalive(now.Add(6*time.Minute)))
	assert.Equal(t, renewNow, keepalive(later), "the last exchange is in the future")

	assert.Equal(t, -time.Hour, clockStep(now, later))
	assert.Zero(t, clockStep(now, now.Add(time.Minute)))
}

// Nothing holds up attempts for longer than the engine ever puts one off, and nothing of the
// future hides what has failed since.
func TestAFailureOfTheFutureIsNoReasonToWait(t *testing.T) {
	now := time.Now().Round(0)
	for name, test := range map[string]struct {
		dated, next time.Duration // from now
		waits       time.Duration
	}{
		"of now":                                 {0, time.Minute, time.Minute},
		"of now, for as long as any":             {0, longestBackOff, longestBackOff},
		"for longer than any":                    {0, longestBackOff + time.Second, 0},
		"of the past, for a year":                {-time.Minute, 365 * 24 * time.Hour, 0},
		"of the future":                          {time.Second, 2 * time.Second, 0},
		"of a year ahead":                        {365 * 24 * time.Hour, 365*24*time.Hour + time.Minute, 0},
		"of the past, and it may be tried again": {-time.Hour, -time.Minute, 0},
	} {
		failure := Failure{Kind: provider.Rejected, Count: 3, Time: now.Add(test.dated), NextAttempt: now.Add(test.next)}
		recent := Failure{Kind: provider.Unavailable, Count: 1, Time: now, NextAttempt: now.Add(time.Second)}
		for where, snap := range map[string]snapshot{
			"the credential's": {state: &State{Health: Health{Failure: failure}}},
			"a scope's":        {state: &State{ScopeFailures: map[string]Failure{"narrow": failure}}},
			"stated and exp":   {state: &State{Health: Health{Failure: recent}, ScopeFailures: map[string]Failure{"narrow": failure}}},
		} {
			snap.credential = &Credential{}
			waits := test.waits
			if where == "stated and exp" {
				waits = max(waits, time.Second)
			}
			v := snap.of("narrow")
			assert.Equal(t, waits > 0, v.backingOff(now), "%s, %s", name, where)
			if waits > 0 {
				assert.Equal(t, now.Add(waits), v.nextAttempt(now), "%s, %s", name, where)
			}
		}
		v := snapshot{credential: &Credential{}, state: &State{}, roleFailures: map[string]Failure{"mine": failure}}.of("narrow")
		assert.Equal(t, test.waits > 0, v.roleBackOffError("mine", now) != nil, "%s, a dedicated role's", name)
	}
	dies := now.Add(7 * 24 * time.Hour)
	assert.Equal(t, dies, Health{ExchangeTime: now, CredentialExpireTime: dies}.unusedExpireTime(now))
	assert.Zero(t, Health{ExchangeTime: now.Add(time.Second), CredentialExpireTime: dies}.unusedExpireTime(now))
}

func TestAStoredTokenOfTheFutureIsNotServed(t *testing.T) {
	now := time.Now()
	token := func(issued time.Time) provider.Token {
		return provider.Token{IssueTime: issued.Round(0), ExpireTime: issued.Round(0).Add(time.Hour)}
	}
	stored := &State{Tokens: map[string]provider.Token{"": token(now.Add(time.Second)), "past": token(now.Add(-time.Minute)), "now": token(now)}}
	got := stored.asOf(now)
	assert.Len(t, got.Tokens, 2)
	assert.NotContains(t, got.Tokens, "")
	assert.Equal(t, now, got.Tokens["past"].Seen, "what the clock is set to from here on does not matter")
	assert.Len(t, stored.Tokens, 3, "states are never changed")
}

// loggedSource is a source of nothing but a logger.
type loggedSource struct {
	manyCredentials
	logger hclog.Logger
}

func (l loggedSource) Logger() hclog.Logger { return l.logger }

func TestAStepOfOurOwnClockIsLogged(t *testing.T) {
	for by, isLogged := range map[time.Duration]bool{0: false, 4 * time.Second: false, -4 * time.Second: false, time.Hour: true, -time.Hour: true} {
		var log bytes.Buffer
		b := New(loggedSource{logger: hclog.New(&hclog.LoggerOptions{Output: &log})}, ignoreExchanges{})
		now := time.Now()
		b.logStep(now)
		b.logStep(setBack(t, now.Add(time.Minute), by))
		b.logStep(setBack(t, now.Add(2*time.Minute), by))
		assert.Equal(t, isLogged, strings.Count(log.String(), "clock has been stepped") == 1, "%s: %s", by, log.String())
		assert.Equal(t, isLogged, strings.Contains(log.String(), "by="+(-by).String()), "%s: %s", by, log.String())
	}
}
