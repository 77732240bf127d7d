package pacing

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/time/rate"
)

// A vendor takes a number of requests a second. It is safe for concurrent use.
type vendor struct {
	takes      func(now time.Time) bool // nil for all
	latency    time.Duration
	retryAfter time.Duration

	mu                  sync.Mutex
	accepted, throttled int
}

func (v *vendor) answer() Result {
	v.mu.Lock()
	takes := v.takes == nil || v.takes(time.Now())
	if takes {
		v.accepted++
	} else {
		v.throttled++
	}
	v.mu.Unlock()
	time.Sleep(v.latency)
	if takes {
		return Result{Outcome: Accepted}
	}
	return Result{Outcome: Throttled, RetryAfter: v.retryAfter}
}

// bucket is a vendor's limit with a token bucket, as most gateways have it.
func bucket(perSecond float64, burst int) func(time.Time) bool {
	l := rate.NewLimiter(rate.Limit(perSecond), burst)
	return func(now time.Time) bool { return l.AllowN(now, 1) }
}

// perWindow is a vendor's limit for each whole second.
func perWindow(requests int) func(time.Time) bool {
	var window time.Time
	left := 0
	return func(now time.Time) bool {
		if w := now.Truncate(time.Second); !w.Equal(window) {
			window, left = w, requests
		}
		left--
		return left >= 0
	}
}

// A storm is how many requests ended in which way, and after how long.
type storm struct {
	served            []time.Duration // in ascending order
	failed, throttled int
}

func (s storm) last() time.Duration { return s.served[len(s.served)-1] }

// throttledShare returns the percentage of requests that the vendor turned away.
func (s storm) throttledShare() float64 {
	return 100 * float64(s.throttled) / float64(len(s.served)+s.throttled)
}

func (s storm) String() string {
	return fmt.Sprintf("last %s, throttled %.1f %%, failed %d", s.last(), s.throttledShare(), s.failed)
}

// stormOf sends a request of each of a number of names at once.
func stormOf(t *testing.T, p *Pacer, v *vendor, names int) storm {
	before := v.throttled
	var s storm
	var mu sync.Mutex
	var all sync.WaitGroup
	began := time.Now()
	for n := range names {
		all.Go(func() {
			ctx := With(t.Context(), NewAdmission(fmt.Sprint("name", n), Awaited))
			turn, err := p.Wait(ctx, "host", 0)
			for err == nil {
				result := v.answer()
				if !turn.Answered(result) {
					if result.Outcome != Accepted {
						err = fmt.Errorf("turned away")
					}
					break
				}
				err = turn.Again(ctx)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.failed++
				return
			}
			s.served = append(s.served, time.Since(began))
		})
	}
	all.Wait()
	slices.Sort(s.served)
	s.throttled = v.throttled - before
	return s
}

// hours is a number of storms, each at the hour: more than the hours after which a learned limit is
// forgotten.
const hours = 26

func TestGuarantee16AStormIsPacedToWhatTheVendorTakes(t *testing.T) {
	const fast, slow = 20 * time.Millisecond, 300 * time.Millisecond
	for name, c := range map[string]struct {
		vendor *vendor
		names  int
		last   time.Duration // the most
		share  float64       // the most, of throttled requests in percent
		hours  int
	}{
		"bucket":                   {&vendor{takes: bucket(100, 100), latency: fast}, 1000, 12 * time.Second, 5, hours},
		"small bucket":             {&vendor{takes: bucket(100, 10), latency: fast}, 1000, 12 * time.Second, 5, hours},
		"windows":                  {&vendor{takes: perWindow(100), latency: fast}, 1000, 12 * time.Second, 5, hours},
		"bucket, Retry-After":      {&vendor{takes: bucket(100, 100), latency: fast, retryAfter: time.Second}, 1000, 12 * time.Second, 5, hours},
		"10,000, bucket of 1,000":  {&vendor{takes: bucket(1000, 1000), latency: fast}, 10000, 12 * time.Second, 5, 2},
		"10,000, windows of 1,000": {&vendor{takes: perWindow(1000), latency: fast}, 10000, 12 * time.Second, 5, 2},
		"no limit":                 {&vendor{latency: slow}, 1000, 1500 * time.Millisecond, 0, 2},
		"10,000, no limit":         {&vendor{latency: slow}, 10000, 2500 * time.Millisecond, 0, 2},

		// The pauses that the vendor asks for take longer than its windows.
		"windows, Retry-After": {&vendor{takes: perWindow(100), latency: fast, retryAfter: time.Second}, 1000, 17 * time.Second, 5, hours},
		// A burst of two is too much for it.
		"no bucket": {&vendor{takes: bucket(100, 1), latency: fast}, 1000, 15 * time.Second, 5, hours},
		// What is under way when the first answer comes was sent without knowing of a limit.
		"bucket, slow": {&vendor{takes: bucket(100, 100), latency: slow}, 1000, 12 * time.Second, 30, hours},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := New(nil)
				for hour := range c.hours {
					s := stormOf(t, p, c.vendor, c.names)
					assert.Zero(t, s.failed, "hour %d: %s", hour, s)
					assert.LessOrEqual(t, s.last(), c.last, "hour %d: %s", hour, s)
					assert.LessOrEqual(t, s.throttledShare(), c.share, "hour %d: %s", hour, s)
					time.Sleep(time.Until(time.Now().Truncate(time.Hour).Add(time.Hour)))
				}
			})
		})
	}
}

func TestAHostThatHasTakenManyRequestsGetsThemEarlier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, v := New(nil), &vendor{latency: 300 * time.Millisecond}
		first := stormOf(t, p, v, 1000)
		time.Sleep(time.Hour)
		second := stormOf(t, p, v, 1000)
		assert.Greater(t, first.last(), 1200*time.Millisecond)
		assert.Less(t, second.last(), time.Second)

		// It is overloaded once, and is a new host from then on.
		v.takes = bucket(100, 100)
		time.Sleep(time.Hour)
		overload := stormOf(t, p, v, 1000)
		assert.Less(t, overload.throttledShare(), 40.0, overload)
		v.takes = nil
		time.Sleep(forgetTime + time.Hour)
		assert.Greater(t, stormOf(t, p, v, 1000).last(), 1200*time.Millisecond)
	})
}
