package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// maxDelegatedTokens is the maximum number of tokens of callers that are cached for a credential, and
	// maxRefusals that of refused requests. The least recently used go first.
	maxDelegatedTokens = 1000
	maxRefusals        = 1000

	// maxCachedToken is the longest token that is cached, in bytes, so that the cache of a credential is
	// bounded in size.
	maxCachedToken = 16 << 10

	// refusalTime is how long a request that the vendor refused is not sent again.
	refusalTime = 30 * time.Second

	// maxConcurrent is the maximum number of concurrent exchanges of callers' tokens of a credential, and
	// maxDelegations that of those that run or wait to.
	maxConcurrent  = 16
	maxDelegations = 256
)

// A delegationKey identifies what a caller asks for. It is a hash, as callers' tokens are not kept.
type delegationKey [sha256.Size]byte

// newDelegationKey returns the key of a request. Lists in another order are another request, except scopes.
func newDelegationKey(c *Credential, r provider.DelegateRequest) delegationKey {
	h := sha256.New()
	add := func(texts ...string) {
		_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(texts))))
		for _, text := range texts {
			_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
			_, _ = io.WriteString(h, text)
		}
	}
	add(c.Generation, c.Version.Settings, c.Version.Secrets, c.Version.Identity, c.Narrowing)
	add(r.SubjectToken, r.SubjectTokenType, r.ActorToken, r.ActorTokenType, r.RequestedTokenType, provider.JoinScope(r.Scope))
	add(r.Audience...)
	add(r.Resource...)
	return delegationKey(h.Sum(nil))
}

// delegations are the exchanges for callers of one credential, from one change of it to the next. They are safe
// for concurrent use.
type delegations struct {
	epoch   uint64
	flights singleflight.Group // by delegationKey

	// queue has an element for each exchange that runs or waits, slots for each that runs.
	queue, slots chan struct{}

	// authStyle is the client authentication that worked last, if several were tried.
	authStyle atomic.Pointer[string]

	mu      sync.Mutex
	tokens  *simplelru.LRU[delegationKey, delegatedToken]
	refused *simplelru.LRU[delegationKey, refusal]
}

// A delegatedToken is a cached token of a caller.
type delegatedToken struct {
	provider.Token
	until time.Time // when one of the caller's tokens expires; zero if unknown
}

// A refusal is why the vendor refused a request.
type refusal struct {
	*RefusedError
	until time.Time
}

// delegationsOf returns the delegations as of an epoch. Those of an older one are dropped. (Guarantee 8.)
func (r *record) delegationsOf(epoch uint64) *delegations {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.delegations == nil || r.delegations.epoch != epoch {
		r.delegations = newDelegations(epoch)
	}
	if now := time.Now(); now.Sub(r.needed) > useAccuracy {
		r.needed = now
		r.touchLocked()
	}
	return r.delegations
}

// isIdle reports whether no exchange runs, and no token or refusal is cached that would count.
func (ds *delegations) isIdle(now time.Time) bool {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, cached := range ds.tokens.Values() {
		if leaseTTL(cached.At(now), now) > 0 && (cached.until.IsZero() || now.Before(cached.until)) {
			return false
		}
	}
	for _, last := range ds.refused.Values() {
		if now.Before(last.until) {
			return false
		}
	}
	return len(ds.queue) == 0
}

func newDelegations(epoch uint64) *delegations {
	ds := &delegations{epoch: epoch, queue: make(chan struct{}, maxDelegations), slots: make(chan struct{}, maxConcurrent)}
	ds.tokens, _ = simplelru.NewLRU[delegationKey, delegatedToken](maxDelegatedTokens, nil) // the size is positive
	ds.refused, _ = simplelru.NewLRU[delegationKey, refusal](maxRefusals, nil)
	return ds
}

// begin waits until an exchange may begin. The error is ErrTooManyDelegations, or ErrBusy if ctx ends first.
func (ds *delegations) begin(ctx context.Context) (done func(), err error) {
	select {
	case ds.queue <- struct{}{}:
	default:
		return nil, ErrTooManyDelegations
	}
	select {
	case ds.slots <- struct{}{}:
		return func() { <-ds.slots; <-ds.queue }, nil
	case <-ctx.Done():
		<-ds.queue
		return nil, ErrBusy
	}
}

