package faults_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// The secrets of the matrix have characters in them that every encoding writes in
// another way than they are, and that end what looks like a word.
const (
	oddRefreshToken = `refresh&token+of/the="matrix"~0123456789\<and>its-end`
	oddAPIKey       = `01-api&key+of/the="matrix"~0123456789\<and>the-last-of-it`
	oddSecret       = `client&secret+of/the="matrix"~0123456789\<and>all-it-has`
	nextOddToken    = `another&token+of/the="matrix"~0123456789\<and>what-follows`
)

// kindLife is how long access tokens live that a vendor lets live as one likes: so long
// that a good one outlives two hours for which the vendor wants to be left alone.
const kindLife = 8 * time.Hour

// curveKey is a key that signs sooner than RSA's, made once.
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

// A kindOfCredential is a credential, at a vendor who takes it.
type kindOfCredential struct {
	name string
	path string // under config/
	data map[string]any

	// know has the vendor know the credential, with the given refresh token if it has one.
	know func(sim *vendorsim.Sim, refreshToken string)

	// token and expiry are the names in the vendor's answer, and life is how long an
	// access token lives, in the unit of expiry. Kensho's refresh has no expiry.
	token, expiry string
	life          float64

	// hourly is whether tokens die on the full hour, and none is to be had earlier.
	hourly bool

	// rotates is whether a refresh token is good for one exchange.
	rotates bool

	// oauth is whether refusals come with status 200 too, if they are in the words of
	// RFC 6749.
	oauth bool
}

func kindsOfCredential() []kindOfCredential {
	client := vendorsim.OAuthClient{
		ID: engine.ClientID, Secret: oddSecret, Lifetime: kindLife, Rotate: true,
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
	pair := func(sim *vendorsim.Sim, token string) { sim.AddPair(token, kindLife, 30*24*time.Hour) }
	return []kindOfCredential{
		// A token that is good is exchanged to keep the credential alive alone.
		{name: "kensho refresh token", path: "kensho", data: map[string]any{"refresh_token": oddRefreshToken, "keepalive_interval": 60},
			know: kensho, token: "accessToken", hourly: true},
		{name: "kensho rotating refresh token", path: "kensho", data: map[string]any{"refresh_token": oddRefreshToken, "keepalive_interval": 60},
			know: kensho, token: "accessToken", hourly: true, rotates: true},
		{name: "kensho key pair", path: "kensho", data: map[string]any{"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM()},
			know:  func(*vendorsim.Sim, string) {},
			token: "access_token", expiry: "expires_in", life: kindLife.Seconds(), oauth: true},
		{name: "sitecore api key", path: "sitecore", data: map[string]any{"api_key": oddAPIKey, "access_expiry": "8h"},
			know:  func(sim *vendorsim.Sim, _ string) { sim.AddAPIKey(oddAPIKey) },
			token: "accessToken", expiry: "accessTokenExpiry", life: float64(kindLife.Milliseconds())},
		{name: "sitecore refresh token", path: "sitecore", data: map[string]any{"refresh_token": oddRefreshToken, "access_expiry": "8h"},
			know: pair, token: "accessToken", expiry: "accessTokenExpiry", life: float64(kindLife.Milliseconds())},
		{name: "oauth2 client_secret", path: "oauth2", data: oauth(map[string]any{"client_secret": oddSecret}),
			know:  func(sim *vendorsim.Sim, _ string) { sim.AddOAuthClient(client) },
			token: "access_token", expiry: "expires_in", life: kindLife.Seconds(), oauth: true},
		{name: "oauth2 rotating refresh token", path: "oauth2", data: oauth(map[string]any{
			"client_secret": oddSecret, "refresh_token": oddRefreshToken, "auth_style": vendorsim.SecretPost, // else a first attempt may be in vain
		}),
			know: func(sim *vendorsim.Sim, token string) {
				sim.AddOAuthClient(client)
				sim.AddOAuthRefreshToken(client, token)
			},
			token: "access_token", expiry: "expires_in", life: kindLife.Seconds(), oauth: true, rotates: true},
		{name: "oauth2 private_key_jwt", path: "oauth2", data: oauth(map[string]any{"private_key": curveKeyPEM()}),
			know:  func(sim *vendorsim.Sim, _ string) { sim.AddOAuthClient(signing) },
			token: "access_token", expiry: "expires_in", life: kindLife.Seconds(), oauth: true},
	}
}

// conduct is how the vendor of a credential behaves on a good day.
func (k kindOfCredential) conduct() vendorsim.Conduct {
	return vendorsim.Conduct{KeyPairLifetime: kindLife, Rotate: k.rotates}
}

// secrets are what an operator wrote.
func (k kindOfCredential) secrets() []string {
	secrets := []string{nextOddToken}
	for _, field := range []string{"refresh_token", "api_key", "client_secret"} {
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
