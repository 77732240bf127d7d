//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"vault-plugin-secrets-tokenbroker/test/internal/authserver"
)

// library is an application that calls the server without the engine. It shows what the server
// itself does.
type library struct {
	credential
	t        *testing.T
	metadata *authserver.Metadata
}

func newLibrary(t *testing.T, c credential) application {
	t.Helper()
	metadata, err := c.server.Metadata(t.Context())
	require.NoError(t, err)
	require.Equal(t, c.server.Issuer, metadata.Issuer)
	return &library{credential: c, t: t, metadata: metadata}
}

func (l *library) exchange() (accessToken string, err error) {
	style := oauth2.AuthStyleInParams
	if l.client.AuthMethod == "client_secret_basic" {
		style = oauth2.AuthStyleInHeader
	}
	params := l.authentication()
	for name, value := range l.params {
		params.Set(name, value)
	}
	if l.refreshToken != "" {
		params.Set("grant_type", "refresh_token")
		params.Set("refresh_token", l.refreshToken)
	}
	config := clientcredentials.Config{
		ClientID: l.client.ID, ClientSecret: l.client.Secret, AuthStyle: style,
		TokenURL: l.metadata.TokenEndpoint, Scopes: l.scope, EndpointParams: params,
	}
	token, err := config.Token(l.t.Context())
	if err != nil {
		return "", err
	}
	if token.RefreshToken != "" {
		l.refreshToken = token.RefreshToken
	}
	return token.AccessToken, nil
}

// authentication returns the parameters of a new client assertion, if the client uses one.
func (l *library) authentication() url.Values {
	if l.key == nil {
		return url.Values{}
	}
	token := jwt.NewWithClaims(jwt.GetSigningMethod(l.client.Algorithm), jwt.MapClaims{
		"iss": l.client.ID, "sub": l.client.ID, "aud": l.metadata.TokenEndpoint, "jti": rand.Text(),
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
	})
	if l.keyID != "" {
		token.Header["kid"] = l.keyID
	}
	assertion, err := token.SignedString(l.key)
	require.NoError(l.t, err)
	return url.Values{
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {assertion},
	}
}

func (l *library) lease() (accessToken string, end func() error, err error) {
	accessToken, err = l.exchange()
	return accessToken, func() error { return l.revoke(accessToken) }, err
}

func (l *library) revoke(accessToken string) error {
	form := l.authentication()
	form.Set("token", accessToken)
	if l.client.AuthMethod != "client_secret_basic" {
		form.Set("client_id", l.client.ID)
	}
	if l.client.AuthMethod == "client_secret_post" {
		form.Set("client_secret", l.client.Secret)
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.metadata.RevocationEndpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if l.client.AuthMethod == "client_secret_basic" {
		req.SetBasicAuth(url.QueryEscape(l.client.ID), url.QueryEscape(l.client.Secret))
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("revocation: %s", res.Status)
	}
	return nil
}

// claims returns the claims of a JWT access token without verifying it.
func claims(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	require.Len(t, parts, 3, "the access token is not a JWT")
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	var claims map[string]any
	require.NoError(t, json.Unmarshal(raw, &claims))
	return claims
}