// token returns the cached token of a request that can be leased now, and when the first of the caller's tokens
// expires (zero if unknown); nil if there is none, or if one of the caller's tokens has expired.
func (ds *delegations) token(key delegationKey, now time.Time) (token *provider.Token, until time.Time) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	cached, has := ds.tokens.Get(key)
	switch {
	case !has:
		return nil, until
	case leaseTTL(cached.At(now), now) == 0, !cached.until.IsZero() && !now.Before(cached.until):
		ds.tokens.Remove(key)
		return nil, until
	}
	return &cached.Token, cached.until
}

// put caches a token until it, or one of the caller's tokens, expires.
func (ds *delegations) put(key delegationKey, t provider.Token, r provider.DelegateRequest) {
	if len(t.AccessToken) > maxCachedToken {
		return
	}
	cached := delegatedToken{Token: t}
	for _, given := range r.Secrets() {
		if expires := provider.JWTExpiry(given); !expires.IsZero() && (cached.until.IsZero() || expires.Before(cached.until)) {
			cached.until = expires
		}
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.tokens.Add(key, cached)
	ds.refused.Remove(key)
}

// has reports whether a token is served for a key.
func (ds *delegations) has(key delegationKey, accessToken string) bool {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	cached, has := ds.tokens.Peek(key)
	return has && cached.AccessToken == accessToken
}

// drop removes a token.
func (ds *delegations) drop(accessToken string) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, key := range ds.tokens.Keys() {
		if cached, has := ds.tokens.Peek(key); has && cached.AccessToken == accessToken {
			ds.tokens.Remove(key)
		}
	}
}

// refusal returns why the vendor refused a request recently; nil if it did not.
func (ds *delegations) refusal(key delegationKey, now time.Time) error {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	last, has := ds.refused.Get(key)
	if !has || !now.Before(last.until) || last.until.Sub(now) > refusalTime { // the clock may be stepped back
		return nil
	}
	return last.RefusedError
}

// refuse records that the vendor refused a request. The caller gets no older token either.
func (ds *delegations) refuse(key delegationKey, err *RefusedError, now time.Time) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.tokens.Remove(key)
	ds.refused.Add(key, refusal{err, now.Add(refusalTime)})
}

// A delegationHealth is the success of exchanges for callers. It is not stored.
type delegationHealth struct {
	count   int       // of successful exchanges
	time    time.Time // of the last one
	failure Failure   // the last that does not concern only its caller
}

// noteDelegated records the result of an exchange for a caller. It returns the failure, and whether it is the
// first that shows that the credential is rejected.
func (r *record) noteDelegated(epoch uint64, err *provider.Error, now time.Time) (failure Failure, isNews bool) {
	if err != nil {
		failure = Failure{Kind: err.Kind, Reason: err.Reason, Time: now.Round(0).UTC()}
	}
	_, _ = r.update(epoch, func(snap *snapshot) { // if the credential has changed, its health begins again
		last := snap.delegated.failure
		if err == nil {
			snap.delegated.count++
			snap.delegated.time = now.Round(0).UTC()
			last.Count, last.NextAttempt, last.AfterFinal = 0, time.Time{}, false
			snap.delegated.failure = last
			return
		}
		failure.countAfter(last, err)
		isNews = failure.isFinal() && !last.isFinal()
		snap.delegated.failure = failure
	})
	return failure, isNews
}

// delegationBackOff returns why no caller's token is exchanged now; nil if one can be. A rejected refresh token
// of the credential does not matter here.
func (snap snapshot) delegationBackOff(now time.Time) error {
	v := snap.of(ownScope)
	if failure := snap.delegated.failure.asOf(now); now.Before(failure.NextAttempt) {
		return v.readError(failure)
	}
	own := snap.state.Failure.asOf(now)
	if concerns := own.Kind == provider.Unavailable || own.AboutClient; concerns && now.Before(own.NextAttempt) {
		return v.readError(own)
	}
	return nil
}
