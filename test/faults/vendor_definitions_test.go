package faults_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const oddPassword = `pass&word+of/the="matrix"~0123456789\<and>that-is-that`

// acmeDefinition returns the definition of docs/own-vendor.md.
var acmeDefinition = sync.OnceValue(func() string {
	text, err := os.ReadFile("../../examples/vendor/acme.json")
	if err != nil {
		panic(err)
	}
	return string(text)
})

// kindsOfDefinitions returns a credential of each kind that a definition describes and that the others
// are not: an answer with a time of expiry and a token in a header of its own, a password with refresh
// tokens, two requests for a token, and a request that a key signs. A token that the engine signs itself
// is missing, as no vendor gets a request for it.
func kindsOfDefinitions() []kindOfCredential {
	dowJones := kindOfCredential{
		path: "dowjones", data: map[string]any{"client_id": engine.ClientID, "username": "service@acme.example", "password": oddPassword, "default_ttl": "8h"},
		register: func(sim *vendorsim.Sim, _ string) {
			sim.AddDowJonesAccount(vendorsim.DowJonesAccount{ClientID: engine.ClientID, Username: "service@acme.example", Password: oddPassword})
		},
		oauth: true,
	}
	first, second := dowJones, dowJones
	first.name, first.gets, first.lacks = "two requests, the first", isSignIn, "has no value at /"
	second.name, second.gets = "two requests, the second", func(r *http.Request) bool { return !isSignIn(r) }
	second.token, second.expiry, second.lifetime = "access_token", "expires_in", kindLifetime.Seconds()

	return []kindOfCredential{
		first, second,
		{name: "JSON, time of expiry", path: "acme", definition: acmeDefinition(), data: map[string]any{"region": "eu", "api_key": oddAPIKey},
			register: func(sim *vendorsim.Sim, _ string) { sim.AddAcmeKey(oddAPIKey, "https://eu.api.acme.example") },
			token:    "data.token", expiresAt: "data.expires_at"},
		// A refresh token that is lost costs nothing, as the password yields another one.
		{name: "password with refresh tokens", path: "akeneo", data: map[string]any{
			"host": "acme.cloud.akeneo.com", "client_id": engine.ClientID, "client_secret": oddSecret, "username": "erp", "password": oddPassword, "default_ttl": "8h",
		},
			register: func(sim *vendorsim.Sim, _ string) {
				sim.AddAkeneoConnection(vendorsim.AkeneoConnection{ClientID: engine.ClientID, ClientSecret: oddSecret, Username: "erp", Password: oddPassword})
			},
			token: "access_token", expiry: "expires_in", lifetime: kindLifetime.Seconds(), oauth: true},
		{name: "signed request, date of expiry", path: "github-app", data: map[string]any{
			"host": "api.acme.ghe.com", "client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM(), "installation_id": "7",
		},
			register: func(sim *vendorsim.Sim, _ string) {
				sim.AddGitHubApp(vendorsim.GitHubApp{ClientID: engine.ClientID, Key: &engine.PrivateKey().PublicKey, InstallationID: "7"})
			},
			token: "token", expiresAt: "expires_at", isRFC3339: true},
	}
}

// isSignIn reports whether a request has a password, and leaves its body as it was.
func isSignIn(r *http.Request) bool {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return strings.Contains(string(body), "grant_type=password")
}
