package credential

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// consentLifetime is how long a person may take to consent.
const consentLifetime = 10 * time.Minute

// A ConsentState is how far the consent to a credential has come.
type ConsentState string

// The states of a consent.
const (
	ConsentPending   ConsentState = "pending"
	ConsentConnected ConsentState = "connected"
	ConsentRefused   ConsentState = "refused" // by the person or the vendor
	ConsentFailed    ConsentState = "failed"  // the code could not be exchanged
	ConsentUnsaved   ConsentState = "unsaved" // storage has not accepted the refresh token yet
	ConsentExpired   ConsentState = "expired"
)

// A ConsentAttempt is the latest attempt to get a consent to a credential. There is one entry for each credential,
// however often a consent is begun. Who has consented is in the credential's own entry (Consented).
type ConsentAttempt struct {
	storage.Format

	State ConsentState `json:"state"`

	// Digest is the SHA-256 of the state parameter, which only the person's browser has. Used is whether a
	// browser has returned with it.
	Digest []byte `json:"digest"`
	Used   bool   `json:"used,omitempty"`

	// Generation is the credential's when the consent began. A credential that was changed since needs
	// another consent.
	Generation string `json:"generation"`

	// SentTo are the destinations of the credential's secrets then. The code, and the refresh token that it
	// yields, go nowhere else. (Guarantee 13.)
	SentTo Destinations `json:"sent_to,omitempty"`

	RedirectURI  string    `json:"redirect_uri,omitempty"`
	CodeVerifier string    `json:"code_verifier,omitempty"` // until the code is exchanged
	Nonce        string    `json:"nonce,omitempty"`
	ExpireTime   time.Time `json:"expire_time"`

	// Device is the consent on another device; nil for one in a browser that returns to callback.
	Device *DeviceCode `json:"device,omitempty"`

	// ClaimNames are the claims of the ID token to keep.
	ClaimNames []string `json:"claim_names,omitempty"`

	// Time is when the attempt ended, and Error why it yielded nothing.
	Time  time.Time `json:"time,omitzero"`
	Error string    `json:"error,omitempty"`
}

// A Consented is a consent that yielded the refresh token of a credential.
type Consented struct {
	// TokenDigest is the SHA-256 of the refresh token, so that the consent does not count for another one.
	TokenDigest []byte `json:"token_digest"`

	// Attempt is the digest of the attempt. Storage may not have accepted the end of that attempt.
	Attempt []byte `json:"attempt"`

	Time   time.Time                  `json:"time"`
	Claims map[string]json.RawMessage `json:"claims,omitempty"`
	Scope  []string                   `json:"scope,omitempty"`
}

// consented returns the consent that yielded the refresh token in use; nil if there was none.
func (e *Entry) consented() *Consented {
	if e.Consented == nil || subtle.ConstantTimeCompare(e.Consented.TokenDigest, digestOf(e.text("refresh_token"))) != 1 {
		return nil
	}
	return e.Consented
}

// Check implements storage.Entry.
func (c *ConsentAttempt) Check() error {
	if c.State == "" || len(c.Digest) != sha256.Size || c.Generation == "" {
		return errors.New("consent without a state, digest or generation")
	}
	return nil
}

const repairConsent = "begin another consent"

// readAttempt returns the latest attempt; nil if there was none.
func (st *Store) readAttempt(ctx context.Context, s logical.Storage, name string) (*ConsentAttempt, error) {
	c, err := storage.Get[ConsentAttempt](ctx, s, storage.ConsentKey(name), repairConsent)
	if c != nil && c.State == ConsentPending && !time.Now().Before(c.ExpireTime) {
		c.State = ConsentExpired
	}
	return c, err
}

// A ConsentStatus is what is known of the consents to a credential.
type ConsentStatus struct {
	// State is that of the latest attempt, unless a later consent yielded the refresh token; "" if there was
	// neither.
	State     ConsentState
	Attempt   *ConsentAttempt // nil if there was none, or if it ended before Consented
	Consented *Consented      // nil if the refresh token in use is not of a consent
	Error     string
}

// ReadConsent returns what is known of the consents to a credential. A damaged attempt counts as none.
func (st *Store) ReadConsent(ctx context.Context, s logical.Storage, name string) (ConsentStatus, error) {
	var status ConsentStatus
	stored, _, err := st.consentOf(ctx, s, name)
	switch {
	case storage.IsError(err):
		return status, err
	case err == nil:
		status.Consented = stored.consented()
	}
	c, err := st.readAttempt(ctx, s, name)
	if storage.IsError(err) {
		return status, err
	}
	if kept := st.keptConsents.get(name); kept != nil {
		status.State, status.Attempt, status.Error = ConsentUnsaved, c, kept.reason()
		return status, nil
	}
	switch {
	case c != nil && !c.isOver(stored, status.Consented):
		status.State, status.Attempt, status.Error = c.State, c, c.Error
	case status.Consented != nil:
		status.State = ConsentConnected
	}
	return status, nil
}

// isOver reports whether an attempt says nothing about the credential any more: it has yielded a refresh token, a
// later one has, or it is for a credential that was changed since. stored is nil if the credential cannot be
// opened.
func (c *ConsentAttempt) isOver(stored *storedCredential, in *Consented) bool {
	switch {
	case c.State == ConsentConnected || in != nil && bytes.Equal(in.Attempt, c.Digest):
		return true
	case c.State == ConsentPending:
		return stored != nil && stored.Generation != c.Generation
	}
	return in != nil && !c.ended().After(in.Time)
}

// ended returns when an attempt ended.
func (c *ConsentAttempt) ended() time.Time {
	if c.Time.IsZero() {
		return c.ExpireTime
	}
	return c.Time
}

