package pacing

import "time"

// A Quota is what RateLimit headers of an answer state.
type Quota struct {
	IsStated  bool
	Remaining int           // requests
	Reset     time.Duration // until the quota is full again
}

const (
	// sharedAnswers is how many answers, to different names, must count a quota down by the requests that
	// were sent in between, for it to be that of the host. Many vendors count each client by itself.
	sharedAnswers = 5

	// resetAccuracy is how much the end of a quota can differ between answers, as headers have whole
	// seconds.
	resetAccuracy = 2 * time.Second
)

// A quota is that of a host, until it ends.
type quota struct {
	shared    int // answers, to different names, that have counted it down
	name      string
	sent      int // requests to the host, at the last answer
	underWay  int // requests without an answer then
	remaining int
	end       time.Time
	left      int // requests that can still be sent

	probe time.Time // when a request is sent although none is left
}

// note records what an answer states. underWay is the number of requests that are not answered yet.
func (q *quota) note(name string, stated Quota, sent, underWay int, now time.Time) {
	if !stated.IsStated || stated.Reset <= 0 {
		return
	}
	end, down := now.Add(stated.Reset), q.remaining-stated.Remaining
	isSame := now.Before(q.end.Add(resetAccuracy)) && end.Sub(q.end).Abs() <= resetAccuracy
	between, accuracy := sent-q.sent, max(underWay, q.underWay) // the host may have counted those or not
	switch {
	case name == q.name: // it says nothing about others
	case !isSame, down < between-accuracy, down > between+accuracy:
		q.shared = 0
	case down > 0:
		q.shared++
	}
	q.sent, q.underWay = sent, underWay
	q.name, q.remaining, q.end = name, stated.Remaining, end
	q.left = max(0, stated.Remaining-underWay)
}

// wait returns how long the next request must wait; zero if it can be sent. Of a quota that takes long
// to be full again, one request finds out each maxPause whether it still counts.
func (q *quota) wait(now time.Time) time.Duration {
	if !q.isUsedUp(now) {
		return 0
	}
	return max(0, minTime(q.end, q.probe).Sub(now))
}

func (q *quota) isUsedUp(now time.Time) bool {
	return q.shared >= sharedAnswers && now.Before(q.end) && q.left == 0
}

// count counts a request that is sent.
func (q *quota) count(now time.Time) {
	q.left = max(0, q.left-1)
	if q.left == 0 && !now.Before(q.probe) {
		q.probe = now.Add(maxPause)
	}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
