package credential

import (
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

// A ConsentError is why a browser's return yields no token.
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
		if err := putConsent(ctx, s, name, ended); err != nil {
			return "", err
		}
		return "", &ConsentError{Reason: ReasonRefused, Name: name, Err: errors.New(ended.Error)}
	}
	return name, st.connect(ctx, s, name, c, func(ctx context.Context, consent provider.Consent) (*provider.Answer, provider.Person, error) {
		return consent.Redeem(ctx, c.request(""), a.Code, a.Issuer)
	})
}

// attemptOf returns the attempt that the state parameter of a browser's return belongs to.
func (st *Store) attemptOf(ctx context.Context, s logical.Storage, name string, a ConsentAnswer) (*Consent, error) {
	c, err := st.readConsent(ctx, s, name)
	switch {
	case storage.IsError(err):
		return nil, err
	case err != nil || c == nil || c.Device != nil || subtle.ConstantTimeCompare(c.Digest, digestOf(a.State)) != 1:
		return nil, &ConsentError{Reason: ReasonUnknown}
	}
	return c, nil
}

// end returns an attempt that has ended, without what its exchange needs.
func (c *Consent) end(state ConsentState, reason string) *Consent {
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

// connect stores a credential with the refresh token that yield returns. Before that, the attempt is used up,
// so that its code is exchanged at most once.
func (st *Store) connect(ctx context.Context, s logical.Storage, name string, c *Consent, yield yieldFunc) error {
	busy := func(err error) error {
		if storage.IsError(err) {
			return err
		}
		return &ConsentError{Reason: ReasonBusy, Name: name}
	}
	ctx, changes, err := st.beginWrites(ctx, s, name)
	if err != nil {
		return busy(err)
	}
	defer changes.End()
	stored, consent, unlock, err := st.lockedConsentOf(ctx, s, name)
	if storage.IsError(err) {
		return err
	}
	defer unlock()
	failed := func(reason ConsentReason, err error) error {
		if putErr := putConsent(ctx, s, name, c.end(ConsentFailed, err.Error())); putErr != nil {
			st.Logger().Warn("cannot store the end of a consent", "name", name, "error", putErr)
		}
		return &ConsentError{Reason: reason, Name: name, Err: err}
	}
	switch {
	case errors.Is(err, broker.ErrUnknown):
		return &ConsentError{Reason: ReasonUnknown}
	case err == nil && stored.Generation != c.Generation:
		return failed(ReasonChanged, errors.New("the credential was changed since the consent began"))
	case err != nil:
		return failed(ReasonFailed, err)
	}
	credential, err := st.open(stored)
	if err == nil {
		credential.Generation, err = newGeneration()
	}
	if err != nil {
		return failed(ReasonFailed, err)
	}
	if err := putConsent(ctx, s, name, c.end(ConsentFailed, "the engine stopped while it exchanged the code")); err != nil {
		return err
	}
	exchange := &consentExchange{Credential: credential.Vendor, consent: consent, yield: yield}
	credential.Vendor = exchange
	state, err := changes.Of(name).Verify(ctx, credential, provider.Grant{})
	if err != nil {
		return failed(ReasonFailed, err)
	}
	kept := &keptConsent{
		generation: credential.Generation, of: stored.Generation, refreshToken: exchange.refreshToken, verified: state,
		attempt: c.end(ConsentConnected, ""),
		consented: &Consented{
			TokenDigest: digestOf(exchange.refreshToken), Time: wallTime(), Claims: claimsOf(exchange.person, c.ClaimNames), Scope: state.GrantedScope(),
		},
	}
	return st.saveConsent(ctx, s, changes.Of(name), stored, kept)
}

// beginWrites is BeginWrites of the broker, whose context is that of the caller if it fails.
func (st *Store) beginWrites(ctx context.Context, s logical.Storage, name string) (context.Context, *broker.Changes, error) {
	next, changes, err := st.broker.BeginWrites(ctx, s, name)
	if err != nil {
		return ctx, nil, err
	}
	return next, changes, nil
}

// lockedConsentOf is consentOf with the lock of the credential's key pair.
func (st *Store) lockedConsentOf(ctx context.Context, s logical.Storage, name string) (*storedCredential, provider.Consent, func(), error) {
	stored, _, err := st.consentOf(ctx, s, name)
	if err != nil {
		return nil, nil, func() {}, err
	}
	unlock, err := st.lockKeypair(ctx, stored.keypairName())
	if err != nil {
		return nil, nil, func() {}, err
	}
	stored, consent, err := st.consentOf(ctx, s, name)
	return stored, consent, unlock, err
}

// A yieldFunc returns the answer to a consent, and who has consented.
type yieldFunc func(ctx context.Context, consent provider.Consent) (*provider.Answer, provider.Person, error)

// A consentExchange is a credential whose exchange is that of a consent.
type consentExchange struct {
	provider.Credential
	consent provider.Consent
	yield   yieldFunc

	refreshToken string
	person       provider.Person
}

// Exchange implements provider.Credential.
func (x *consentExchange) Exchange(ctx context.Context, _ provider.Grant) (*provider.Answer, error) {
	answer, person, err := x.yield(ctx, x.consent)
	if err != nil {
		return nil, err
	}
	x.refreshToken, x.person = answer.RefreshToken, person
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
