// Package openid runs a third-party OpenID provider for the end-to-end tests: the server of
// github.com/zitadel/oidc, with the login page and the device page of its example.
package openid

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Password is the password of each person.
const Password = "wonderland"

// A Config describes a provider.
type Config struct {
	ClientID, ClientSecret string
	RedirectURI            string
	People                 []string      // their e-mail addresses, with which they log in
	Lifetime               time.Duration // of access tokens
}

// A Provider is an OpenID provider on a free loopback port. It asks each person who has logged in for consent,
// rotates refresh tokens, and revokes the access token that came with the last one.
type Provider struct {
	// Issuer is the URL of the provider.
	Issuer string

	server  *httptest.Server
	storage *storage

	mu        sync.Mutex
	exchanges map[string]int
	held      chan struct{} // until it is closed, the token endpoint does not answer; nil if it does
}

// Start starts a provider. It logs what it rejects with the default logger.
func Start(c Config) *Provider {
	slog.SetLogLoggerLevel(slog.LevelWarn) // not every request
	p := &Provider{storage: newStorage(c), exchanges: map[string]int{}, server: httptest.NewUnstartedServer(nil)}
	p.Issuer = "http://" + p.server.Listener.Addr().String()
	provider := exampleop.SetupServer(p.Issuer, p.storage, nil, false)
	p.server.Config.Handler = p.counted(p.storage.withConsent(provider))
	p.server.Start()
	return p
}

// Close stops the provider.
func (p *Provider) Close() { p.server.Close() }

// counted counts the requests for tokens, and delays their answers while they are held.
func (p *Provider) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == op.DefaultEndpoints.Token.Relative() {
			if held := p.count(r.PostFormValue("grant_type")); held != nil {
				<-held
			}
		}
		next.ServeHTTP(w, r)
	})
}

func (p *Provider) count(grant string) (held chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exchanges[grant]++
	return p.held
}

// Exchanges returns how many requests for a token there were with a grant type.
func (p *Provider) Exchanges(grant string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exchanges[grant]
}

// Hold delays the answers to requests for tokens until release is called, which may be called again.
func (p *Provider) Hold() (release func()) {
	held := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.held = nil
		close(held)
	})
}

// Email returns the address of the person whose access token it is, as an API asks the provider that receives
// the token. A token that is not valid is an error.
func (p *Provider) Email(ctx context.Context, accessToken string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Issuer+op.DefaultEndpoints.Userinfo.Relative(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+accessToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the provider does not accept the token: %s", resp.Status)
	}
	var person struct{ Email string }
	err = json.NewDecoder(resp.Body).Decode(&person)
	return person.Email, err
}

// Secrets returns the refresh tokens, authorization codes and device codes so far.
func (p *Provider) Secrets() []string {
	p.storage.mu.Lock()
	defer p.storage.mu.Unlock()
	return append([]string(nil), p.storage.secrets...)
}
