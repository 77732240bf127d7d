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

// A vendorClock is how far a vendor's clock is ahead of the server's, and its Date header; the zero
// time if none.
type vendorClock struct {
	ahead time.Duration
	date  func(vendor time.Time) time.Time

	isBelieved bool // whether the engine takes the Date for the vendor's clock
}

func toSecond(t time.Time) time.Time { return t.Truncate(time.Second) }

// vendorClocks are the clocks of the table. If the engine ignores the Date, the vendor's clock
// equals the server's.
var vendorClocks = map[string]vendorClock{
	"correct":             {0, toSecond, true},
	"behind":              {-5 * time.Minute, toSecond, true},
	"ahead":               {5 * time.Minute, toSecond, true},
	"1970":                {0, func(time.Time) time.Time { return time.Unix(0, 0) }, false},
	"next day":            {0, func(t time.Time) time.Time { return toSecond(t).AddDate(0, 0, 1) }, false},
	"no Date":             {0, func(time.Time) time.Time { return time.Time{} }, false},
	"no Date, 2 s ahead":  {2 * time.Second, func(time.Time) time.Time { return time.Time{} }, false},
	"no Date, 2 s behind": {-2 * time.Second, func(time.Time) time.Time { return time.Time{} }, false},
}

const (
	oneWay         = 100 * time.Millisecond // from the server to the vendor, and back
	statedLifetime = time.Hour
	untilStated    = 37 * time.Minute // until a stated time
	ownLifetime    = 41 * time.Minute // until a token's own exp
	maxTTL         = 30 * time.Minute
	fixed          = 2 * time.Hour
	defaultTTL     = 20 * time.Minute // default_ttl
)

// A row holds what determines the expiry of a token.
type row struct {
	clock            string
	sent             time.Time
	states, isCapped bool
	exp, rule        string // exp is "", "own" or "hour"; rule is "", "hour" or "fixed"
	at               string // a stated time, by the vendor's clock: "", "future" or "passed"
	isDefault        bool
}

func (r row) String() string {
	return fmt.Sprintf("clock %s, sent %s: states=%t at=%q exp=%q max_ttl=%t rule=%q default_ttl=%t", r.clock, r.sent.Format("15:04:05.0"), r.states, r.at, r.exp, r.isCapped, r.rule, r.isDefault)
}

// expectedExpiry returns when the token of a row expires by the server's clock, and whether that is
// the vendor's full hour: guarantee 1, computed with the vendor's clock.
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
	isInvalid := r.at == "passed" && vendorClocks[r.clock].isBelieved
	if r.at != "" && !isInvalid {
		consider(r.statedTime().Add(-ahead), false)
	}
	switch r.exp {
	case "own":
		consider(r.ownExp().Add(-ahead), false)
	case "hour":
		consider(hour, r.rule == "hour")
	}
	switch {
	case known:
	case r.rule == "hour" && !isInvalid:
		consider(hour, true)
	case r.rule == "fixed" && !isInvalid:
		consider(made.Add(fixed), false)
	case r.isDefault:
		consider(made.Add(defaultTTL), false)
	}
	if known && r.isCapped {
		consider(made.Add(maxTTL), false)
	}
	return expires, onTheHour, known
}

// statedTime returns the time at which a row's answer says that the token expires, by the vendor's clock.
func (r row) statedTime() time.Time {
	vendor := r.sent.Add(oneWay + vendorClocks[r.clock].ahead)
	if r.at == "passed" {
		return toSecond(vendor.Add(-time.Minute))
	}
	return toSecond(vendor.Add(untilStated))
}

// ownExp returns the exp of a row's JWT, by the vendor's clock.
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
	if r.at != "" {
		a.ExpiresAt = r.statedTime()
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
						next := row{clock: clock, sent: ten.Add(sent), states: i&1 > 0, isCapped: i&2 > 0, isDefault: i&4 > 0, exp: exp, rule: rule}
						all = append(all, next)
						if next.states { // an answer states a lifetime or a time
							continue
						}
						for _, at := range []string{"future", "passed"} {
							next.at = at
							all = append(all, next)
						}
					}
				}
			}
		}
	}
	return all
}

