package broker

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/provider"
)

func TestGuarantee1LeaseEndsAMarginBeforeItsTokenExpires(t *testing.T) {
	now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	for left, want := range map[time.Duration]time.Duration{
		24 * time.Hour:          24*time.Hour - 30*time.Second,
		time.Hour:               time.Hour - 30*time.Second,
		10 * time.Minute:        9*time.Minute + 30*time.Second,
		5 * time.Minute:         285 * time.Second,
		20 * time.Second:        19 * time.Second,
		2 * time.Second:         time.Second,
		1100 * time.Millisecond: time.Second,
		time.Second:             0,
		0:                       0,
		-time.Hour:              0,
	} {
		assert.Equal(t, want, leaseTTL(provider.Token{ExpireTime: now.Add(left)}, now), left)
	}
}

func TestGuarantee1HoldsForAnyToken(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	for range 100_000 {
		left := time.Duration(random.Int64N(int64(48 * time.Hour)))
		if random.IntN(2) == 0 {
			left = time.Duration(random.Int64N(int64(time.Minute)))
		}
		ttl := leaseTTL(provider.Token{ExpireTime: now.Add(left)}, now)
		margin := min(30*time.Second, left/20)
		switch {
		case ttl == 0:
			assert.Less(t, left-margin, time.Second, "a lease of one second was possible")
		case ttl > left-margin || ttl <= left-margin-time.Second || ttl%time.Second != 0:
			t.Fatalf("a token with %s left is leased for %s", left, ttl)
		}
	}
}

func TestGuarantee4BackOffDoublesWithJitter(t *testing.T) {
	unavailable := &provider.Error{Kind: provider.Unavailable}
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 9: 256 * time.Second, 10: 5 * time.Minute, 1000: 5 * time.Minute} {
		shortest, longest := time.Hour, time.Duration(0)
		for range 1000 {
			p := backOff(unavailable, failures)
			shortest, longest = min(shortest, p), max(longest, p)
		}
		assert.InDelta(t, 0.8, float64(shortest)/float64(want), 0.02, failures)
		assert.InDelta(t, 1.2, float64(longest)/float64(want), 0.02, failures)
	}
	assert.Equal(t, 5*time.Minute, backOff(&provider.Error{Kind: provider.Rejected}, 1))
	assert.Equal(t, time.Hour, backOff(&provider.Error{Kind: provider.Unavailable, RetryAfter: 48 * time.Hour}, 1))
}

// disuseVendor is a vendor whose credentials expire from disuse.
type disuseVendor struct{ provider.Credential }

func (disuseVendor) MaxIdle() time.Duration { return 7 * 24 * time.Hour }

func TestGuarantee7KeepaliveComesWithinItsInterval(t *testing.T) {
	const interval = 24 * time.Hour
	last := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	quarters := map[time.Duration]int{}
	for i := range 1000 {
		c := &Credential{Generation: fmt.Sprint(i), WriteTime: last, Keepalive: interval, Vendor: disuseVendor{}}
		first := keepaliveTime(c, &State{Health: Health{Exchanges: 1, ExchangeTime: last}}, last).Sub(last)
		assert.Positive(t, first)
		assert.LessOrEqual(t, first, interval)
		quarters[first/(interval/4)]++
		assert.Equal(t, first, keepaliveTime(c, &State{}, last).Sub(last), "without an exchange, the interval runs from the write")

		later := keepaliveTime(c, &State{Health: Health{Exchanges: 2, ExchangeTime: last}}, last).Sub(last)
		assert.Greater(t, later, interval*95/100)
		assert.LessOrEqual(t, later, interval)
	}
	for quarter := range time.Duration(4) {
		assert.InDelta(t, 250, quarters[quarter], 60, "first keepalives are spread over the interval")
	}
	assert.Zero(t, keepaliveTime(&Credential{Vendor: disuseVendor{}}, &State{Health: Health{ExchangeTime: last}}, last), "turned off")
}
