// Package storm_test simulates what follows when the tokens of many credentials expire together, at a
// vendor that limits the rate of requests. Guarantee 16 is what it shows: the engine uses what the
// vendor accepts, asks for little more, and lets readers wait rather than fail.
package storm_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	latency = 20 * time.Millisecond

	// maxRatio is the limit of the last reader's time, relative to the least possible, and
	// maxThrottled that of the part of the requests that the vendor throttles.
	maxRatio     = 1.2
	maxThrottled = 0.05
)

// hundred is a vendor that accepts 100 requests a second.
var hundred = vendorsim.Rate{PerSecond: 100, Burst: 100}

// assertGood asserts that nothing was wasted, neither of the vendor's time nor of the readers'.
func assertGood(t *testing.T, outcomes []outcome) {
	t.Helper()
	assert.NotEmpty(t, outcomes)
	for i, o := range outcomes {
		assert.Zero(t, o.Unserved, "hour %d: readers without a token", i+1)
		assert.Zero(t, o.gaveUp, "hour %d: Agents that have given up", i+1)
		assert.LessOrEqual(t, o.Ratio(), maxRatio, "hour %d: the last reader, relative to the least possible", i+1)
		assert.LessOrEqual(t, o.ThrottledPart(), maxThrottled, "hour %d: throttled requests", i+1)
		assert.Zero(t, o.Hasty, "hour %d: reads that failed and could have waited", i+1)
	}
}

func TestAThousandReadersAtAHundredASecond(t *testing.T) {
	for name, rate := range map[string]vendorsim.Rate{
		"bucket of a second":       hundred,
		"bucket of a tenth":        {PerSecond: 100, Burst: 10},
		"windows of a second":      {PerSecond: 100, Window: time.Second},
		"with Retry-After":         {PerSecond: 100, Burst: 100, RetryAfter: true},
		"with headers of its rate": {PerSecond: 100, Burst: 100, RetryAfter: true, Headers: true},
	} {
		t.Run(name, func(t *testing.T) {
			assertGood(t, scenario{readers: 1000, rate: rate, latency: latency, sweep: 30 * time.Second}.run(t))
		})
	}
}

// What the engine learns of the vendor in the first hour does not harm later ones.
func TestLaterHoursAreAsGoodAsTheFirst(t *testing.T) {
	outcomes := scenario{readers: 1000, rate: hundred, latency: latency, sweep: 30 * time.Second, hours: 3}.run(t)
	assertGood(t, outcomes)
	first := outcomes[0]
	for i, o := range outcomes[1:] {
		// A full bucket at the hour makes an hour better than the least without one.
		assert.LessOrEqual(t, o.Last, 1.05*max(first.Last, first.Least), "hour %d: the last reader", i+2)
		assert.LessOrEqual(t, float64(o.Throttled), 1.05*float64(first.Throttled)+5, "hour %d: throttled requests", i+2)
	}
}

func TestOAuthCredentialsWhoseTokensExpireTogether(t *testing.T) {
	assertGood(t, scenario{readers: 1000, rate: hundred, latency: latency, sweep: 30 * time.Second, oauth: true}.run(t))
}

// A vendor without a limit is not slowed down. The tokens expire within a second after the hour,
// because the vendor's clock is known to the second.
func TestAThousandReadersOfAVendorWithoutALimit(t *testing.T) {
	outcomes := scenario{readers: 1000, latency: 300 * time.Millisecond, sweep: 30 * time.Second}.run(t)
	for _, o := range outcomes {
		assert.LessOrEqual(t, o.Last, 1.5, "seconds until the last reader has its token")
		assert.Zero(t, o.Failed)
		assert.Zero(t, o.Unserved)
	}
}

// The short form has a fifth of the readers and of the rate, and so the same least time.
func TestTenThousandReadersAtAThousandASecond(t *testing.T) {
	readers, rate := 10_000, vendorsim.Rate{PerSecond: 1000, Burst: 1000}
	if testing.Short() {
		readers, rate = 2000, vendorsim.Rate{PerSecond: 200, Burst: 200}
	}
	assertGood(t, scenario{readers: readers, rate: rate, latency: latency, sweep: 30 * time.Second}.run(t))
}

// Readers that wait come before renewals that nobody waits for, which begin as the tokens expire.
func TestReadersThatWaitComeBeforeTheBackground(t *testing.T) {
	for name, sweep := range map[string]time.Duration{"at the hour": 0, "among the readers": 500 * time.Millisecond, "after them": time.Second} {
		t.Run(name, func(t *testing.T) {
			outcomes := scenario{readers: 100, background: 900, rate: hundred, latency: latency, sweep: sweep}.run(t)
			for _, o := range outcomes {
				assert.Zero(t, o.Unserved)
				assert.Zero(t, o.Hasty)
				assert.LessOrEqual(t, o.Last, 2*o.Least, "seconds until the last reader has its token; the others would take ten times as long")
				// A keepalive after the last read of a token makes it one that nobody has read.
				assert.InDelta(t, 990, o.renewals, 10, "exchanges, one for each credential in use")
				assert.LessOrEqual(t, o.renewed, 120.0, "seconds until the background is done")
			}
		})
	}
}
