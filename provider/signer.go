package provider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// A Signer signs assertions (RFC 7523) with a private key. It is safe for concurrent use.
type Signer struct {
	key    any // crypto.Signer, or the bytes of a shared secret
	method jwt.SigningMethod
	keyID  string
}

// NewSigner returns a Signer for the first private key in a PEM file: RSA (PKCS#1 or PKCS#8),
// EC (SEC 1 or PKCS#8) or Ed25519 (PKCS#8). algorithm is one of [Algorithms] that fits the
// key, or "" for the default: RS256, ES256, ES384 or ES512 by the curve, or EdDSA. keyID is
// sent as kid; "" omits it. accepted are the algorithms that the vendor accepts, the preferred
// first; all if there are none. Errors name private_key or signing_algorithm and do not quote the
// key.
func NewSigner(text, algorithm, keyID string, accepted ...string) (*Signer, error) {
	key, err := parsePrivateKey(text)
	if err != nil {
		return nil, err
	}
	fit := algorithms(key)
	if len(fit) > 0 && len(accepted) > 0 {
		fits := func(one string) bool { return slices.Contains(algorithms(key), one) }
		if fit = filter(accepted, fits); len(fit) == 0 {
			return nil, Errorf(Invalid, "private_key: the vendor accepts only %s, which another kind of key signs", strings.Join(accepted, ", "))
		}
	}
	switch {
	case len(fit) == 0:
		return nil, Errorf(Invalid, "private_key: unsupported curve; give a key on P-256, P-384 or P-521, or an Ed25519 or RSA key")
	case algorithm == "":
		algorithm = fit[0]
	case !slices.Contains(fit, algorithm):
		return nil, Errorf(Invalid, "signing_algorithm: %s does not fit the private_key; use %s", Quote(algorithm), strings.Join(fit, " or "))
	}
	return &Signer{key: key, method: jwt.GetSigningMethod(algorithm), keyID: keyID}, nil
}

func filter(list []string, keep func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(list), func(one string) bool { return !keep(one) })
}

// NewSharedSigner returns a Signer with a secret that the vendor has too (HS256, RFC 7518 §3.2).
func NewSharedSigner(secret []byte, keyID string) *Signer {
	return &Signer{key: secret, method: jwt.SigningMethodHS256, keyID: keyID}
}

// Algorithm returns the algorithm of the signatures.
func (s *Signer) Algorithm() string { return s.method.Alg() }

// IsRSA reports whether the key is an RSA key.
func (s *Signer) IsRSA() bool {
	_, ok := s.key.(*rsa.PrivateKey)
	return ok
}

// Sign returns the claims as a signed JWT whose header has further members.
func (s *Signer) Sign(claims map[string]any, header map[string]string) (string, error) {
	token := jwt.NewWithClaims(s.method, jwt.MapClaims(claims))
	if s.keyID != "" {
		token.Header["kid"] = s.keyID
	}
	for name, value := range header {
		token.Header[name] = value
	}
	signed, err := token.SignedString(s.key)
	if err != nil {
		return "", Errorf(Invalid, "private_key: cannot sign")
	}
	return signed, nil
}

// Algorithms are the supported signing algorithms (RFC 7518 §3.1, RFC 8037 §3.1).
var Algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// algorithms returns the algorithms that fit a key, the default first.
func algorithms(key crypto.Signer) []string {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case ed25519.PrivateKey:
		return []string{"EdDSA"}
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256():
			return []string{"ES256"}
		case elliptic.P384():
			return []string{"ES384"}
		case elliptic.P521():
			return []string{"ES512"}
		}
	}
	return nil
}
