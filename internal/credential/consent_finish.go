package credential

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A ConsentAnswer is what the browser has returned with.
type ConsentAnswer struct {
	State, Code, Issuer     string
	Error, ErrorDescription string // of the vendor (RFC 6749 §4.1.2.1)
}

// A ConsentError is why a person's consent yields no access token.
type ConsentError struct {
	Reason ConsentReason
	Name   string // of the credential; "" if it is unknown
	Err    error  // more about it, without secrets; nil if there is no more
}

// A ConsentReason is the kind of a ConsentError.
type ConsentReason string

// The reasons.
const (
	ReasonUnknown ConsentReason = "unknown" // no consent has this state
	ReasonUsed    ConsentReason = "used"    // a browser has returned with it before
	ReasonExpired ConsentReason = "expired" // the person took too long
	ReasonChanged ConsentReason = "changed" // the credential was changed or deleted since
	ReasonRefused ConsentReason = "refused" // by the person or the vendor
	ReasonFailed  ConsentReason = "failed"  // the vendor does not exchange the code
	ReasonUnsaved ConsentReason = "unsaved" // storage failed; the same URL can be tried again
	ReasonBusy    ConsentReason = "busy"    // nothing was begun; the same URL can be tried again

	// ReasonUnavailable means that the vendor is unavailable and has not considered the code; the same URL can
	// be tried again.
	ReasonUnavailable ConsentReason = "unavailable"

	// ReasonNoToken means that the refresh token is stored, but the vendor does not issue a usable access
	// token. No other consent is needed.
	ReasonNoToken ConsentReason = "no_token"
)

func (e *ConsentError) Error() string {
	if e.Err == nil {
		return string(e.Reason)
	}
	return string(e.Reason) + ": " + e.Err.Error()
}

func (e *ConsentError) Unwrap() error { return e.Err }

// NameOfState returns the name of the credential to which a state parameter belongs, if it does; "" if it
// cannot be one of this engine.
func NameOfState(state string) string {
	secret, encoded, _ := strings.Cut(state, ".")
	name, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || len(secret) != 2*26 || !apipath.IsName(string(name)) {
		return ""
	}
	return string(name)
}

// FinishConsent exchanges the code with which a browser has returned, and stores the refresh token. It
// returns the name of the credential. Its error is a *ConsentError, or of type *storage.Error if storage
// could not be read.
func (st *Store) FinishConsent(ctx context.Context, s logical.Storage, a ConsentAnswer) (string, error) {
	name := NameOfState(a.State)
	if name == "" {
		return "", &ConsentError{Reason: ReasonUnknown}
	}
	if _, err := st.attemptOf(ctx, s, name, a); err != nil { // a guess gets no lock
		return "", err
	}
	unlock, err := st.broker.Lock(ctx, storage.ConsentKey(name))
	if err != nil {
		return "", &ConsentError{Reason: ReasonBusy, Name: name}
	}
	defer unlock()
	c, err := st.attemptOf(ctx, s, name, a)
	switch {
	case err != nil:
		return "", err
	case c.Used:
		return name, st.saveKept(ctx, s, name, c)
	case c.State != ConsentPending:
		return "", &ConsentError{Reason: ReasonExpired, Name: name}
	case a.Code == "":
		ended := c.end(ConsentRefused, refusal(a))
		if err := putAttempt(ctx, s, name, ended); err != nil {
			return "", err
		}
		return "", &ConsentError{Reason: ReasonRefused, Name: name, Err: errors.New(ended.Error)}
	}
	return name, st.connect(ctx, s, name, c, a)
}

// attemptOf returns the attempt that the state parameter of a browser's return belongs to.
func (st *Store) attemptOf(ctx context.Context, s logical.Storage, name string, a ConsentAnswer) (*ConsentAttempt, error) {
	c, err := st.readAttempt(ctx, s, name)
	switch {
	case storage.IsError(err):
		return nil, err
	case err != nil || c == nil || c.Device != nil || subtle.ConstantTimeCompare(c.Digest, digestOf(a.State)) != 1:
		return nil, &ConsentError{Reason: ReasonUnknown}
	}
	return c, nil
}

