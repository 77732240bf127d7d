package faults_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// The secrets of the matrix have characters that every encoding escapes, and that end a word.
const (
	oddRefreshToken = `refresh&token+of/the="matrix"~0123456789\<and>its-end`
	oddAPIKey       = `01-api&key+of/the="matrix"~0123456789\<and>the-last-of-it`
	oddSecret       = `client&secret+of/the="matrix"~0123456789\<and>all-it-has`
	nextOddToken    = `another&token+of/the="matrix"~0123456789\<and>what-follows`
)

// kindLifetime is the lifetime of access tokens where the vendor's is configurable. It is long
// enough that a valid token outlasts a Retry-After of an hour, twice.
const kindLifetime = 8 * time.Hour

// curveKey returns an EC key, which signs faster than RSA, generated once per process.
var curveKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

func curveKeyPEM() string {
	der, err := x509.MarshalPKCS8PrivateKey(curveKey())
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// kindOfCredential is a credential, with the vendor that accepts it.
type kindOfCredential struct {
	name string
	path string // under config/
	data map[string]any

	// register adds the credential to the simulated vendors, with the given refresh token if it has
	// one.
	register func(sim *vendorsim.Sim, refreshToken string)

	// definition is the operator's own definition of the vendor; "" for a vendor of the engine.
	definition string

	// token and expiry are paths of members of the vendor's answer, and lifetime is the lifetime of
	// access tokens in the unit of expiry. Answers to Kensho's refresh tokens have no expiry.
	token, expiry string
	lifetime      float64

	// expiresAt is the path of the time of expiry, if the vendor states one and no lifetime: in Unix
	// seconds, or in RFC 3339.
	expiresAt string
	isRFC3339 bool

	// gets selects the request that a fault gets, of those of an exchange; nil means all. lacks is the
	// error of an answer to that request without what is needed; "" means that of the access token.
	gets  func(*http.Request) bool
	lacks string

	// hourly is whether tokens expire on the full hour, and the vendor issues no new one before.
	hourly bool

	// rotates is whether a refresh token can be used only once.
	rotates bool

	// oauth is whether an error code of RFC 6749 counts as a rejection with status 200 too.
	oauth bool
}

func kindsOfCredential() []kindOfCredential {
	client := vendorsim.OAuthClient{
		ID: engine.ClientID, Secret: oddSecret, Lifetime: kindLifetime, Rotate: true,
		AuthMethods: []string{vendorsim.SecretPost},
		Grants:      []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant},
	}
	signing := client
	signing.AuthMethods, signing.Keys = []string{vendorsim.PrivateKeyJWT}, map[string]crypto.PublicKey{"": curveKey().Public()}
	oauth := func(data map[string]any) map[string]any {
		maps.Copy(data, map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "default_ttl": "8h"})
		return data
	}
	kensho := func(sim *vendorsim.Sim, token string) { sim.AddRefreshToken("link-streaming", token) }
	pair := func(sim *vendorsim.Sim, token string) { sim.AddPair(token, kindLifetime, 30*24*time.Hour) }
	kinds := []kindOfCredential{
		// While a token is valid, only a keepalive makes an exchange.
		{name: "kensho refresh token", path: "kensho", data: map[string]any{"refresh_token": oddRefreshToken, "keepalive_interval": 60},
			register: kensho, token: "accessToken", hourly: true},
		{name: "kensho rotating refresh token", path: "kensho", data: map[string]any{"refresh_token": oddRefreshToken, "keepalive_interval": 60},
			register: kensho, token: "accessToken", hourly: true, rotates: true},
		{name: "kensho key pair", path: "kensho", data: map[string]any{"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM()},
			register: func(*vendorsim.Sim, string) {},
			token:    "access_token", expiry: "expires_in", lifetime: kindLifetime.Seconds(), oauth: true},
		{name: "sitecore api key", path: "sitecore", data: map[string]any{"api_key": oddAPIKey, "access_expiry": "8h"},
			register: func(sim *vendorsim.Sim, _ string) { sim.AddAPIKey(oddAPIKey) },
			token:    "accessToken", expiry: "accessTokenExpiry", lifetime: float64(kindLifetime.Milliseconds())},
		{name: "sitecore refresh token", path: "sitecore", data: map[string]any{"refresh_token": oddRefreshToken, "access_expiry": "8h"},
			register: pair, token: "accessToken", expiry: "accessTokenExpiry", lifetime: float64(kindLifetime.Milliseconds())},
		{name: "oauth2 client_secret", path: "oauth2", data: oauth(map[string]any{"client_secret": oddSecret}),
			register: func(sim *vendorsim.Sim, _ string) { sim.AddOAuthClient(client) },
			token:    "access_token", expiry: "expires_in", lifetime: kindLifetime.Seconds(), oauth: true},
		{name: "oauth2 rotating refresh token", path: "oauth2", data: oauth(map[string]any{
			"client_secret": oddSecret, "refresh_token": oddRefreshToken, "auth_style": vendorsim.SecretPost, // saves the attempt that finds out the style
		}),
			register: func(sim *vendorsim.Sim, token string) {
				sim.AddOAuthClient(client)
				sim.AddOAuthRefreshToken(client, token)
			},
			token: "access_token", expiry: "expires_in", lifetime: kindLifetime.Seconds(), oauth: true, rotates: true},
		{name: "oauth2 private_key_jwt", path: "oauth2", data: oauth(map[string]any{"private_key": curveKeyPEM()}),
			register: func(sim *vendorsim.Sim, _ string) { sim.AddOAuthClient(signing) },
			token:    "access_token", expiry: "expires_in", lifetime: kindLifetime.Seconds(), oauth: true},
	}
	return append(kinds, kindsOfDefinitions()...)
}

// noAccessToken is what the error says of an answer without an access token.
const noAccessToken = "contains no access token"

// at returns a fault of the requests that it is for.
func (k kindOfCredential) at(fault http.HandlerFunc) func(*http.Request) http.HandlerFunc {
	return func(r *http.Request) http.HandlerFunc {
		if k.gets != nil && !k.gets(r) {
			return nil
		}
		return fault
	}
}

// stated returns a time as the vendor states it.
func (k kindOfCredential) stated(at time.Time) any {
	if k.isRFC3339 {
		return at.UTC().Format(time.RFC3339)
	}
	return at.Unix()
}

// conduct returns the documented behavior of the credential's vendor.
func (k kindOfCredential) conduct() vendorsim.Conduct {
	return vendorsim.Conduct{Lifetime: kindLifetime, Rotate: k.rotates}
}

// secrets returns the secrets that an operator wrote.
func (k kindOfCredential) secrets() []string {
	secrets := []string{nextOddToken}
	for _, field := range []string{"refresh_token", "api_key", "client_secret", "password"} {
		if secret, ok := k.data[field].(string); ok {
			secrets = append(secrets, secret)
		}
	}
	if key, ok := k.data["private_key"].(string); ok {
		for line := range strings.Lines(key) {
			if line = strings.TrimSpace(line); len(line) == 64 {
				secrets = append(secrets, line)
			}
		}
	}
	return secrets
}
