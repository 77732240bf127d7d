package openid

import (
	"context"
	"errors"
	"html/template"
	"net/http"
	"sync"
	"time"

	example "github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// storage is the library's storage in memory, with people who may refuse and access tokens that expire soon.
type storage struct {
	*example.Storage
	config Config

	mu       sync.Mutex
	refused  map[string]bool      // by the ID of the authorization request
	expiries map[string]time.Time // by the ID of the access token
	secrets  []string
}

func newStorage(c Config) *storage {
	clients := map[string]*example.Client{c.ClientID: example.WebClient(c.ClientID, c.ClientSecret, c.RedirectURI)}
	return &storage{
		Storage: example.NewStorageWithClients(people(c.People), clients), config: c,
		refused: map[string]bool{}, expiries: map[string]time.Time{},
	}
}

// people are the e-mail addresses of people. Each is also the person's name and ID.
type people []string

// GetUserByID implements example.UserStore.
func (p people) GetUserByID(id string) *example.User {
	for _, email := range p {
		if email == id {
			return &example.User{ID: email, Username: email, Email: email, EmailVerified: true, Password: Password}
		}
	}
	return nil
}

// GetUserByUsername implements example.UserStore.
func (p people) GetUserByUsername(name string) *example.User { return p.GetUserByID(name) }

// ExampleClientID implements example.UserStore.
func (people) ExampleClientID() string { return "" }

// consentPage asks a person for consent, which the library leaves to the application.
var consentPage = template.Must(template.New("consent").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Consent</title><link rel="icon" href="data:,"></head>
<body><h1>{{.Client}} wants to act for you</h1>
<form><input type="hidden" name="id" value="{{.ID}}">
<button name="decision" value="allow" id="allow">Allow</button> <button name="decision" value="refuse" id="refuse">Refuse</button></form>
</body></html>`))

// withConsent asks a person who has logged in before the browser returns to the client.
func (s *storage) withConsent(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const afterLogin = "/auth/callback"
		if r.URL.Path != afterLogin {
			next.ServeHTTP(w, r)
			return
		}
		id, decision := r.FormValue("id"), r.FormValue("decision")
		if decision == "" {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			if err := consentPage.Execute(w, map[string]string{"ID": id, "Client": s.config.ClientID}); err != nil {
				panic(err)
			}
			return
		}
		s.mu.Lock()
		s.refused[id] = decision == "refuse"
		s.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

// SaveAuthCode implements op.AuthStorage. There is no code for a person who has refused.
func (s *storage) SaveAuthCode(ctx context.Context, id, code string) error {
	s.mu.Lock()
	s.secrets = append(s.secrets, code)
	refused := s.refused[id]
	s.mu.Unlock()
	if refused {
		return oidc.ErrAccessDenied().WithDescription("The person refused.")
	}
	return s.Storage.SaveAuthCode(ctx, id, code)
}

// GetClientByClientID implements op.OPStorage.
func (s *storage) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	known, err := s.Storage.GetClientByClientID(ctx, id)
	return client{known}, err
}

// client is a client that may also use the device page. Its ID tokens have the person's e-mail address.
type client struct{ op.Client }

// GrantTypes implements op.Client.
func (client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken, oidc.GrantTypeDeviceCode, oidc.GrantTypeTokenExchange}
}

// IDTokenUserinfoClaimsAssertion implements op.Client.
func (client) IDTokenUserinfoClaimsAssertion() bool { return true }

// CreateAccessAndRefreshTokens implements op.AuthStorage.
func (s *storage) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, current string) (id, refreshToken string, expiry time.Time, err error) {
	id, refreshToken, _, err = s.Storage.CreateAccessAndRefreshTokens(ctx, request, current)
	if err != nil {
		return "", "", time.Time{}, err
	}
	expiry = time.Now().Add(s.config.Lifetime)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expiries[id] = expiry
	s.secrets = append(s.secrets, refreshToken)
	return id, refreshToken, expiry, nil
}

// TokenRequestByRefreshToken implements op.AuthStorage. The library's storage does not know the client of a
// refresh token that it issued for a device.
func (s *storage) TokenRequestByRefreshToken(ctx context.Context, refreshToken string) (op.RefreshTokenRequest, error) {
	request, err := s.Storage.TokenRequestByRefreshToken(ctx, refreshToken)
	if known, isKnown := request.(*example.RefreshTokenRequest); isKnown {
		known.ApplicationID = s.config.ClientID
	}
	return request, err
}

// SetUserinfoFromToken implements op.OPStorage.
func (s *storage) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, origin string) error {
	s.mu.Lock()
	expiry := s.expiries[tokenID]
	s.mu.Unlock()
	if !time.Now().Before(expiry) {
		return errors.New("the token has expired")
	}
	return s.Storage.SetUserinfoFromToken(ctx, info, tokenID, subject, origin)
}

// StoreDeviceAuthorization implements op.DeviceAuthorizationStorage.
func (s *storage) StoreDeviceAuthorization(ctx context.Context, clientID, deviceCode, userCode string, expires time.Time, scopes []string) error {
	s.mu.Lock()
	s.secrets = append(s.secrets, deviceCode)
	s.mu.Unlock()
	return s.Storage.StoreDeviceAuthorization(ctx, clientID, deviceCode, userCode, expires, scopes)
}