func putAttempt(ctx context.Context, s logical.Storage, name string, c *ConsentAttempt) error {
	return storage.Retry(ctx, func() error { return storage.Put(ctx, s, storage.ConsentKey(name), c) })
}

// A ConsentStart is what a person needs to consent.
type ConsentStart struct {
	URL        string
	ExpireTime time.Time
}

// StartConsent begins a consent to a credential. It ends a pending one. claims are the claims of the ID
// token to keep. Its errors are broker.ErrUnknown, broker.ErrBusy, *provider.Error and *storage.Error.
func (st *Store) StartConsent(ctx context.Context, s logical.Storage, name string, claims []string) (*ConsentStart, error) {
	stored, consent, unlock, err := st.beginConsent(ctx, s, name, claims)
	if err != nil {
		return nil, err
	}
	defer unlock()
	redirectURI := stored.setting("redirect_uri")
	if redirectURI == "" {
		return nil, provider.Errorf(provider.Invalid, "redirect_uri: must be set in %s: %s", stored.path(), provider.RedirectURIDescription)
	}
	secret := rand.Text() + rand.Text() // 256 bits
	state := secret + "." + base64.RawURLEncoding.EncodeToString([]byte(name))
	c := &ConsentAttempt{
		State: ConsentPending, Digest: digestOf(state), Generation: stored.Generation, SentTo: stored.to, RedirectURI: redirectURI,
		CodeVerifier: rand.Text() + rand.Text(), Nonce: rand.Text(), ExpireTime: wallTime().Add(consentLifetime), ClaimNames: claims,
	}
	to, err := consent.URL(ctx, c.request(state))
	if err != nil {
		return nil, err
	}
	if err := putAttempt(ctx, s, name, c); err != nil {
		return nil, err
	}
	return &ConsentStart{URL: to, ExpireTime: c.ExpireTime}, nil
}

// maxClaims is the number of claims that are kept.
const maxClaims = 20

// beginConsent checks that a consent to a credential can begin, and locks it. The caller must call unlock, unless
// there is an error.
func (st *Store) beginConsent(ctx context.Context, s logical.Storage, name string, claims []string) (stored *storedCredential, consent provider.Consent, unlock func(), err error) {
	if unlock, err = st.broker.Lock(ctx, storage.ConsentKey(name)); err != nil {
		return nil, nil, nil, err
	}
	if st.keptConsents.get(name) != nil {
		err = st.saveKept(ctx, s, name, nil)
	}
	if st.keptConsents.get(name) == nil { // otherwise another consent would lose its refresh token
		stored, consent, err = st.consentOf(ctx, s, name)
	}
	if err == nil {
		err = checkClaims(claims, consent)
	}
	if err != nil {
		unlock()
		return nil, nil, nil, err
	}
	return stored, consent, unlock, nil
}

func checkClaims(names []string, consent provider.Consent) error {
	switch {
	case len(names) > 0 && !consent.IdentifiesPerson():
		return provider.Errorf(provider.Invalid, "claims: the vendor does not say who has consented; omit claims, or set an issuer and request the scope openid")
	case len(names) > maxClaims || slices.ContainsFunc(names, func(name string) bool { return len(name) > maxClaim }):
		return provider.Errorf(provider.Invalid, "claims: give at most %d names of at most %d bytes", maxClaims, maxClaim)
	}
	return nil
}

func digestOf(state string) []byte {
	sum := sha256.Sum256([]byte(state))
	return sum[:]
}

func (c *ConsentAttempt) request(state string) provider.ConsentRequest {
	return provider.ConsentRequest{State: state, RedirectURI: c.RedirectURI, CodeVerifier: c.CodeVerifier, Nonce: c.Nonce}
}

// consentOf returns a stored credential and how a person consents to it.
func (st *Store) consentOf(ctx context.Context, s logical.Storage, name string) (*storedCredential, provider.Consent, error) {
	vendor, err := st.VendorOf(ctx, s, name)
	if err != nil {
		return nil, nil, err
	}
	if vendor == "" {
		return nil, nil, broker.ErrUnknown
	}
	p, err := st.vendorFor(ctx, s, vendor)
	if err != nil {
		return nil, nil, err
	}
	stored, err := st.get(ctx, s, p, name)
	if err != nil {
		return nil, nil, err
	}
	if stored == nil { // deleted meanwhile
		return nil, nil, broker.ErrUnknown
	}
	credential, err := st.open(stored)
	if err != nil {
		return nil, nil, err
	}
	stored.to = credential.SentTo
	consent := consentOfClient(credential)
	if consent == nil {
		return nil, nil, provider.Errorf(provider.Invalid, "no consent can yield the token of %s; set its grant_type=refresh_token, and for oauth2 an issuer or authorization_url; or choose a vendor with an authorization endpoint", stored.path())
	}
	return stored, consent, nil
}

// RequiresConsent reports whether a person must consent before a stored credential can be exchanged. Its
// error is broker.ErrUnknown if there is none.
func (st *Store) RequiresConsent(ctx context.Context, s logical.Storage, name string) (bool, error) {
	credential, err := st.Credential(ctx, s, name)
	if err == nil && credential == nil {
		err = broker.ErrUnknown
	}
	return err == nil && needsConsent(credential), err
}

// cannotVerify reports whether nothing can be exchanged with the credential itself: a person must consent first,
// it only exchanges the tokens of callers, or it leaves a field to roles.
func cannotVerify(c *broker.Credential) bool {
	return needsConsent(c) || provider.OnlyDelegates(c.Vendor) || provider.LackOf(c.Vendor) != ""
}

// needsConsent reports whether a person must consent before the credential can be exchanged.
func needsConsent(c *broker.Credential) bool {
	consent := provider.ConsentOf(c.Vendor)
	return consent != nil && consent.IsMissing()
}