// end returns an attempt that has ended, without what its exchange needs.
func (c *ConsentAttempt) end(state ConsentState, reason string) *ConsentAttempt {
	ended := *c
	ended.State, ended.Time, ended.Error, ended.Used, ended.CodeVerifier, ended.Nonce = state, wallTime(), reason, true, "", ""
	if c.Device != nil {
		ended.Device = c.Device.withoutCode()
	}
	return &ended
}

// refusal returns the vendor's reason, as the consent has it.
func refusal(a ConsentAnswer) string {
	text := a.Error
	if text == "" {
		text = "the vendor returned neither a code nor an error"
	}
	if a.ErrorDescription != "" {
		text += ": " + a.ErrorDescription
	}
	return fmt.Sprintf("%.300q", text)
}

// A connection is the change of a credential to the refresh token of a consent, in progress.
type connection struct {
	ctx     context.Context //nolint:containedctx // it does not end with the request, as the vendor's answer must be stored
	changes *broker.Changes
	unlock  func() // the key pair
	stored  *storedCredential
	consent provider.Consent
	isEnded bool
}

// end ends the change, unless that is done already.
func (n *connection) end() {
	if n.isEnded {
		return
	}
	n.isEnded = true
	n.unlock()
	n.changes.End()
}

// errChanged means that a consent is for a credential that is not stored any more as it was.
var errChanged = errors.New("the credential was changed or deleted since the consent began")

// errConnected means that a consent has yielded the refresh token of the credential already.
var errConnected = errors.New("the consent is connected")

// beginConnection begins the change of a credential by the attempt c. The caller must call end, unless there is
// an error: errChanged, errConnected, broker.ErrBusy or ErrClosed, of type *storage.Error, or that of a credential that
// cannot be opened.
func (st *Store) beginConnection(ctx context.Context, s logical.Storage, name string, c *ConsentAttempt) (*connection, error) {
	n, err := st.lockConnection(ctx, s, name)
	switch {
	case errors.Is(err, broker.ErrUnknown):
		return nil, errChanged
	case err != nil:
		return nil, err
	case n.stored.Generation != c.Generation:
		defer n.end()
		if in := n.stored.consented(); in != nil && bytes.Equal(in.Attempt, c.Digest) {
			return nil, errConnected
		}
		return nil, errChanged
	}
	return n, nil
}

// lockConnection is beginConnection for a credential as it is.
func (st *Store) lockConnection(ctx context.Context, s logical.Storage, name string) (*connection, error) {
	ctx, changes, err := st.broker.BeginWrites(ctx, s, name)
	if err != nil {
		return nil, err
	}
	n := &connection{ctx: ctx, changes: changes, unlock: func() {}}
	if n.stored, n.consent, err = st.consentOf(ctx, s, name); err == nil {
		var unlock func()
		if unlock, err = st.lockKeypair(ctx, n.stored.keypairName()); err == nil {
			n.unlock = unlock
			n.stored, n.consent, err = st.consentOf(ctx, s, name) // with the key as it is now
		}
	}
	if err != nil {
		n.end()
		return nil, err
	}
	return n, nil
}

// connect exchanges the code of a browser's return, and stores the credential with the refresh token. Before
// that, the attempt is used up, so that its code is exchanged at most once. Only if the vendor has certainly not
// considered the code, the attempt is pending again.
func (st *Store) connect(ctx context.Context, s logical.Storage, name string, c *ConsentAttempt, a ConsentAnswer) error {
	if err := st.isPaused(name); err != nil {
		return &ConsentError{Reason: ReasonUnavailable, Name: name, Err: err}
	}
	failed := func(ctx context.Context, reason ConsentReason, err error) error {
		st.putEnd(ctx, s, name, c.end(ConsentFailed, err.Error()))
		return &ConsentError{Reason: reason, Name: name, Err: err}
	}
	n, err := st.beginConnection(ctx, s, name, c)
	switch {
	case storage.IsError(err):
		return err
	case errors.Is(err, broker.ErrBusy) || errors.Is(err, broker.ErrClosed):
		return &ConsentError{Reason: ReasonBusy, Name: name}
	case errors.Is(err, errChanged):
		return failed(ctx, ReasonChanged, err)
	case err != nil:
		return failed(ctx, ReasonFailed, err)
	}
	defer n.end()
	if err := putAttempt(n.ctx, s, name, c.end(ConsentFailed, "the engine stopped while it exchanged the code")); err != nil {
		return err
	}
	err = st.complete(n, s, c, func(ctx context.Context) (*provider.Answer, provider.Person, error) {
		return n.consent.Redeem(ctx, c.request(""), a.Code, a.Issuer)
	})
	var ended *ConsentError
	if err == nil || errors.As(err, &ended) {
		return err
	}
	next, told := st.pauseAfter(name, err)
	if c.mayRetry(err, next) && putAttempt(n.ctx, s, name, c) == nil {
		return &ConsentError{Reason: ReasonUnavailable, Name: name, Err: told}
	}
	return failed(n.ctx, ReasonFailed, err)
}

