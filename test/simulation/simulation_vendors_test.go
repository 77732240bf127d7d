package simulation_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// The kinds of accounts whose vendor a definition describes. That of jsonKind is the operator's own.
const (
	jsonKind          = "JSON, time of expiry"
	passwordKind      = "password, refresh tokens"
	stepsKind         = "two requests"
	signedRequestKind = "signed request"
	signedTokenKind   = "signed token"
)

// define sets what an account has of a vendor with a definition. These vendors have no URL to set, so
// host finds the account by what differs in its requests.
func (a *account) define(i int) {
	switch a.kind {
	case jsonKind:
		a.sim.AddAcmeKey(engine.APIKey, "https://"+region(i)+".api.acme.example")
		a.path = "config/acme/" + a.name
		a.fields = map[string]any{"region": region(i), "api_key": engine.APIKey}
	case passwordKind:
		a.sim.AddAkeneoConnection(vendorsim.AkeneoConnection{ClientID: engine.ClientID, ClientSecret: engine.ClientSecret, Username: "erp", Password: "password of the connection"})
		a.path = "config/akeneo/" + a.name
		a.fields = map[string]any{
			"host": a.name + ".cloud.akeneo.com", "client_id": engine.ClientID, "client_secret": engine.ClientSecret,
			"username": "erp", "password": "password of the connection",
		}
	case stepsKind:
		a.sim.AddDowJonesAccount(vendorsim.DowJonesAccount{ClientID: a.name, Username: "service@acme.example", Password: "password of the account"})
		a.path = "config/dowjones/" + a.name
		a.fields = map[string]any{"client_id": a.name, "username": "service@acme.example", "password": "password of the account"}
	case signedRequestKind:
		a.sim.AddGitHubApp(vendorsim.GitHubApp{ClientID: engine.ClientID, Key: &engine.PrivateKey().PublicKey, InstallationID: "7"})
		a.path = "config/github-app/" + a.name
		a.fields = map[string]any{
			"host": "api." + a.name + ".ghe.com", "client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM(), "installation_id": "7",
		}
	case signedTokenKind:
		a.sim.AddSnowflakeUser("acme-"+a.name, "svc", &engine.PrivateKey().PublicKey)
		// No answer shows the vendor's clock, so the engine can only take its own.
		a.conduct.Skew = 0
		a.sim.Behave(a.conduct)
		a.path = "config/snowflake/" + a.name
		a.fields = map[string]any{"account": "acme-" + a.name, "user": "svc", "private_key": engine.PrivateKeyPEM()}
	}
}

// region returns the two letters of an account's region of Acme.
func region(i int) string { return string(rune('a'+i/26)) + string(rune('a'+i%26)) }

// vendors routes each request to the vendor of its account.
func (m *month) vendors() http.Handler {
	sims := map[string]http.Handler{}
	for i, a := range m.accounts {
		for _, key := range []string{fmt.Sprintf("127.0.0.1:%d", 10_000+i), region(i) + ".login.acme.example", a.name + ".cloud.akeneo.com", "api." + a.name + ".ghe.com", a.name} {
			sims[key] = a.sim
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sim := sims[r.Host]
		if sim == nil {
			sim = sims[clientID(r)]
		}
		sim.ServeHTTP(w, r)
	})
}

// clientID returns the parameter client_id of a form, and leaves the body as it was.
func clientID(r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, err := url.ParseQuery(string(body))
	if err != nil {
		panic(err)
	}
	return form.Get("client_id")
}

// defineAcme writes the operator's own definition.
func (m *month) defineAcme() {
	text, err := os.ReadFile("../../examples/vendor/acme.json")
	require.NoError(m.T, err)
	m.acme = string(text)
	m.Write("vendors/acme", map[string]any{"definition": m.acme})
}

// redefine writes the definition again with another title, which must cost nothing and end nothing.
func (m *month) redefine(rng *rand.Rand) {
	definition := strings.Replace(m.acme, `"title": "Acme"`, fmt.Sprintf(`"title": "Acme %d"`, rng.IntN(100)), 1)
	if status, message := m.send(logical.UpdateOperation, "vendors/acme", map[string]any{"definition": definition}, nil); status != http.StatusOK {
		assert.Fail(m.T, "the definition was refused", "%d %s", status, message)
		return
	}
	m.redefinitions.Add(1)
}
