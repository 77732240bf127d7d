//go:build e2e

package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/test/internal/authserver"
)

// credential is an operator's credential for an authorization server.
type credential struct {
	server       *authserver.Server
	client       authserver.Client
	key          crypto.Signer // the client's private key, if it has one
	keyID        string
	refreshToken string
	scope        []string
	params       map[string]string // extra parameters of token requests
}

// application gets tokens from a server with a credential.
type application interface {
	// exchange gets a new token.
	exchange() (accessToken string, err error)

	// lease gets a new token that end revokes.
	lease() (accessToken string, end func() error, err error)
}

// applications are the applications that run each of these tests, by name.
var applications = map[string]func(*testing.T, credential) application{
	"golang.org/x/oauth2": newLibrary,
	"the engine":          newEngine,
}

// forEach runs a test with each application, each with a new server that has the given clients.
func forEach(t *testing.T, clients []authserver.Client, test func(t *testing.T, server *authserver.Server, connect func(credential) application)) {
	t.Helper()
	for name, connect := range applications {
		t.Run(name, func(t *testing.T) {
			server := startAuthServer(t, clients...)
			test(t, server, func(c credential) application {
				c.server = server
				return connect(t, c)
			})
		})
	}
}

func startAuthServer(t *testing.T, clients ...authserver.Client) *authserver.Server {
	t.Helper()
	script := os.Getenv("AUTHSERVER")
	require.NotEmpty(t, script, "run these tests by `make e2e`")
	log := &logBuffer{}
	server, err := authserver.Start(t.Context(), script, log, clients...)
	require.NoError(t, err, "%s", log)
	t.Cleanup(func() {
		assert.NoError(t, server.Stop())
		if t.Failed() {
			t.Log(log)
		}
	})
	return server
}

// assertActive asserts that the server reports a token as active, with its client and scope.
func assertActive(t *testing.T, server *authserver.Server, token string, client authserver.Client, scope string) {
	t.Helper()
	introspection, err := server.Introspect(t.Context(), token)
	require.NoError(t, err)
	assert.Equal(t, &authserver.Introspection{Active: true, Client: client.ID, Scope: scope}, introspection)
}

func assertInactive(t *testing.T, server *authserver.Server, token string) {
	t.Helper()
	introspection, err := server.Introspect(t.Context(), token)
	require.NoError(t, err)
	assert.False(t, introspection.Active)
}

func newECKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(t, err)
	return key
}

func TestRealServerAcceptsEachClientAuthentication(t *testing.T) {
	rsa, p256, p384 := newKey(t), newECKey(t, elliptic.P256()), newECKey(t, elliptic.P384())
	// Characters that HTTP Basic authentication must encode.
	const secret = "a+b/c:d%e&f=g~h"
	signing := func(algorithm string, key crypto.Signer) credential {
		client := authserver.Unattended("by "+algorithm, "", "").SignedBy(key.Public(), "key of "+algorithm, algorithm)
		return credential{client: client, key: key, keyID: "key of " + algorithm}
	}
	credentials := map[string]credential{
		"client_secret_basic":        {client: authserver.Unattended("by:basic", secret, "client_secret_basic")},
		"client_secret_post":         {client: authserver.Unattended("by post", secret, "client_secret_post")},
		"private_key_jwt with RS256": signing("RS256", rsa),
		"private_key_jwt with PS256": signing("PS256", rsa),
		"private_key_jwt with ES256": signing("ES256", p256),
		"private_key_jwt with ES384": signing("ES384", p384),
	}
	var clients []authserver.Client
	for _, c := range credentials {
		clients = append(clients, c.client)
	}
	forEach(t, clients, func(t *testing.T, server *authserver.Server, connect func(credential) application) {
		for name, c := range credentials {
			c.scope = []string{"read", "write"}
			app := connect(c)
			for range 2 { // the server accepts each assertion only once
				token, err := app.exchange()
				require.NoError(t, err, name)
				assertActive(t, server, token, c.client, "read write")
			}
		}
	})
}

func TestRealServerRejectsOtherClients(t *testing.T) {
	known := authserver.Unattended("known", "secret-of-the-client", "client_secret_basic")
	key := newKey(t)
	signing := authserver.Unattended("signing", "", "").SignedBy(key.Public(), "", "RS256")
	forEach(t, []authserver.Client{known, signing}, func(t *testing.T, _ *authserver.Server, connect func(credential) application) {
		wrong, unknown := known, known
		wrong.Secret, unknown.ID = "another-secret", "unknown"
		for name, test := range map[string]struct {
			credential credential
			says       string
		}{
			"a wrong secret":                  {credential{client: wrong}, "invalid_client"},
			"an unknown client":               {credential{client: unknown}, "invalid_client"},
			"another key":                     {credential{client: signing, key: newKey(t)}, "invalid_client"},
			"more scopes than the client has": {credential{client: known, scope: []string{"read", "admin"}}, "invalid_scope"},
		} {
			_, err := connect(test.credential).exchange()
			assert.ErrorContains(t, err, test.says, name)
		}
	})
}

func TestRealServerReceivesTheTokenParams(t *testing.T) {
	client := authserver.Unattended("client", "secret-of-the-client", "client_secret_basic")
	forEach(t, []authserver.Client{client}, func(t *testing.T, _ *authserver.Server, connect func(credential) application) {
		token, err := connect(credential{client: client, scope: []string{"read"}, params: map[string]string{"resource": "https://api.example.com"}}).exchange()
		require.NoError(t, err)
		assert.Equal(t, "https://api.example.com", claims(t, token)["aud"])
	})
}

func TestRealServerRotatesRefreshTokens(t *testing.T) {
	confidential := authserver.Attended("confidential", "secret-of-the-client", "client_secret_basic")
	public := authserver.Attended("public", "", "none")
	forEach(t, []authserver.Client{confidential, public}, func(t *testing.T, server *authserver.Server, connect func(credential) application) {
		for _, client := range []authserver.Client{confidential, public} {
			refreshToken, err := server.Authorize(t.Context(), client, "read", "write")
			require.NoError(t, err)
			first := connect(credential{client: client, refreshToken: refreshToken})
			for range 3 { // each exchange uses a new refresh token
				token, err := first.exchange()
				require.NoError(t, err, client.ID)
				assertActive(t, server, token, client, "read write offline_access")
			}
			_, err = connect(credential{client: client, refreshToken: refreshToken}).exchange()
			require.ErrorContains(t, err, "invalid_grant", "the first refresh token is spent")
			_, err = first.exchange()
			require.ErrorContains(t, err, "invalid_grant", "the server ends the last one too, because the first was reused")
		}
	})
}

func TestRealServerRevokesTokens(t *testing.T) {
	key := newKey(t)
	clients := []authserver.Client{
		authserver.Unattended("basic", "secret-of-the-client", "client_secret_basic"),
		authserver.Unattended("post", "secret-of-the-client", "client_secret_post"),
		authserver.Unattended("signing", "", "").SignedBy(key.Public(), "", "RS256"),
	}
	forEach(t, clients, func(t *testing.T, server *authserver.Server, connect func(credential) application) {
		for _, client := range clients {
			c := credential{client: client, scope: []string{"read"}}
			if client.Keys != nil {
				c.key = key
			}
			app := connect(c)
			revoked, end, err := app.lease()
			require.NoError(t, err, client.ID)
			other, _, err := app.lease()
			require.NoError(t, err)
			require.NoError(t, end(), client.ID)
			assertInactive(t, server, revoked)
			assertActive(t, server, other, client, "read")
		}
	})
}
