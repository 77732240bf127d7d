package kensho

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/go-uuid"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// defaultTokenURL is Kensho's authorization server at Okta.
	defaultTokenURL = "https://kensho.okta.com/oauth2/default/v1/token"

	// assertionLifetime is well inside the hour that the vendor allows, and one of
	// those that its samples use.
	assertionLifetime = 5 * time.Minute

	// keyPairLifetime is what to assume of a token that does not tell.
	keyPairLifetime = time.Hour

	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// keyPair is a client of OAuth 2.0's client credentials grant that proves itself
// by a signed assertion (RFC 7523).
type keyPair struct {
	client   *provider.Client
	clientID string
	key      *rsa.PrivateKey
	keyID    string
	scope    []string
	tokenURL string

	// ahead is how far the vendor's clock was ahead of ours when it last answered,
	// in nanoseconds: an assertion is dated by the clock that checks it. Credentials
	// that are narrowed from one share it.
	ahead *atomic.Int64
}

// clockTolerance is what an authorization server forgives in an assertion's times.
const clockTolerance = 30 * time.Second

func openKeyPair(c config, client *provider.Client) (provider.Credential, error) {
	key, err := provider.ParseRSAPrivateKey("private_key", c.PrivateKey)
	if err != nil {
		return nil, err
	}
	p := &keyPair{client: client, clientID: c.ClientID, key: key, keyID: c.KeyID, scope: c.Scope, tokenURL: c.TokenURL, ahead: &atomic.Int64{}}
	if len(p.scope) == 0 {
		p.scope = []string{scopeOf(c.Product)}
	}
	if err := provider.CheckScope("scope", p.scope); err != nil {
		return nil, err
	}
	if p.tokenURL == "" {
		p.tokenURL = defaultTokenURL
	}
	if err := provider.CheckURL("token_url", p.tokenURL); err != nil {
		return nil, err
	}
	return p, nil
}

// Idle is zero: a key pair needs no upkeep.
func (p *keyPair) Idle() time.Duration { return 0 }

// Scope is the one asked for.
func (p *keyPair) Scope() []string { return p.scope }

// Narrow asks for less: each request states its scope.
func (p *keyPair) Narrow(scope []string) (provider.Credential, error) {
	if err := provider.CheckNarrower("scope", scope, p.scope); err != nil {
		return nil, err
	}
	narrow := *p
	narrow.scope = scope
	return &narrow, nil
}

// Exchange signs an assertion and trades it for an access token. If the vendor
// rejects it and its clock is not what it was taken for, that may be why, so it is
// asked once more by its own clock.
func (p *keyPair) Exchange(ctx context.Context, _ provider.Grant) (*provider.Answer, error) {
	dated := p.ahead.Load()
	answer, err := p.exchange(ctx)
	var e *provider.Error
	if errors.As(err, &e) && e.Kind == provider.Rejected && (time.Duration(p.ahead.Load()-dated)).Abs() > clockTolerance {
		return p.exchange(ctx)
	}
	return answer, err
}

func (p *keyPair) exchange(ctx context.Context) (*provider.Answer, error) {
	assertion, err := p.assertion(time.Now().Add(time.Duration(p.ahead.Load())))
	if err != nil {
		return nil, err
	}
	form := url.Values{
		"grant_type":            {"client_credentials"},
		"client_assertion_type": {assertionType},
		"client_assertion":      {assertion},
		"scope":                 {strings.Join(p.scope, " ")},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.tokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, provider.Errorf(provider.Invalid, "token_url: no request can be made of it")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")

	res, err := p.client.Do(req, assertion)
	if err != nil {
		var e *provider.Error
		if errors.As(err, &e) {
			p.learn(e.Clock)
		}
		return nil, err
	}
	p.learn(res.Clock)
	var body struct {
		AccessToken string          `json:"access_token"`
		TokenType   string          `json:"token_type"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
		Scope       string          `json:"scope"`
	}
	if err := res.Decode(&body); err != nil {
		return nil, err
	}
	expiresIn, err := provider.Lifetime(body.ExpiresIn, time.Second)
	if err != nil {
		return nil, err
	}
	// RFC 6749 §5.1: an answer without a scope grants what was asked for.
	scope := strings.Fields(body.Scope)
	if len(scope) == 0 {
		scope = p.scope
	}
	return &provider.Answer{
		AccessToken: body.AccessToken,
		TokenType:   body.TokenType,
		Scope:       scope,
		ExpiresIn:   expiresIn,
		Lifetime:    keyPairLifetime,
		Clock:       res.Clock,
	}, nil
}

// learn takes the time from an answer that tells it.
func (p *keyPair) learn(c provider.Clock) {
	if !c.Date.IsZero() {
		p.ahead.Store(int64(c.Skew()))
	}
}

// assertion says who asks (iss and sub), to whom (aud), and for how long.
func (p *keyPair) assertion(now time.Time) (string, error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return "", provider.Errorf(provider.Unavailable, "no random ID can be made for the assertion: %s", err)
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"iss": p.clientID,
		"sub": p.clientID,
		"aud": p.tokenURL,
		"iat": now.Unix(),
		"exp": now.Add(assertionLifetime).Unix(),
		"jti": id,
	})
	if p.keyID != "" {
		token.Header["kid"] = p.keyID
	}
	signed, err := token.SignedString(p.key)
	if err != nil {
		return "", provider.Errorf(provider.Invalid, "private_key: cannot sign")
	}
	return signed, nil
}
