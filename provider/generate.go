package provider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// GenerateKeyLike returns a new private key, PKCS#8 in PEM, of the same type and size as another one in PEM. Its error
// is of kind Invalid if that cannot be parsed.
func GenerateKeyLike(text string) (string, error) {
	current, err := parsePrivateKey(text)
	if err != nil {
		return "", err
	}
	var next crypto.Signer
	switch current := current.(type) {
	case *rsa.PrivateKey:
		next, err = rsa.GenerateKey(rand.Reader, current.N.BitLen())
	case *ecdsa.PrivateKey:
		next, err = ecdsa.GenerateKey(current.Curve, rand.Reader)
	default:
		_, next, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		return "", Errorf(Unavailable, "cannot generate a private key: %s", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(next)
	if err != nil {
		return "", Errorf(Invalid, "private_key: has no PKCS#8 form")
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// A PublicKey is the public half of a private key, in the forms that vendors take.
type PublicKey struct {
	PEM        string         // SubjectPublicKeyInfo
	DER        string         // SubjectPublicKeyInfo in base64
	JWK        map[string]any // RFC 7517, with use and kid
	Thumbprint string         // RFC 7638, SHA-256; the kid
}

// PublicHalf returns the public half of a private key in PEM. Its error is of kind Invalid.
func PublicHalf(privateKey string) (PublicKey, error) {
	key, err := parsePrivateKey(privateKey)
	if err != nil {
		return PublicKey{}, err
	}
	invalid := Errorf(Invalid, "private_key: has no public half in the usual forms")
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return PublicKey{}, invalid
	}
	jwk := jose.JSONWebKey{Key: key.Public(), Use: "sig"}
	thumbprint, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return PublicKey{}, invalid
	}
	public := PublicKey{
		PEM:        string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		DER:        base64.StdEncoding.EncodeToString(der),
		Thumbprint: base64.RawURLEncoding.EncodeToString(thumbprint),
	}
	jwk.KeyID = public.Thumbprint
	raw, err := jwk.MarshalJSON()
	if err != nil || json.Unmarshal(raw, &public.JWK) != nil {
		return PublicKey{}, invalid
	}
	return public, nil
}

// SelfSigned returns a certificate in PEM that a private key signs for itself, valid from now until an expiry. Its
// error is of kind Invalid.
func SelfSigned(privateKey, commonName string, expires time.Time) (string, error) {
	key, err := parsePrivateKey(privateKey)
	if err != nil {
		return "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return "", Errorf(Unavailable, "cannot generate a serial number: %s", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    time.Now().Add(-MaxSkew), // by the vendor's clock
		NotAfter:     expires,
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", Errorf(Invalid, "private_key: cannot sign a certificate")
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

// CertificateDER returns the first certificate in a PEM file, in base64.
func CertificateDER(text string) (string, error) {
	der, err := firstCertificate(text)
	return base64.StdEncoding.EncodeToString(der), err
}
