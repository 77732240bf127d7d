package provider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// minRSABits is the least that vendors take: Kensho's guide asks for 2048.
const minRSABits = 2048

// A Signer signs assertions (RFC 7523) with a private key.
type Signer struct {
	key    crypto.Signer
	method jwt.SigningMethod
	keyID  string
}

// NewSigner reads a private key in PEM: RSA as PKCS#1 or PKCS#8, or EC as SEC 1 or
// PKCS#8. The algorithm is one that the key is for, or "" for the key's usual one: RS256,
// or ES256 or ES384 by the curve. keyID is sent as kid; "" leaves it out. The errors
// name private_key or signing_algorithm, and quote nothing of the key.
func NewSigner(text, algorithm, keyID string) (*Signer, error) {
	key, err := parsePrivateKey(text)
	if err != nil {
		return nil, err
	}
	usual, fit := algorithms(key)
	switch {
	case len(fit) == 0:
		return nil, Errorf(Invalid, "private_key: is on a curve that no vendor takes; give one on P-256 or P-384, or an RSA key")
	case algorithm == "":
		algorithm = usual
	}
	for _, name := range fit {
		if name == algorithm {
			return &Signer{key: key, method: jwt.GetSigningMethod(algorithm), keyID: keyID}, nil
		}
	}
	return nil, Errorf(Invalid, "signing_algorithm: %.100s is not for this private_key, which signs with %s", algorithm, strings.Join(fit, " or "))
}

// IsRSA is whether the key is an RSA key.
func (s *Signer) IsRSA() bool {
	_, ok := s.key.(*rsa.PrivateKey)
	return ok
}

// Sign is the claims as a signed JWT.
func (s *Signer) Sign(claims map[string]any) (string, error) {
	token := jwt.NewWithClaims(s.method, jwt.MapClaims(claims))
	if s.keyID != "" {
		token.Header["kid"] = s.keyID
	}
	signed, err := token.SignedString(s.key)
	if err != nil {
		return "", Errorf(Invalid, "private_key: cannot sign")
	}
	return signed, nil
}

// algorithms are those that a key is for, and its usual one.
func algorithms(key crypto.Signer) (usual string, fit []string) {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return "RS256", []string{"RS256", "PS256"}
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256():
			return "ES256", []string{"ES256"}
		case elliptic.P384():
			return "ES384", []string{"ES384"}
		}
	}
	return "", nil
}

func parsePrivateKey(text string) (crypto.Signer, error) {
	block, rest := pem.Decode([]byte(text))
	for block != nil && block.Type == "EC PARAMETERS" { // which openssl puts before the key
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return nil, Errorf(Invalid, "private_key: is no PEM; give the whole file, from -----BEGIN to END-----")
	}
	var key any
	var err error
	switch {
	case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
		return nil, Errorf(Invalid, "private_key: is protected by a passphrase; give the key without one")
	case block.Type == "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case block.Type == "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case block.Type == "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, Errorf(Invalid, `private_key: the PEM is not a private key; give "RSA PRIVATE KEY", "EC PRIVATE KEY" or "PRIVATE KEY"`)
	}
	// What the parser says may quote the key, so it is not passed on.
	if err != nil {
		return nil, Errorf(Invalid, "private_key: the PEM holds no key that can be read")
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < minRSABits {
			return nil, Errorf(Invalid, "private_key: has %d bits; at least %d are needed", bits, minRSABits)
		}
		return key, nil
	case *ecdsa.PrivateKey:
		return key, nil
	}
	return nil, Errorf(Invalid, "private_key: is neither an RSA nor an EC key, which vendors ask for")
}
