package sitecore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// credential is an API key, a refresh token, or both.
type credential struct {
	config
	client *provider.Client
	url    string
}

func newCredential(c config, client *provider.Client) *credential {
	return &credential{config: c, client: client, url: strings.TrimSuffix(strings.TrimRight(c.BaseURL, "/"), endpoint) + endpoint}
}

// MaxIdle returns zero: an API key does not expire, and a refresh token expires at a fixed
// time.
func (c *credential) MaxIdle() time.Duration { return 0 }

// Scope returns the scopes of the API key's tokens; nil with only a refresh token.
func (c *credential) Scope() []string { return c.config.Scope }

// Destinations returns the vendor's only endpoint.
func (c *credential) Destinations() provider.Destinations {
	return provider.Destinations{URLs: []string{c.url}}
}

// Narrow returns a credential that requests pairs of a narrower scope with the API key. A
// refresh token keeps its original scope, so the operator's own is not used.
func (c *credential) Narrow(scope []string) (provider.Credential, error) {
	if c.APIKey == "" {
		return nil, provider.Errorf(provider.Invalid, "scope: a Sitecore refresh token keeps its original scope; omit scope, or give the credential an api_key")
	}
	if err := provider.CheckNarrower("scope", scope, c.config.Scope); err != nil {
		return nil, err
	}
	narrow := *c
	narrow.config.Scope, narrow.RefreshToken = scope, ""
	return &narrow, nil
}

// Exchange uses the current refresh token, or the API key if there is none.
func (c *credential) Exchange(ctx context.Context, last provider.Grant) (*provider.Answer, error) {
	if pair := c.currentPair(last, time.Now()); pair.refreshToken != "" {
		return c.refresh(ctx, pair)
	}
	return c.createPair(ctx)
}

// Fallback returns a credential that requests a new pair with the API key. It returns nil
// if there is no API key, or if Exchange uses it anyway.
func (c *credential) Fallback(last provider.Grant) provider.Credential {
	if c.APIKey == "" || c.currentPair(last, time.Now()).refreshToken == "" {
		return nil
	}
	other := *c
	other.RefreshToken = ""
	return &other
}

// pair is a refresh token, with the lifetime and the scope of the access tokens that it
// yields.
type pair struct {
	refreshToken string
	lifetime     time.Duration
	scope        []string // nil if unknown
}

// currentPair returns the refresh token to use; none if the API key applies. A refresh token
// of the API key precedes the operator's own, which the vendor had rejected before the key
// was used.
func (c *credential) currentPair(last provider.Grant, now time.Time) pair {
	if last.Derived {
		if !last.ExpireTime.IsZero() && !now.Before(last.ExpireTime) {
			return pair{}
		}
		return pair{last.RefreshToken, last.AccessLifetime, c.config.Scope}
	}
	// The operator's own was issued elsewhere. Without an API key, access_expiry states the
	// lifetime of its access tokens.
	lifetime := cmp.Or(c.AccessExpiry.Duration(), defaultAccessExpiry)
	if c.APIKey != "" {
		lifetime = min(lifetime, defaultAccessExpiry)
	}
	return pair{refreshToken: c.RefreshToken, lifetime: lifetime}
}

type reply struct {
	AccessToken        provider.Text   `json:"accessToken"`
	RefreshToken       provider.Text   `json:"refreshToken"`
	AccessTokenExpiry  provider.Number `json:"accessTokenExpiry"`
	RefreshTokenExpiry provider.Number `json:"refreshTokenExpiry"`
}

// refresh exchanges a refresh token for an access token. The response has no expiry. The
// request has both headers, as the vendor's table and its sample differ.
func (c *credential) refresh(ctx context.Context, p pair) (*provider.Answer, error) {
	answer, _, err := c.call(ctx, http.MethodPut, nil, http.Header{
		"Content-Type":  {"application/json"},
		"Refresh-Token": {p.refreshToken},
		"Authorization": {"Bearer " + p.refreshToken},
	}, p.refreshToken)
	if err != nil {
		return nil, err
	}
	answer.Lifetime, answer.Scope = p.lifetime, p.scope
	return answer, nil
}

// createPair requests an access token and a refresh token with the API key. All expiries are
// durations in milliseconds.
func (c *credential) createPair(ctx context.Context) (*provider.Answer, error) {
	body, err := json.Marshal(struct {
		Scope         []string `json:"scope"`
		AccessExpiry  int64    `json:"accessExpiry,omitempty"`
		RefreshExpiry int64    `json:"refreshExpiry,omitempty"`
	}{c.config.Scope, c.AccessExpiry.Duration().Milliseconds(), c.RefreshExpiry.Duration().Milliseconds()})
	if err != nil {
		return nil, provider.Errorf(provider.Invalid, "scope: cannot be encoded as JSON")
	}
	answer, created, err := c.call(ctx, http.MethodPost, body, http.Header{
		"Content-Type": {"application/json"},
		"X-Api-Key":    {c.APIKey},
	}, c.APIKey)
	if err != nil {
		return nil, err
	}
	answer.Lifetime, answer.Scope = cmp.Or(c.AccessExpiry.Duration(), defaultAccessExpiry), c.config.Scope
	refreshToken := provider.Replacement(string(created.RefreshToken), "")
	if !provider.FitsHeader(refreshToken) {
		refreshToken = "" // a header cannot carry it; the API key remains
	}
	// With an invalid expiry, the lifetime of this pair's next access tokens is unknown.
	if answer.ExpiresIn < 0 {
		answer.Grant = &provider.Grant{Derived: true}
		return answer, nil
	}
	// An invalid lifetime (negative) counts as absent.
	refreshLifetime := cmp.Or(max(0, provider.Lifetime(json.RawMessage(created.RefreshTokenExpiry), time.Millisecond)), c.RefreshExpiry.Duration(), defaultRefreshExpiry)
	answer.Grant = &provider.Grant{
		RefreshToken:   refreshToken,
		ExpireTime:     answer.Clock.Sent.Add(refreshLifetime).Round(0).UTC(),
		AccessLifetime: cmp.Or(answer.ExpiresIn, answer.Lifetime),
		Derived:        true,
	}
	return answer, nil
}

func (c *credential) call(ctx context.Context, method string, body []byte, header http.Header, secret string) (*provider.Answer, *reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, nil, provider.Errorf(provider.Invalid, "base_url: not a valid URL for a request")
	}
	req.Header = header
	res, err := c.client.Do(req, secret)
	if err != nil {
		return nil, nil, provider.CheckField(err, "base_url")
	}
	var r reply
	if err := res.Decode(&r); err != nil {
		return nil, nil, provider.CheckField(err, "base_url")
	}
	answer := &provider.Answer{
		AccessToken: string(r.AccessToken),
		ExpiresIn:   provider.Lifetime(json.RawMessage(r.AccessTokenExpiry), time.Millisecond),
		Clock:       res.Clock,
	}
	if answer.AccessToken == "" {
		answer.Unusable = res.NoToken("")
	}
	return answer, &r, nil
}
