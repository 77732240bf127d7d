// Package subject verifies the tokens that callers give for an exchange, so that a role takes only those of one
// issuer and for its own audience. It knows neither paths nor storage.
package subject

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Bounds are what a role requires of a caller's token. The zero Bounds require nothing.
type Bounds struct {
	// Issuer is the iss of the token.
	Issuer string `json:"issuer,omitempty"`

	// Audiences has one of the token's audiences (aud); an empty list allows any.
	Audiences []string `json:"audiences,omitempty"`

	// KeysURL is where the issuer publishes its keys (RFC 7517); "" for the one in its metadata.
	KeysURL string `json:"keys_url,omitempty"`
}

// Check returns an error of kind Invalid for bounds that cannot be applied.
func (b Bounds) Check() error {
	switch {
	case b.Issuer == "" && len(b.Audiences) > 0:
		return provider.Errorf(provider.Invalid, "bound_audiences: requires bound_issuer, as nothing else proves the audience")
	case b.Issuer == "" && b.KeysURL != "":
		return provider.Errorf(provider.Invalid, "bound_jwks_url: requires bound_issuer")
	case b.Issuer == "":
		return nil
	}
	if err := provider.CheckURL("bound_issuer", b.Issuer); err != nil {
		return err
	}
	if b.KeysURL != "" {
		return provider.CheckURL("bound_jwks_url", b.KeysURL)
	}
	return nil
}

// A RefusedError means that a caller's token is outside the bounds. Its text has nothing of the token.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "the subject token " + e.Reason }

// algorithms are the signing algorithms of tokens. A shared secret cannot be published.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// A Verifier verifies tokens. It caches the keys of issuers, and is safe for concurrent use.
type Verifier struct {
	mu      sync.Mutex
	issuers *simplelru.LRU[source, *issuer]
}

// A source is where keys come from. Keys that one credential's client has read are not trusted for another, since
// its ca_cert may be other.
type source struct {
	client       *provider.Client
	name, keysAt string
}

// maxIssuers is the maximum number of sources whose keys are cached.
const maxIssuers = 500

// NewVerifier returns a Verifier without keys.
func NewVerifier() *Verifier {
	issuers, _ := simplelru.NewLRU[source, *issuer](maxIssuers, nil) // the size is positive
	return &Verifier{issuers: issuers}
}

// Verify returns nil if a token is within the bounds: a JWT whose issuer has signed it, and which has not expired.
// The errors are of type *RefusedError, or of type *provider.Error if the issuer's keys cannot be read.
func (v *Verifier) Verify(ctx context.Context, client *provider.Client, b Bounds, token string) error {
	if b.Issuer == "" {
		return nil
	}
	parsed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return &RefusedError{"is not a JWT that a public key can verify"}
	}
	var claims struct {
		Issuer   provider.Text  `json:"iss"`
		Audience provider.Texts `json:"aud"`
	}
	if json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &claims) != nil {
		return &RefusedError{"has no claims"}
	}
	switch {
	case string(claims.Issuer) != b.Issuer:
		return &RefusedError{"is from another issuer than the role's bound_issuer"}
	case len(b.Audiences) > 0 && !slices.ContainsFunc(claims.Audience, func(aud string) bool { return slices.Contains(b.Audiences, aud) }):
		return &RefusedError{"is for none of the role's bound_audiences"}
	}
	keys := &keySet{issuer: v.issuer(source{client, b.Issuer, b.KeysURL})}
	supported := make([]string, len(algorithms))
	for i, algorithm := range algorithms {
		supported[i] = string(algorithm)
	}
	_, err = oidc.NewVerifier(b.Issuer, keys, &oidc.Config{SkipClientIDCheck: true, SupportedSigningAlgs: supported}).Verify(ctx, token)
	var expired *oidc.TokenExpiredError
	switch {
	case err == nil:
		return nil
	case keys.failure != nil:
		return keys.failure
	case errors.As(err, &expired):
		return &RefusedError{"has expired, or has no exp"}
	case strings.Contains(err.Error(), "nbf"):
		return &RefusedError{"is not valid yet (nbf)"}
	}
	return &RefusedError{"is not signed with a key of the role's bound_issuer"}
}

func (v *Verifier) issuer(s source) *issuer {
	v.mu.Lock()
	defer v.mu.Unlock()
	if known, has := v.issuers.Get(s); has {
		return known
	}
	next := &issuer{source: s}
	v.issuers.Add(s, next)
	return next
}

