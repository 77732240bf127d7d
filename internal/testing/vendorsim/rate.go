package vendorsim

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// A Rate is how many requests each host of the vendors accepts. It answers the others with status
// 429. The zero value accepts all requests.
type Rate struct {
	// PerSecond is the number of requests that the host accepts in a second, on average; zero for
	// no limit.
	PerSecond float64

	// Burst is the size of the token bucket: how many requests the host accepts at once after a
	// pause. Zero means 1.
	Burst int

	// Window, unless zero, replaces the token bucket by a counter, as simple gateways have it. The
	// host accepts PerSecond × Window requests in each window, at any time within it. A window
	// begins at each multiple of its length.
	Window time.Duration

	// RetryAfter adds a Retry-After header to each 429: the whole seconds, rounded up, until the
	// host accepts a request again.
	RetryAfter bool

	// Headers adds RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset to each response
	// (https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-03).
	Headers bool
}

// A Traffic is what a host has received so far.
type Traffic struct {
	Accepted, Throttled int

	// Last is when the host accepted the last request; the zero time if it has accepted none.
	Last time.Time

	// Idle is for how long, since the first request, the host could have worked and had nothing to
	// do. Each accepted request is work for 1/PerSecond. It is zero without a limit.
	Idle time.Duration
}

// Traffic returns what a host has received so far, such as link-streaming.kensho.com.
func (s *Sim) Traffic(host string) Traffic {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gateways[host]
	if g == nil {
		return Traffic{}
	}
	t := g.Traffic
	if g.busyUntil.IsZero() {
		return t
	}
	t.Idle += max(0, time.Since(g.busyUntil))
	return t
}

// A gateway applies the rate of a host.
type gateway struct {
	Traffic

	// busyUntil is when the work of the requests accepted so far is done; zero without a limit. The
	// token bucket lacks a token for each 1/PerSecond of work that is left.
	busyUntil time.Time

	window time.Time // the start of the last window
	used   int       // requests accepted in it
}

// admit reports whether a host accepts a request now. It adds the headers of the rate to those of
// the response.
func (s *Sim) admit(host string, header http.Header) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gateways[host]
	if g == nil {
		g = &gateway{}
		s.gateways[host] = g
	}
	now, rate := time.Now(), s.conduct.Rate
	remaining, next := g.capacity(rate, now)
	accepted := remaining >= 1
	if accepted {
		remaining--
		g.accept(rate, now)
	} else {
		g.Throttled++
	}
	seconds := strconv.Itoa(int(math.Ceil(next.Seconds())))
	if rate.RetryAfter && !accepted {
		header.Set("Retry-After", seconds)
	}
	if rate.Headers && rate.PerSecond > 0 {
		header.Set("RateLimit-Limit", strconv.Itoa(rate.size()))
		header.Set("RateLimit-Remaining", strconv.Itoa(remaining))
		header.Set("RateLimit-Reset", seconds)
	}
	return accepted
}

// size returns the most requests that a host accepts at once.
func (r Rate) size() int {
	if r.Window > 0 {
		return max(1, int(math.Round(r.PerSecond*r.Window.Seconds())))
	}
	return max(1, r.Burst)
}

// work returns how long a request keeps the host busy.
func (r Rate) work() time.Duration { return time.Duration(float64(time.Second) / r.PerSecond) }

// capacity returns how many requests the gateway accepts now, and when it accepts more: at the end
// of the window, or when the bucket has the next token.
func (g *gateway) capacity(r Rate, now time.Time) (requests int, next time.Duration) {
	switch {
	case r.PerSecond == 0:
		return math.MaxInt, 0
	case r.Window > 0:
		if start := now.Truncate(r.Window); !start.Equal(g.window) {
			g.window, g.used = start, 0
		}
		return r.size() - g.used, g.window.Add(r.Window).Sub(now)
	}
	free := time.Duration(r.size())*r.work() - max(0, g.busyUntil.Sub(now))
	return int(free / r.work()), r.work() - free%r.work()
}

// accept counts a request that the gateway has the capacity for.
func (g *gateway) accept(r Rate, now time.Time) {
	g.Accepted++
	g.Last = now
	g.used++
	if r.PerSecond == 0 {
		return
	}
	if g.busyUntil.Before(now) {
		if !g.busyUntil.IsZero() {
			g.Idle += now.Sub(g.busyUntil)
		}
		g.busyUntil = now
	}
	g.busyUntil = g.busyUntil.Add(r.work())
}

// throttled answers a request that a host does not accept.
func throttled(w http.ResponseWriter) {
	reply{status: http.StatusTooManyRequests, body: map[string]string{"message": "API rate limit exceeded"}}.write(w)
}
