package credential

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
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
	ConsentFailed    ConsentState = "failed"  // the code could not be exchanged, or its result not be stored
	ConsentExpired   ConsentState = "expired"
)

// A Consent is the latest consent to a credential in storage. There is one entry for each credential,
// however often a consent is begun.
type Consent struct {
	storage.Format

	State ConsentState `json:"state"`

	// Digest is the SHA-256 of the state parameter, which only the person's browser has. Used is whether a
	// browser has returned with it.
	Digest []byte `json:"digest"`
	Used   bool   `json:"used,omitempty"`

	// Generation is the credential's when the consent began. A credential that was changed since needs
	// another consent.
	Generation string `json:"generation"`

	RedirectURI  string    `json:"redirect_uri,omitempty"`
	CodeVerifier string    `json:"code_verifier,omitempty"` // until the code is exchanged
	Nonce        string    `json:"nonce,omitempty"`
	ExpireTime   time.Time `json:"expire_time"`

	// Device is the consent on another device; nil for one in a browser that returns to callback.
	Device *DeviceCode `json:"device,omitempty"`

	// ClaimNames are the claims of the ID token to keep.
	ClaimNames []string `json:"claim_names,omitempty"`

	// Time is when the consent ended. Claims say who has consented, and Scope to what.
	Time   time.Time      `json:"time,omitzero"`
	Claims map[string]any `json:"claims,omitempty"`
	Scope  []string       `json:"scope,omitempty"`
	Error  string         `json:"error,omitempty"`
}

// Check implements storage.Entry.
func (c *Consent) Check() error {
	if c.State == "" || len(c.Digest) != sha256.Size || c.Generation == "" {
		return errors.New("consent without a state, digest or generation")
	}
	return nil
}

const repairConsent = "begin another consent"

// ReadConsent returns the latest consent to a credential; nil if there was none.
func (st *Store) ReadConsent(ctx context.Context, s logical.Storage, name string) (*Consent, error) {
	c, err := storage.Get[Consent](ctx, s, storage.ConsentKey(name), repairConsent)
	if c != nil && c.State == ConsentPending && !time.Now().Before(c.ExpireTime) {
		c.State = ConsentExpired
	}
	return c, err
}

func putConsent(ctx context.Context, s logical.Storage, name string, c *Consent) error {
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
	unlock, err := st.broker.Lock(ctx, storage.ConsentKey(name))
	if err != nil {
		return nil, err
	}
	defer unlock()
	stored, consent, err := st.consentOf(ctx, s, name)
	if err != nil {
		return nil, err
	}
	redirectURI := stored.text("redirect_uri")
	if redirectURI == "" {
		return nil, provider.Errorf(provider.Invalid, "redirect_uri: must be set in %s: %s", stored.path(), provider.RedirectURIDescription)
	}
	secret := rand.Text() + rand.Text() // 256 bits
	state := secret + "." + base64.RawURLEncoding.EncodeToString([]byte(name))
	c := &Consent{
		State: ConsentPending, Digest: digestOf(state), Generation: stored.Generation, RedirectURI: redirectURI,
		CodeVerifier: rand.Text() + rand.Text(), Nonce: rand.Text(), ExpireTime: wallTime().Add(consentLifetime), ClaimNames: claims,
	}
	to, err := consent.URL(ctx, c.request(state))
	if err != nil {
		return nil, err
	}
	if err := putConsent(ctx, s, name, c); err != nil {
		return nil, err
	}
	return &ConsentStart{URL: to, ExpireTime: c.ExpireTime}, nil
}

func digestOf(state string) []byte {
	sum := sha256.Sum256([]byte(state))
	return sum[:]
}

