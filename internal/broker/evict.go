package broker

import (
	"time"
	"unique"

	"golang.org/x/time/rate"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// idleTime is how long a name stays in memory that nobody reads. It is as long as the longest back-off, so that no
	// back-off comes back from storage that a refresh has cleared in memory.
	idleTime = longestBackOff

	// evictRetry is when the sweep looks again at a name that something keeps in memory for longer.
	evictRetry = 5 * time.Minute
)

// An instant is a time in nanoseconds since 1970; 0 stands for none. It takes a third of the memory of a time.Time.
type instant int64

func newInstant(t time.Time) instant {
	if t.IsZero() {
		return 0
	}
	return instant(t.UnixNano())
}

func (i instant) time() time.Time {
	if i == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(i)).UTC()
}

// A summary is what stays in memory of a name after its record. It never changes. Storage has the rest.
type summary struct {
	// isStale is whether only the fields about the record count, as the credential has changed.
	isStale bool

	isUnusable  bool
	canConsent  bool
	lacksSecret bool // and a person's consent can yield it

	vendor, keypair string
	state           string // as Status.State, while the token is valid, and apart from the rotation

	tokenExpires, unusedExpires, secretExpires instant

	// validUntil is until when readers get a token.
	validUntil instant

	// rest is the whole Status, if there are failures or narrower scopes; else nil.
	rest *Status

	rotation RotationFunc

	used clientFacts

	// The fields of the record that are not in storage. seen is when the clock last agreed with the times of its tokens.
	uses       map[string]use
	delegated  *delegationHealth
	loggedSkew time.Duration
	seen       time.Time
}

// clientFacts are what a credential has used of its client.
type clientFacts struct {
	name          string
	use           unique.Handle[ClientUse] // most credentials of a client have the same
	rejectedSince instant
	isExchanged   bool // whether the credential has tokens of its own
}

// clientFacts returns what a loaded credential has used of its client.
func (snap snapshot) clientFacts() clientFacts {
	consent := provider.ConsentOf(snap.credential.Vendor)
	latest := snap.latestState()
	return clientFacts{
		name: snap.credential.Client, use: unique.Make(latest.Client), rejectedSince: newInstant(latest.RejectedSince()),
		isExchanged: (consent == nil || !consent.IsMissing()) && !provider.OnlyDelegates(snap.credential.Vendor),
	}
}

// outdated returns a summary of which only the fields of the record count; nil if nothing is left.
func (m *summary) outdated(keepsUses bool) *summary {
	next := &summary{isStale: true, loggedSkew: m.loggedSkew}
	if keepsUses {
		next.uses, next.delegated = m.uses, m.delegated
	}
	return next
}

// status sets s to the status as of now.
func (m *summary) status(s *Status, now time.Time) {
	*s = Status{
		Vendor: m.vendor, State: m.state, CanConsent: m.canConsent, Keypair: m.keypair, Client: m.used.name, IsUnusable: m.isUnusable,
		ExpireTime: m.tokenExpires.time(), CredentialExpireTime: m.unusedExpires.time(), SecretExpireTime: m.secretExpires.time(),
	}
	if m.isUnusable {
		return
	}
	if m.rest != nil {
		*s = *m.rest
	}
	isValid := now.Before(m.validUntil.time())
	switch {
	case isValid:
	case s.State == stateDegraded:
		s.State = stateFailed
	case m.lacksSecret && s.State != stateFailed:
		s.State = stateConsent
	}
	s.NeedsConsent = s.NeedsConsent || m.lacksSecret || m.canConsent && isSoon(s.SecretExpireTime, SecretHorizon, now)
	s.SetRotation(m.rotation.at(now))
}