// A keySet verifies one signature. It is an oidc.KeySet.
type keySet struct {
	issuer  *issuer
	failure error // why there are no keys
}

// VerifySignature verifies a JWT, with newer keys if the known ones do not fit.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	known, err := k.issuer.keys(ctx, keysAge)
	if err != nil {
		k.failure = err
		return nil, err
	}
	payload, err := (&oidc.StaticKeySet{PublicKeys: known}).VerifySignature(ctx, token)
	if err == nil {
		return payload, nil
	}
	newer, newerErr := k.issuer.keys(ctx, minKeysAge)
	if newerErr != nil {
		return nil, err
	}
	return (&oidc.StaticKeySet{PublicKeys: newer}).VerifySignature(ctx, token)
}

const (
	// keysAge is the age at which keys are read again, and minKeysAge that at which a token that they do not
	// fit has them read again. Keys that cannot be read again stay in use until maxKeysAge.
	keysAge    = time.Hour
	minKeysAge = time.Minute
	maxKeysAge = 24 * time.Hour

	// retryKeys is how long a failure to read keys counts.
	retryKeys = 5 * time.Second

	// keysTimeout bounds the reading of keys, which has up to two requests.
	keysTimeout = 30 * time.Second
)

// An issuer has the keys of an issuer.
type issuer struct {
	source
	flight singleflight.Group

	mu      sync.Mutex
	known   []crypto.PublicKey
	read    time.Time // when known was read
	tried   time.Time // when it was last tried without success
	failure error     // of that
}

// keys returns keys that are not older than an age, if they can be read.
func (i *issuer) keys(ctx context.Context, age time.Duration) ([]crypto.PublicKey, error) {
	i.mu.Lock()
	known, failure, now := i.known, i.failure, time.Now()
	since, sinceTried := now.Sub(i.read).Abs(), now.Sub(i.tried).Abs()
	i.mu.Unlock()
	isUsable := known != nil && since < maxKeysAge
	switch {
	case known != nil && since < age:
		return known, nil
	case failure != nil && sinceTried < retryKeys && isUsable:
		return known, nil
	case failure != nil && sinceTried < retryKeys:
		return nil, failure
	}
	done := i.flight.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysTimeout)
		defer cancel()
		keys, err := fetch(ctx, i.source)
		i.mu.Lock()
		defer i.mu.Unlock()
		i.failure = err
		if err != nil {
			i.tried = time.Now()
			return nil, err
		}
		i.known, i.read = keys, time.Now()
		return keys, nil
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case result := <-done:
		switch {
		case result.Err == nil:
			return result.Val.([]crypto.PublicKey), nil
		case isUsable:
			return known, nil
		}
		return nil, result.Err
	}
}

// fetch reads the keys of an issuer (OpenID Connect Discovery §4).
func fetch(ctx context.Context, s source) ([]crypto.PublicKey, error) {
	at := s.keysAt
	if at == "" {
		var metadata struct {
			Issuer provider.Text `json:"issuer"`
			Keys   provider.Text `json:"jwks_uri"`
		}
		if err := get(ctx, s.client, strings.TrimSuffix(s.name, "/")+"/.well-known/openid-configuration", &metadata); err != nil {
			return nil, err
		}
		if string(metadata.Issuer) != s.name {
			return nil, provider.Errorf(provider.InvalidResponse, "bound_issuer: expected %.100q in the metadata, found %.100q", s.name, metadata.Issuer)
		}
		if err := provider.CheckURL("jwks_uri", string(metadata.Keys)); err != nil {
			return nil, provider.Errorf(provider.InvalidResponse, "the metadata of bound_issuer has no usable keys: %s; set bound_jwks_url", err)
		}
		at = string(metadata.Keys)
	}
	var keys provider.KeySet
	if err := get(ctx, s.client, at, &keys); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, provider.Errorf(provider.InvalidResponse, "the keys of bound_issuer have none that verifies a signature")
	}
	return keys, nil
}

// get reads a public document of an issuer.
func get(ctx context.Context, client *provider.Client, at string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return provider.Errorf(provider.Invalid, "bound_issuer: not a valid URL for a request")
	}
	req.Header.Set("Accept", "application/json")
	reply, err := client.Do(req)
	if err == nil {
		return reply.Decode(into)
	}
	var failure *provider.Error
	if !errors.As(err, &failure) {
		return err
	}
	kind := failure.Kind
	if kind == provider.Rejected { // no credential was sent
		kind = provider.InvalidResponse
	}
	return provider.Errorf(kind, "the keys of bound_issuer cannot be read: %s", failure.Reason)
}
