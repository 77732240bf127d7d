package credential

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A Keypair is the stored entry that credentials take their private key from.
type Keypair struct {
	storage.Format

	// Active is the pair that credentials use. Pending, if set, replaces it on activation.
	Active  *Pair `json:"active"`
	Pending *Pair `json:"pending,omitempty"`

	Allowed

	// Identity changes when the pair signs as another issuer, or no longer for a subject or an audience, while
	// credentials use it. What they got before is then void.
	Identity string `json:"identity,omitempty"`

	Publication Publication `json:"publication,omitzero"`

	// Activated holds, by name, the entries that the activation of Active gave to credentials,
	// until they are stored under the credentials' own keys (activate.go).
	Activated map[string]unsettledEntry `json:"activated,omitempty"`
}

// Check implements storage.Entry.
func (k *Keypair) Check() error {
	if k.Active == nil {
		return errors.New("key pair without keys")
	}
	for _, a := range k.Activated {
		if a.Entry == nil {
			return errors.New("activation without a credential")
		}
		if err := a.Entry.Check(); err != nil {
			return err
		}
	}
	return nil
}

// repairKeypair tells an operator how to repair a key pair that cannot be decoded.
const repairKeypair = "give the credentials that use it another key, then delete it and create a new one"

// getKeypair returns the key pair with this name; nil if there is none.
func getKeypair(ctx context.Context, s logical.Storage, name string) (*Keypair, error) {
	return storage.Get[Keypair](ctx, s, storage.KeypairKey(name), repairKeypair)
}

func (st *Store) putKeypair(ctx context.Context, s logical.Storage, name string, k *Keypair) (err error) {
	defer func() {
		if err != nil {
			st.keySets.doubt(name, newKeySet(k, wallTime()))
		} else {
			st.keySets.forget(name)
		}
	}()
	return storage.Retry(ctx, func() error { return storage.Put(ctx, s, storage.KeypairKey(name), k) })
}

// A Pair is a generated private key and its metadata.
type Pair struct {
	KeyType     string    `json:"key_type"`
	CreatedTime time.Time `json:"created_time"`

	// PublishedTime is since when a pending pair is published; zero if it is not.
	PublishedTime time.Time `json:"published_time,omitzero"`

	// SignedFor is the longest lifetime of what the pair has signed as the active one, as far as it is known before
	// the pair is retired: credentials may stop using the pair, or use shorter lifetimes, before that.
	SignedFor time.Duration `json:"signed_for,omitempty"`

	// KeyID is the thumbprint of the public key (RFC 7638, SHA-256).
	KeyID string `json:"key_id"`

	// PrivateKey is PKCS#8 in PEM. Only the vendor's package receives it.
	PrivateKey string `json:"private_key"`
}

// signing returns the pair after it was given to a credential that signs with it for a lifetime.
func (p *Pair) signing(lifetime time.Duration) *Pair {
	next := *p
	next.SignedFor = max(p.SignedFor, lifetime)
	return &next
}

// A keyType is a type of key that can be generated.
type keyType struct {
	name       string
	algorithms []jose.SignatureAlgorithm // that it can sign with, the default first
	newKey     func() (crypto.Signer, error)
}

var rsaAlgorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}

// keyTypes starts with the default, which every vendor with key authentication accepts.
var keyTypes = []keyType{
	{"rsa-2048", rsaAlgorithms, rsaKey(2048)},
	{"rsa-3072", rsaAlgorithms, rsaKey(3072)},
	{"rsa-4096", rsaAlgorithms, rsaKey(4096)},
	{"ec-p256", []jose.SignatureAlgorithm{jose.ES256}, ecKey(elliptic.P256())},
	{"ec-p384", []jose.SignatureAlgorithm{jose.ES384}, ecKey(elliptic.P384())},
	{"ec-p521", []jose.SignatureAlgorithm{jose.ES512}, ecKey(elliptic.P521())},
	{"ed25519", []jose.SignatureAlgorithm{jose.EdDSA}, ed25519Key},
}

// jwkAlgorithm returns the alg of the key's JWK; "" if several are possible.
func (t keyType) jwkAlgorithm() string {
	if len(t.algorithms) > 1 {
		return ""
	}
	return string(t.algorithms[0])
}

func rsaKey(bits int) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, bits) }
}

func ecKey(curve elliptic.Curve) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return ecdsa.GenerateKey(curve, rand.Reader) }
}

func ed25519Key() (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// KeyTypes returns the names of the key types, the default first.
func KeyTypes() []string {
	names := make([]string, len(keyTypes))
	for i, t := range keyTypes {
		names[i] = t.name
	}
	return names
}

func findKeyType(name string) (keyType, error) {
	for _, t := range keyTypes {
		if t.name == name {
			return t, nil
		}
	}
	return keyType{}, provider.Errorf(provider.Invalid, "key_type: unknown type %s (allowed: %s)", provider.Quote(name), strings.Join(KeyTypes(), ", "))
}

// generatePair returns a new pair. Large RSA keys take seconds.
func generatePair(typeName string) (*Pair, error) {
	t, err := findKeyType(typeName)
	if err != nil {
		return nil, err
	}
	key, err := t.newKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	thumbprint, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return &Pair{
		KeyType:     t.name,
		CreatedTime: time.Now().Round(0).UTC(),
		KeyID:       base64.RawURLEncoding.EncodeToString(thumbprint),
		PrivateKey:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}, nil
}

// Public returns the public key in PEM (SubjectPublicKeyInfo) and as a JSON Web Key (RFC 7517). Its
// error does not contain the private key.
func (p *Pair) Public() (publicKey string, jwk map[string]any, err error) {
	publicKey, raw, err := p.public()
	if err == nil && json.Unmarshal(raw, &jwk) != nil {
		err = errDamagedPair
	}
	return publicKey, jwk, err
}

var errDamagedPair = errors.New("the key pair is damaged; delete it and create a new one")

// public is Public with the JSON Web Key as it is published.
func (p *Pair) public() (publicKey string, jwk json.RawMessage, err error) {
	t, err := findKeyType(p.KeyType)
	if err != nil {
		return "", nil, errDamagedPair
	}
	block, _ := pem.Decode([]byte(p.PrivateKey))
	if block == nil {
		return "", nil, errDamagedPair
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return "", nil, errDamagedPair
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return "", nil, errDamagedPair
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return "", nil, errDamagedPair
	}
	jwk, err = jose.JSONWebKey{Key: signer.Public(), KeyID: p.KeyID, Algorithm: t.jwkAlgorithm(), Use: "sig"}.MarshalJSON()
	if err != nil {
		return "", nil, errDamagedPair
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), jwk, nil
}
