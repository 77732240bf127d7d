package openid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Target is the audience for which the provider exchanges tokens.
const Target = "ledger"

// ValidateTokenExchangeRequest implements op.TokenExchangeStorage. A client gets tokens of the same person for
// Target; the library's example wants an administrator.
func (s *storage) ValidateTokenExchangeRequest(_ context.Context, request op.TokenExchangeRequest) error {
	if request.GetRequestedTokenType() == "" {
		request.SetRequestedTokenType(oidc.AccessTokenType)
	}
	for _, audience := range request.GetAudience() {
		if audience != Target {
			return oidc.ErrInvalidRequest().WithDescription("unknown audience")
		}
	}
	return nil
}

// CreateAccessToken implements op.AuthStorage.
func (s *storage) CreateAccessToken(ctx context.Context, request op.TokenRequest) (id string, expiry time.Time, err error) {
	if id, _, err = s.Storage.CreateAccessToken(ctx, request); err != nil {
		return "", time.Time{}, err
	}
	expiry = time.Now().Add(s.config.Lifetime)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expiries[id] = expiry
	return id, expiry, nil
}

// Tokens are the tokens of a person who has logged in.
type Tokens struct {
	Access string `json:"access_token"`
	ID     string `json:"id_token"` // a JWT
}

// LogIn logs a person in without a browser, consents, and returns the person's tokens for the client.
func (p *Provider) LogIn(ctx context.Context, email string) (Tokens, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return Tokens{}, err
	}
	client := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	c := p.storage.config
	to, err := p.follow(ctx, client, http.MethodGet, p.Issuer+"/auth?"+url.Values{
		"client_id": {c.ClientID}, "redirect_uri": {c.RedirectURI}, "response_type": {"code"}, "scope": {"openid email"}, "state": {"s"},
	}.Encode(), nil)
	if err != nil {
		return Tokens{}, err
	}
	id := to.Query().Get("authRequestID")
	to, err = p.follow(ctx, client, http.MethodPost, p.Issuer+to.Path, url.Values{"username": {email}, "password": {Password}, "id": {id}})
	if err != nil {
		return Tokens{}, err
	}
	query := to.Query()
	query.Set("decision", "allow")
	if to, err = p.follow(ctx, client, http.MethodGet, p.Issuer+to.Path+"?"+query.Encode(), nil); err != nil {
		return Tokens{}, err
	}
	return p.redeem(ctx, to.Query().Get("code"))
}

// follow sends a request, and returns where the answer redirects to.
func (p *Provider) follow(ctx context.Context, client *http.Client, method, to string, form url.Values) (*url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, method, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	at, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("%s of the login page: %w", resp.Status, err)
	}
	return at, nil
}

func (p *Provider) redeem(ctx context.Context, code string) (tokens Tokens, err error) {
	c := p.storage.config
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {c.RedirectURI}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.Issuer+op.DefaultEndpoints.Token.Relative(), strings.NewReader(form.Encode()))
	if err != nil {
		return Tokens{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(c.ClientID, c.ClientSecret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Tokens{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Tokens{}, fmt.Errorf("the provider does not exchange the code: %s", resp.Status)
	}
	err = json.NewDecoder(resp.Body).Decode(&tokens)
	if err == nil && tokens.Access == "" {
		err = errors.New("the provider returned no token")
	}
	return tokens, err
}