func (c *Consent) request(state string) provider.ConsentRequest {
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
	consent := provider.ConsentOf(credential.Vendor)
	if consent == nil {
		return nil, nil, provider.Errorf(provider.Invalid, "name: no consent can yield the token of %s; the vendor has no authorization endpoint, or its grant_type is not refresh_token", stored.path())
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

// needsConsent reports whether a person must consent before the credential can be exchanged.
func needsConsent(c *broker.Credential) bool {
	consent := provider.ConsentOf(c.Vendor)
	return consent != nil && consent.IsMissing()
}

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
	unlock, err := st.broker.Lock(ctx, storage.ConsentKey(name))
	if err != nil {
		return "", err
	}
	defer unlock()
	c, err := st.ReadConsent(ctx, s, name)
	switch {
	case storage.IsError(err):
		return "", err
	case err != nil || c == nil || c.Device != nil || subtle.ConstantTimeCompare(c.Digest, digestOf(a.State)) != 1:
		return "", &ConsentError{Reason: ReasonUnknown}
	case c.Used:
		return name, st.saveKept(ctx, s, name, c)
	case c.State != ConsentPending:
		return "", &ConsentError{Reason: ReasonExpired, Name: name}
	}
	used := *c
	used.Used, used.CodeVerifier, used.Nonce = true, "", ""
	if a.Code == "" {
		used.State, used.Time, used.Error = ConsentRefused, wallTime(), refusal(a)
		if err := putConsent(ctx, s, name, &used); err != nil {
			return "", err
		}
		return "", &ConsentError{Reason: ReasonRefused, Name: name, Err: errors.New(used.Error)}
	}
	// The code is used up before it is exchanged, so that it is exchanged at most once.
	used.State, used.Error = ConsentFailed, "the engine stopped while it exchanged the code"
	if err := putConsent(ctx, s, name, &used); err != nil {
		return "", err
	}
	return name, st.redeem(ctx, s, name, c, used, a)
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

// redeem exchanges the code of a consent, and stores the credential with the refresh token.
func (st *Store) redeem(ctx context.Context, s logical.Storage, name string, c *Consent, used Consent, a ConsentAnswer) error {
	return st.connect(ctx, s, name, c, used, func(ctx context.Context, consent provider.Consent) (*provider.Answer, provider.Person, error) {
		return consent.Redeem(ctx, c.request(""), a.Code, a.Issuer)
	})
}

// connect stores a credential with the refresh token that yield returns. ended is the consent as it has
// ended, but for the result.
func (st *Store) connect(ctx context.Context, s logical.Storage, name string, c *Consent, ended Consent, yield yieldFunc) error {
	failed := func(reason ConsentReason, err error) error {
		ended.State, ended.Time, ended.Error = ConsentFailed, wallTime(), err.Error()
		if putErr := putConsent(context.WithoutCancel(ctx), s, name, &ended); putErr != nil {
			st.Logger().Warn("cannot store the end of a consent", "name", name, "error", putErr)
		}
		return &ConsentError{Reason: reason, Name: name, Err: err}
	}
	ctx, changes, err := st.broker.BeginWrites(ctx, s, name)
	if err != nil {
		return failed(ReasonFailed, err)
	}
	defer changes.End()
	change := changes.Of(name)
	stored, consent, err := st.consentOf(ctx, s, name)
	switch {
	case errors.Is(err, broker.ErrUnknown), err == nil && stored.Generation != c.Generation:
		return failed(ReasonChanged, errors.New("the credential was changed or deleted since the consent began"))
	case err != nil:
		return failed(ReasonFailed, err)
	}
	credential, err := st.open(stored)
	if err != nil {
		return failed(ReasonFailed, err)
	}
	if credential.Generation, err = newGeneration(); err != nil {
		return failed(ReasonFailed, err)
	}
	exchange := &consentExchange{Credential: credential.Vendor, consent: consent, yield: yield}
	credential.Vendor = exchange
	state, err := change.Verify(ctx, credential, provider.Grant{})
	if err != nil {
		return failed(ReasonFailed, err)
	}
	fields := maps.Clone(stored.Fields)
	fields["refresh_token"] = exchange.refreshToken
	next, opened, err := st.build(revision{vendor: stored.vendor, name: name, fields: fields, key: stored.key, generation: credential.Generation, time: wallTime()})
	if err != nil {
		return failed(ReasonFailed, err)
	}
	ended.State, ended.Time, ended.Error = ConsentConnected, wallTime(), ""
	ended.Generation, ended.Scope = credential.Generation, state.GrantedScope()
	ended.Claims = claimsOf(exchange.person, c.ClaimNames)
	planned := plannedWrite{replacement: replacement{stored: stored, known: stored.latestState(change.Known), next: next, credential: opened}}
	planned.replacement = planned.withVerified(state)
	return st.saveConsent(ctx, s, change, name, &keptConsent{planned: planned, consent: ended})
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

// maxClaim is the longest claim that is kept, in bytes.
const maxClaim = 500

// claimsOf returns the claims that the operator wants to see.
func claimsOf(person provider.Person, names []string) map[string]any {
	claims := map[string]any{}
	for _, name := range names {
		if value := fmt.Sprint(person[name]); person[name] != nil && len(value) <= maxClaim {
			claims[name] = value
		}
	}
	return claims
}