// TestGuarantee1ForEachExpirySource combines every source of an expiry with the vendor clocks, the
// boundary and the margin.
func TestGuarantee1ForEachExpirySource(t *testing.T) {
	for _, r := range rows() {
		answer, ttl := r.answer(t)
		token, err := answer.Token(ttl, provider.Token{})
		expires, onTheHour, known := r.expectedExpiry()
		if !known {
			require.ErrorContains(t, err, "set default_ttl", r)
			continue
		}
		require.NoError(t, err, r)

		// The source, by the vendor's clock: never late, and at most 4 s early, unless the exchange
		// was so near the hour that the token may belong to the hour that ends.
		require.False(t, token.ExpireTime.After(expires), "%s: expires at %s instead of %s", r, token.ExpireTime, expires)
		isNear := r.rule == "hour" && r.sent.Add(5*time.Second).Truncate(time.Hour) != r.sent.Add(-5*time.Second).Truncate(time.Hour)
		if early := expires.Sub(token.ExpireTime); early > 4*time.Second {
			require.True(t, isNear, "%s: expires at %s instead of %s", r, token.ExpireTime, expires)
			require.LessOrEqual(t, token.RenewableFrom.Sub(r.sent), 5*time.Second, "%s: the next token is seconds away", r)
			continue
		}

		// The boundary: only at the vendor's hour, and never before it.
		require.Equal(t, onTheHour, !token.RenewableFrom.IsZero(), "%s: boundary", r)
		if onTheHour {
			require.WithinRange(t, token.RenewableFrom, expires, expires.Add(5*time.Second), "%s: boundary", r)
			require.False(t, isExpiring(token, token.RenewableFrom.Add(-10*time.Second-time.Millisecond)) && leaseTTL(token, token.RenewableFrom.Add(-10*time.Second-time.Millisecond)) > 0, r)
			require.True(t, isExpiring(token, token.RenewableFrom.Add(-10*time.Second)), "%s: a read waits for the next token", r)
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

// setBack returns a time as the clocks show it after the wall clock has been set back.
func setBack(t *testing.T, now time.Time, by time.Duration) time.Time {
	t.Helper()
	before := now
	now = now.Add(-by)
	shiftMonotonic(&now, by)
	require.Equal(t, -by, now.Round(0).Sub(before.Round(0)), "by the wall clock")
	require.Zero(t, now.Sub(before), "by the monotonic clock")
	return now
}

func TestGuarantee1WhenTheServersClockIsStepped(t *testing.T) {
	seen := time.Now()
	token := provider.Token{AccessToken: "a", IssueTime: seen.Round(0), ExpireTime: seen.Round(0).Add(time.Hour), Seen: seen}
	for name, test := range map[string]struct {
		passed time.Duration // by the monotonic clock
		back   time.Duration
		left   time.Duration
	}{
		"correct":          {20 * time.Minute, 0, 40 * time.Minute},
		"back":             {20 * time.Minute, time.Hour, 40 * time.Minute},
		"back, expired":    {70 * time.Minute, time.Hour, -10 * time.Minute},
		"back by years":    {70 * time.Minute, 30 * 365 * 24 * time.Hour, -10 * time.Minute},
		"forward":          {20 * time.Minute, -30 * time.Minute, 10 * time.Minute},
		"forward, expired": {20 * time.Minute, -time.Hour, -20 * time.Minute},
		"suspended":        {0, -2 * time.Hour, -time.Hour},
		"back, last 10 s":  {time.Hour - 10*time.Second, time.Hour, 10 * time.Second},
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
			untilRenewal := test.left - 15*time.Minute
			assert.Equal(t, max(untilRenewal-agentCushion, time.Second), issued.Reread, name)
		}
		renewable := token
		renewable.RenewableFrom = token.ExpireTime
		assert.Equal(t, test.left <= 10*time.Second, isExpiring(renewable, now), name)
	}
}

func TestStepOfTheServersClockDelaysNothing(t *testing.T) {
	now := time.Now()
	later := setBack(t, now.Add(time.Minute), time.Hour)
	c := &Credential{WriteTime: now.Round(0), Keepalive: 24 * time.Hour, Vendor: disuseVendor{}}
	s := &State{Health: Health{Exchanges: 2, ExchangeTime: now.Round(0), Failure: Failure{
		Kind: provider.Unavailable, Count: 10, Time: now.Round(0), NextAttempt: now.Round(0).Add(5 * time.Minute),
	}}}
	v := snapshot{credential: c, state: s}.of(ownScope)
	assert.True(t, v.backingOff(now.Add(time.Minute)))
	assert.False(t, v.backingOff(later), "the back-off does not last another hour")
	keepalive := func(now time.Time) action {
		act, _ := v.decide(demand{isBackground: true}, now)
		return act
	}
	assert.Equal(t, serve, keepalive(now.Add(6*time.Minute)))
	assert.Equal(t, renewNow, keepalive(later), "the last exchange is in the future")

	assert.Equal(t, -time.Hour, clockStep(now, later))
	assert.Zero(t, clockStep(now, now.Add(time.Minute)))
}

// No failure delays attempts for longer than any back-off, and a failure in the future does not
// hide a later one.
func TestFailureInTheFutureHasNoBackOff(t *testing.T) {
	now := time.Now().Round(0)
	for name, test := range map[string]struct {
		dated, next time.Duration // from now
		waits       time.Duration
	}{
		"dated now":                                   {0, time.Minute, time.Minute},
		"dated now, with the longest back-off":        {0, longestBackOff, longestBackOff},
		"a longer back-off than any":                  {0, longestBackOff + time.Second, 0},
		"in the past, with a back-off of a year":      {-time.Minute, 365 * 24 * time.Hour, 0},
		"in the future":                               {time.Second, 2 * time.Second, 0},
		"a year ahead":                                {365 * 24 * time.Hour, 365*24*time.Hour + time.Minute, 0},
		"in the past, with a back-off that has ended": {-time.Hour, -time.Minute, 0},
	} {
		failure := Failure{Kind: provider.Rejected, Count: 3, Time: now.Add(test.dated), NextAttempt: now.Add(test.next)}
		recent := Failure{Kind: provider.Unavailable, Count: 1, Time: now, NextAttempt: now.Add(time.Second)}
		for where, snap := range map[string]snapshot{
			"the credential's": {state: &State{Health: Health{Failure: failure}}},
			"a scope's":        {state: &State{ScopeFailures: map[string]Failure{"narrow": failure}}},
			"both":             {state: &State{Health: Health{Failure: recent}, ScopeFailures: map[string]Failure{"narrow": failure}}},
		} {
			snap.credential = &Credential{}
			waits := test.waits
			if where == "both" {
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
	expiry := now.Add(7 * 24 * time.Hour)
	assert.Equal(t, expiry, Health{ExchangeTime: now, CredentialExpireTime: expiry}.unusedExpireTime(now))
	assert.Zero(t, Health{ExchangeTime: now.Add(time.Second), CredentialExpireTime: expiry}.unusedExpireTime(now))
}

func TestStoredTokenIssuedInTheFutureIsNotServed(t *testing.T) {
	now := time.Now()
	token := func(issued time.Time) provider.Token {
		return provider.Token{IssueTime: issued.Round(0), ExpireTime: issued.Round(0).Add(time.Hour)}
	}
	stored := &State{Tokens: map[string]provider.Token{"": token(now.Add(time.Second)), "past": token(now.Add(-time.Minute)), "now": token(now)}}
	got := stored.asOf(now)
	assert.Len(t, got.Tokens, 2)
	assert.NotContains(t, got.Tokens, "")
	assert.Equal(t, now, got.Tokens["past"].Seen, "later steps of the clock do not matter")
	assert.Len(t, stored.Tokens, 3, "the stored state must not change")
}

// loggedSource is a source that has only a logger.
type loggedSource struct {
	manyCredentials
	logger hclog.Logger
}

func (l loggedSource) Logger() hclog.Logger { return l.logger }

func TestStepOfTheServersClockIsLogged(t *testing.T) {
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
