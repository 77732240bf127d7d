package customer

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-jose/go-jose/v4"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// A sentKey is a public key that a page generates, and that the customer sends to the vendor. The
// vendor has it as soon as the file exists.
type sentKey struct {
	file     string // a public key in PEM, a certificate or a JSON Web Key
	variable string // the environment variable with the client ID
	id       string
	register func(sim *vendorsim.Sim, id string, key jose.JSONWebKey)
}

var sentKeys = []sentKey{
	{"kensho.pub", "KENSHO_CLIENT_ID", "0oa1clientid2", toKensho},
	{"kensho-archive.pub", "KENSHO_ARCHIVE_CLIENT_ID", "0oa3archive4", toKensho},
	{"kensho-archive-next.pub", "KENSHO_ARCHIVE_NEXT_CLIENT_ID", "0oa5archive6", toKensho},
	{"payroll.jwk", "OAUTH2_PAYROLL_CLIENT_ID", "oauth2-payroll-0123456789", to(vendorsim.OAuthClient{
		Scopes: []string{"invoices.read"}, AuthMethods: []string{vendorsim.PrivateKeyJWT},
		Grants: []string{vendorsim.ClientCredentialsGrant},
	})},
	{"crm.jwk", "CRM_SIGNING_CLIENT_ID", "oauth2-crm-0123456789", to(vendorsim.OAuthClient{
		Scopes: []string{"invoices.read", "openid"}, AuthMethods: []string{vendorsim.PrivateKeyJWT},
		Grants:      []string{vendorsim.RefreshTokenGrant, vendorsim.AuthorizationCodeGrant},
		RedirectURI: redirectURI, Rotate: true,
	})},
	{"okta-ledger.jwk", "OKTA_LEDGER_CLIENT_ID", "0oa7ledger8", to(vendorsim.OAuthClient{
		Issuer: okta.server.Issuer, Scopes: []string{"invoices.read", "invoices.write"},
		AuthMethods: []string{vendorsim.PrivateKeyJWT}, Grants: []string{vendorsim.ClientCredentialsGrant},
	})},
	{"entra.crt", "ENTRA_CLIENT_ID", oauthClientID, toEntra},
	{"entra-next.crt", "ENTRA_CLIENT_ID", oauthClientID, toEntra},
	{"salesforce.crt", "SALESFORCE_JWT_CLIENT_ID", "3MVG9jwt.first", to(salesforceJWT)},
	{"salesforce-next.crt", "SALESFORCE_JWT_NEXT_CLIENT_ID", "3MVG9jwt.next", to(salesforceJWT)},
}

// salesforceJWT is a client of Salesforce with the JWT bearer flow.
var salesforceJWT = vendorsim.OAuthClient{
	Issuer: salesforce.server.Issuer, Grants: []string{vendorsim.JWTBearerGrant},
	Audience: "https://login.salesforce.com", Subject: "integration@example.com",
}

func toKensho(sim *vendorsim.Sim, id string, key jose.JSONWebKey) {
	if key, isRSA := key.Key.(*rsa.PublicKey); isRSA {
		sim.AddClient(id, key, "")
	}
}

// to returns a function that registers a client with a key.
func to(client vendorsim.OAuthClient) func(*vendorsim.Sim, string, jose.JSONWebKey) {
	return func(sim *vendorsim.Sim, id string, key jose.JSONWebKey) {
		client := client
		client.ID, client.Keys = id, map[string]crypto.PublicKey{key.KeyID: key.Key}
		if key.Algorithm != "" {
			client.Algorithms = []string{key.Algorithm}
		}
		sim.AddOAuthClient(client)
	}
}

// toEntra adds a certificate to the client, which keeps its secrets. Entra finds the key by the
// certificate's thumbprint.
func toEntra(sim *vendorsim.Sim, _ string, key jose.JSONWebKey) {
	client := entra.registered()
	client.AuthMethods = append(slices.Clone(client.AuthMethods), vendorsim.PrivateKeyJWT)
	client.Keys, client.Algorithms = map[string]crypto.PublicKey{"": key.Key}, []string{"PS256"}
	client.AssertionHeaders = map[string]string{"x5t#S256": base64.RawURLEncoding.EncodeToString(key.CertificateThumbprintSHA256)}
	sim.AddOAuthClient(client)
}

// deliver registers the keys that the customer has sent.
func (c *Customer) deliver() {
	for _, k := range sentKeys {
		content, err := os.ReadFile(filepath.Join(c.dir, k.file))
		if err != nil || string(content) == c.stale[k.file] {
			continue
		}
		if key, err := parsePublicKey(content); err == nil { // otherwise the file is not complete yet
			k.register(c.sim, k.id, key)
		}
	}
}

func parsePublicKey(content []byte) (key jose.JSONWebKey, err error) {
	block, _ := pem.Decode(content)
	switch {
	case block == nil:
		err = key.UnmarshalJSON(content)
	case block.Type == "CERTIFICATE":
		var certificate *x509.Certificate
		if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
			thumbprint := sha256.Sum256(certificate.Raw)
			key.Key, key.CertificateThumbprintSHA256 = certificate.PublicKey, thumbprint[:]
		}
	default:
		key.Key, err = x509.ParsePKIXPublicKey(block.Bytes)
	}
	return key, err
}

// privateKeys are the keys that the customer has at first. The next one is for a rotation.
type privateKeys struct{ first, next *rsa.PrivateKey }

func newPrivateKeys() (*privateKeys, error) {
	first, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	next, err := rsa.GenerateKey(rand.Reader, 2048)
	return &privateKeys{first, next}, err
}

// The Google service accounts, one with two keys, and one that may act for people.
const (
	googleAccount   = "billing@acme.iam.gserviceaccount.com"
	peoplesAccount  = "people@acme.iam.gserviceaccount.com"
	googleKeyID     = "0123456789abcdef"
	googleNextKeyID = "fedcba9876543210"
)

const (
	kenshoFile     = "kensho.pem"
	oauth2File     = "oauth2.pem"
	gitHubFile     = "github-app.pem"
	googleFile     = "key.json"
	googleNextFile = "key-next.json"
	peoplesFile    = "people.json"
)

// Files are the names of the files that Open writes.
var Files = []string{kenshoFile, oauth2File, gitHubFile, googleFile, googleNextFile, peoplesFile}

// writeKeys writes the files with the private keys.
func (c *Customer) writeKeys(k *privateKeys) error {
	first, next := encode(k.first), encode(k.next)
	c.secrets = []string{first, next}
	return errors.Join(
		c.write(kenshoFile, first),
		c.write(oauth2File, first),
		c.write(gitHubFile, first),
		c.writeGoogleKey(googleFile, googleAccount, googleKeyID, first),
		c.writeGoogleKey(googleNextFile, googleAccount, googleNextKeyID, next),
		c.writeGoogleKey(peoplesFile, peoplesAccount, googleKeyID, first),
	)
}

// writeGoogleKey writes a file as the Google Cloud console creates it.
func (c *Customer) writeGoogleKey(name, account, id, key string) error {
	content, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": account, "private_key_id": id, "private_key": key,
	})
	if err != nil {
		return err
	}
	return c.write(name, string(content))
}

func encode(key *rsa.PrivateKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}