// complete stores a credential with the refresh token that yield returns. Its error is a *ConsentError if the
// vendor has issued one. A refresh token that came without a usable access token is stored all the same, as
// another consent takes a person (guarantee 3). complete may end n.
func (st *Store) complete(n *connection, s logical.Storage, c *ConsentAttempt, yield yieldFunc) error {
	credential, err := st.open(n.stored)
	if err != nil {
		return err
	}
	if credential.Generation, err = newGeneration(); err != nil {
		return err
	}
	exchange := &consentExchange{Credential: credential.Vendor, yield: yield}
	credential.Vendor = exchange
	if credential.Former != nil { // the consent has it too, and either may be the one that is accepted
		credential.Former, credential.Version.Secrets = nil, ""
	}
	change := n.changes.Of(n.stored.name)
	state, unusable := change.Verify(n.ctx, credential, provider.Grant{})
	switch {
	case unusable != nil && exchange.refreshToken == "":
		return unusable
	case unusable != nil && !exchange.hasNoToken:
		state = state.WithFailure(unusable)
	}
	err = st.saveConsent(n.ctx, s, change, n.stored, &keptConsent{
		generation: credential.Generation, of: n.stored.Generation, refreshToken: exchange.refreshToken, verified: state,
		attempt: c.end(ConsentConnected, ""),
		consented: &Consented{
			TokenDigest: digestOf(exchange.refreshToken), Attempt: c.Digest, Time: wallTime(), Claims: claimsOf(exchange.person, c.ClaimNames), Scope: state.GrantedScope(),
		},
	})
	if err != nil || unusable == nil {
		return err
	}
	if exchange.hasNoToken {
		n.end()
		if _, unusable = st.broker.Read(context.WithoutCancel(n.ctx), s, n.stored.name, broker.ReadRequest{}); unusable == nil {
			return nil
		}
	}
	return &ConsentError{Reason: ReasonNoToken, Name: n.stored.name, Err: unusable}
}

// putEnd stores the end of an attempt. That of one that yielded nothing may be lost: it then expires.
func (st *Store) putEnd(ctx context.Context, s logical.Storage, name string, ended *ConsentAttempt) {
	if err := putAttempt(ctx, s, name, ended); err != nil {
		st.Logger().Warn("cannot store the end of a consent", "name", name, "error", err)
	}
}

// A yieldFunc returns the answer to a consent, and who has consented.
type yieldFunc func(ctx context.Context) (*provider.Answer, provider.Person, error)

// A consentExchange is a credential whose exchange is that of a consent, and which has no other way to a token.
type consentExchange struct {
	provider.Credential
	yield yieldFunc

	refreshToken string
	hasNoToken   bool // whether the vendor returned only a refresh token
	person       provider.Person
}

// Exchange implements provider.Credential.
func (x *consentExchange) Exchange(ctx context.Context, _ provider.Grant) (*provider.Answer, error) {
	answer, person, err := x.yield(ctx)
	if err != nil {
		return nil, err
	}
	x.refreshToken, x.hasNoToken, x.person = answer.RefreshToken, answer.Unusable != nil, person
	return answer, nil
}

// maxClaim is the longest claim that is kept, and the longest name of one, in bytes.
const maxClaim = 500

// claimsOf returns the claims that the operator wants to see.
func claimsOf(person provider.Person, names []string) map[string]json.RawMessage {
	claims := map[string]json.RawMessage{}
	for _, name := range names {
		if value := person[name]; len(value) > 0 && len(value) <= maxClaim {
			claims[name] = value
		}
	}
	return claims
}
