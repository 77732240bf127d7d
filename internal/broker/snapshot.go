package broker

import (
	"context"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A presence is whether a name is in storage and in memory, as far as is known.
type presence int

const (
	// absent means that the name is not in storage, or nothing is known of it.
	absent presence = iota
	// unloaded means that the name is in storage and has not been read.
	unloaded
	// loaded means that the credential and the state are in memory.
	loaded
	// unusable means that the name is in storage, and its credential cannot be opened.
	unusable
)

// A snapshot is what is cached of a name. Nothing that it points to changes.
type snapshot struct {
	// epoch counts the changes of the credential.
	epoch uint64

	presence presence

	// credential and state are what readers see, and are in storage; nil unless loaded.
	credential *Credential
	state      *State

	// unsaved is what storage does not have yet; nil if it has everything. isAhead is whether storage does not have the
	// last failure either.
	unsaved *unsavedState
	isAhead bool

	// roleFailures are the failures that count only against a dedicated role, by role.
	roleFailures map[string]Failure

	// delegated is the health of the exchanges for callers.
	delegated delegationHealth

	// early limits the exchanges that readers cause with min_ttl, by scope. Each exchange moves the
	// time forward by earlySpacing.
	early map[string]time.Time

	// panicPause is the end of the pause after a panic; zero if there was none since the name was
	// loaded.
	panicPause time.Time

	// previousTokens are the tokens from before the last change of the credential, by scope. A
	// vendor may return them again, and max_ttl runs from their first issue. It is nil without
	// max_ttl.
	previousTokens map[string]provider.Token

	// loggedSkew is the difference of the vendor's clock that was last logged.
	loggedSkew time.Duration
}

// latestState returns the latest state of the credential, stored or not; nil if it is unknown.
func (snap snapshot) latestState() *State {
	if snap.unsaved != nil {
		return snap.unsaved.state
	}
	return snap.state
}

// replacedTokens returns the previousTokens that follow a change of the credential.
func (snap snapshot) replacedTokens() map[string]provider.Token {
	if snap.credential == nil || snap.credential.TTL.Max == 0 {
		return nil
	}
	return snap.latestState().Tokens
}

// redacting returns a context in which no error of a vendor quotes a secret of the name.
func (snap snapshot) redacting(ctx context.Context) context.Context {
	return redacting(ctx, snap.credential, snap.latestState())
}

// A scopeSnapshot is a snapshot from the viewpoint of one scope.
type scopeSnapshot struct {
	snapshot
	scope string
}

// of returns the snapshot of a scope. The name must be loaded.
func (snap snapshot) of(scope string) scopeSnapshot {
	if snap.credential.Scope != "" {
		if rest, isWhole := strings.CutPrefix(scope, snap.credential.Scope); isWhole && (rest == "" || rest[0] == '\n') {
			scope = rest // the credential's whole scope is that of a narrowing without one
		}
	}
	return scopeSnapshot{snapshot: snap, scope: scope}
}

// withSnapshot returns another snapshot of the same scope.
func (v scopeSnapshot) withSnapshot(snap snapshot) scopeSnapshot {
	return scopeSnapshot{snapshot: snap, scope: v.scope}
}

// token returns the token to serve. It is the zero Token if an unsaved exchange has invalidated it.
func (v scopeSnapshot) token() provider.Token {
	token := v.state.Tokens[v.scope]
	if v.unsaved != nil && v.unsaved.state.invalidates(v.scope, token) {
		return provider.Token{}
	}
	return token
}

// lastFailure returns the last failed exchange that concerns the scope, as of now.
func (v scopeSnapshot) lastFailure(now time.Time) Failure {
	scopeFailure, failure := v.state.ScopeFailures[v.scope].asOf(now), v.state.Failure.asOf(now)
	if scopeFailure.NextAttempt.After(failure.NextAttempt) {
		return scopeFailure
	}
	return failure
}

// nextAttempt returns when the next exchange, or the next write of its result, is possible.
func (v scopeSnapshot) nextAttempt(now time.Time) time.Time {
	next := v.lastFailure(now).NextAttempt
	if w := v.unsaved.writeFor(v.scope); w != nil {
		next = maxTime(next, w.retryTime)
	}
	return next
}

// backingOff reports whether no exchange is possible now.
func (v scopeSnapshot) backingOff(now time.Time) bool { return now.Before(v.nextAttempt(now)) }

// backOffError returns why a reader gets no token while the engine is backing off.
func (v scopeSnapshot) backOffError() error {
	if w := v.unsaved.writeFor(v.scope); w != nil {
		return w.err
	}
	return v.readError(v.lastFailure(time.Now()))
}

// readError returns a failure as an error for readers.
func (v scopeSnapshot) readError(failure Failure) error {
	path := v.credential.Path
	if failure.AboutClient && v.credential.Client != "" {
		path = apipath.Client(v.credential.Client)
	}
	return &ExchangeError{
		Path:        path,
		Scope:       v.scope,
		IsVariant:   v.credential.Narrowing != "",
		Err:         &provider.Error{Kind: failure.Kind, Reason: failure.Reason, MayBeScope: failure.MayBeScope, Widened: failure.Widened},
		NextAttempt: failure.NextAttempt,
	}
}

// expiredMeanwhile returns the error for a reader whose token expired right after the exchange.
func (v scopeSnapshot) expiredMeanwhile(now time.Time) error {
	return &ExchangeError{
		Path: v.credential.Path, Scope: v.scope, NextAttempt: now,
		Err: provider.Errorf(provider.Unavailable, "the token expired while it was being stored"),
	}
}

// fresh returns the cached token for a reader; nil if a reader must wait for a renewal, or if there
// is no valid token.
func (v scopeSnapshot) fresh(now time.Time, minTTL time.Duration) *IssuedToken {
	if act, _ := v.decide(demand{}, now); act == renewNow || act == fail {
		return nil
	}
	return v.issued(now, minTTL)
}

// issued returns the cached token for a reader; nil if there is no valid one.
func (v scopeSnapshot) issued(now time.Time, minTTL time.Duration) *IssuedToken {
	token := v.token().At(now)
	ttl := leaseTTL(token, now)
	if ttl == 0 {
		return nil
	}
	_, newer := v.decide(demand{}, now)
	issued := &IssuedToken{Token: token, Vendor: v.credential.VendorName, API: v.credential.API, TTL: ttl, Reread: rereadTTL(token, newer, now)}
	return issued.withWarnings(v, now, minTTL)
}
