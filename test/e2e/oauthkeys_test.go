//go:build e2e

package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// A generatedClient is a client whose key a page generates. It has no keys until the file with
// the public key exists: a JSON Web Key, or a certificate.
type generatedClient struct {
	variable string // environment variable with the client ID
	file     string
	client   vendorsim.OAuthClient
}

// generated are the clients whose keys the pages generate.
var generated = []generatedClient{
	{"OAUTH2_PAYROLL_CLIENT_ID", "payroll.jwk", vendorsim.OAuthClient{
		ID: "oauth2-payroll-0123456789", Scopes: []string{"invoices.read"}, AuthMethods: []string{vendorsim.PrivateKeyJWT},
		Grants: []string{vendorsim.ClientCredentialsGrant},
	}},
	{"OKTA_LEDGER_CLIENT_ID", "okta-ledger.jwk", vendorsim.OAuthClient{
		Issuer: "https://acme.okta.com", ID: "0oa7ledger8", Scopes: []string{"invoices.read", "invoices.write"},
		AuthMethods: []string{vendorsim.PrivateKeyJWT}, Grants: []string{vendorsim.ClientCredentialsGrant},
	}},
	{"SALESFORCE_JWT_CLIENT_ID", "salesforce.crt", salesforceJWT("3MVG9jwt.first")},
	{"SALESFORCE_JWT_NEXT_CLIENT_ID", "salesforce-next.crt", salesforceJWT("3MVG9jwt.next")},
}

// salesforceJWT is a client of Salesforce with the JWT bearer flow.
func salesforceJWT(id string) vendorsim.OAuthClient {
	return vendorsim.OAuthClient{
		Issuer: "https://acme.my.salesforce.com", ID: id, Grants: []string{vendorsim.JWTBearerGrant},
		Audience: "https://login.salesforce.com", Subject: "integration@example.com",
	}
}

// generatedClients returns the environment variables with the IDs of the clients.
func generatedClients() []string {
	var environ []string
	for _, g := range generated {
		environ = append(environ, g.variable+"="+g.client.ID)
	}
	return environ
}

// registerGenerated registers the clients whose public keys exist.
func registerGenerated(sim *vendorsim.Sim, dir string) {
	for _, g := range generated {
		content, err := os.ReadFile(filepath.Join(dir, g.file))
		if err != nil {
			continue
		}
		var key jose.JSONWebKey
		if block, _ := pem.Decode(content); block != nil {
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				continue // it is not written completely yet
			}
			key.Key = certificate.PublicKey
		} else if key.UnmarshalJSON(content) != nil {
			continue
		}
		client := g.client
		client.Keys = map[string]crypto.PublicKey{key.KeyID: key.Key}
		if key.Algorithm != "" {
			client.Algorithms = []string{key.Algorithm}
		}
		sim.AddOAuthClient(client)
	}
}

// The keys of a Google service account.
const (
	googleAccount   = "billing@acme.iam.gserviceaccount.com"
	googleKeyID     = "0123456789abcdef"
	googleNextKeyID = "fedcba9876543210"
)

var googleNextKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func googleKeys() map[string]crypto.PublicKey {
	return map[string]crypto.PublicKey{googleKeyID: privateKey().Public(), googleNextKeyID: googleNextKey().Public()}
}

// writeGoogleKeys writes the keys that the Google Cloud console creates: key.json, and
// key-next.json for a rotation.
func writeGoogleKeys(t *testing.T, dir string) {
	t.Helper()
	for name, key := range map[string]map[string]string{
		"key.json":      {"private_key_id": googleKeyID, "private_key": privateKeyPEM()},
		"key-next.json": {"private_key_id": googleNextKeyID, "private_key": encodeKey(googleNextKey())},
	} {
		key["type"], key["client_email"] = "service_account", googleAccount
		content, err := json.Marshal(key)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
}