// newSummary returns the summary of a record that is loaded or unusable. The caller holds r.mu.
func (r *record) newSummary(now time.Time) *summary {
	snap := r.current
	m := &summary{uses: r.uses, loggedSkew: snap.loggedSkew, seen: now, isUnusable: snap.presence == unusable}
	if len(r.uses) == 0 {
		m.uses = nil
	}
	if snap.delegated != (delegationHealth{}) {
		delegated := snap.delegated // a copy, as a pointer into snap would keep all of it
		m.delegated = &delegated
	}
	if m.isUnusable {
		return m
	}
	c := snap.credential
	rotation := c.Rotation
	withoutRotation := *c
	withoutRotation.Rotation = nil
	snap.credential = &withoutRotation
	s := newStatus(snap, now)
	m.vendor, m.keypair, m.state, m.rotation, m.used = c.VendorName, unique.Make(c.Keypair).Value(), s.State, rotation, snap.clientFacts()
	m.used.name = unique.Make(m.used.name).Value()
	m.canConsent, m.tokenExpires = s.CanConsent, newInstant(s.ExpireTime)
	m.unusedExpires, m.secretExpires = newInstant(s.CredentialExpireTime), newInstant(s.SecretExpireTime)
	consent := provider.ConsentOf(c.Vendor)
	m.lacksSecret = consent != nil && consent.IsMissing()
	for scope := range snap.state.scopes() {
		token := snap.of(scope).token().At(now)
		if lease := leaseTTL(token, now); lease > 0 {
			m.validUntil = max(m.validUntil, newInstant(now.Add(lease)))
		}
	}
	if own := snap.state.Tokens[ownScope]; !own.Seen.IsZero() {
		m.seen = own.Seen
	}
	if s.Failure.Count > 0 || s.OwnFailure.Count > 0 || s.IsRejected || len(s.Scopes) > 0 {
		s.Description = "" // it may be long, and status/<name> reads it from storage
		m.rest = s
	}
	return m
}

// evict removes the record of a name that nothing needs, and keeps its summary. It reports whether it did. next is when
// the sweep looks at the name again.
//
// A name stays in memory with anything that storage does not have: an unsaved state (guarantee 3), a failure that could
// not be stored (guarantees 4 and 5), limits that have been used (guarantee 16), and tokens of callers. So does one that
// has variants, whose tokens must be compared (guarantee 14), and a variant, which is deleted when nobody reads it.
func (b *Broker) evict(r *record, next, now time.Time) bool {
	if isVariant(r.name) {
		return false
	}
	unlock, isLocked := b.locks.tryLock(r.name)
	if !isLocked {
		return false
	}
	defer unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[r.name]
	if e == nil || e.record != r || len(b.variants[r.name]) > 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isTouched || !r.isEvictable(now) {
		return false
	}
	e.record, e.summary = nil, r.newSummary(now)
	r.isTouched = true     // the sweep need not look at it again
	r.unloadLocked(absent) // a reader that still has the record begins again
	b.requeueLocked(e, next)
	return true
}

// isEvictable reports whether nothing needs the record. The caller holds the lock of the name.
func (r *record) isEvictable(now time.Time) bool {
	snap := r.current
	for _, token := range snap.previousTokens {
		if token.Now(now).Before(token.ExpireTime) {
			return false
		}
	}
	switch {
	case snap.unsaved != nil, snap.isAhead, !r.running.since.IsZero(), r.pending != "", now.Before(snap.panicPause),
		now.Before(r.needed.Add(idleTime)), len(snap.early) > 0, len(snap.roleFailures) > 0:
		return false
	case snap.presence == unusable:
		return true
	case snap.presence != loaded:
		return false
	}
	for _, limit := range r.refreshLimits {
		if limit != nil && !isFull(limit, now) {
			return false
		}
	}
	for _, a := range r.allowances {
		if !isFull(a.limiter, now) {
			return false
		}
	}
	// After a step of the clock, only this process knows how old a token is. (Guarantee 1.)
	for _, token := range snap.state.Tokens {
		if !token.Seen.IsZero() && clockStep(token.Seen, now).Abs() > minLoggedStep && wasRecentlyValid(token, now) {
			return false
		}
	}
	return r.delegations == nil || r.delegations.isIdle(now)
}

// isFull reports whether nothing counts against a limit.
func isFull(limit *rate.Limiter, now time.Time) bool {
	return limit.TokensAt(now) >= float64(limit.Burst())
}

// seenSince returns the state with tokens that were in memory before as old as they are: the clock agreed with their
// times at a time that has a monotonic reading, and may have been stepped since.
func (s *State) seenSince(seen time.Time) *State {
	next := *s
	for scope, token := range s.Tokens {
		if !token.IssueTime.After(seen) {
			token.Seen = seen
			next.Tokens = withKey(next.Tokens, scope, token)
		}
	}
	return &next
}
