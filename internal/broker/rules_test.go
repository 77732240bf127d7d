package broker

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/provider"
)

func TestPromise1ALeaseEndsAMarginBeforeItsTokenDies(t *testing.T) {
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

func TestPromise1HoldsForAnyToken(t *testing.T) {
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
			assert.Less(t, left-margin, time.Second, "a lease of a second would have fitted")
		case ttl > left-margin || ttl <= left-margin-time.Second || ttl%time.Second != 0:
			t.Fatalf("a token with %s left is leased for %s", left, ttl)
		}
	}
}
