package transcripts

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

var jwtPattern = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`)

// checkAssertion compares the header and the claims of a signed JWT with those that the vendor documents.
func (s *transcript) checkAssertion(signed string) {
	var expected struct{ Header, Claims map[string]any }
	require.NoError(s.T, json.Unmarshal([]byte(s.filled(s.parts["assertion"])), &expected), "the transcript has the part %s/assertion", s.grant)
	parts := strings.Split(signed, ".")
	header, claims := decodePart(s, parts[0]), decodePart(s, parts[1])
	compare(s, "header", expected.Header, header, 0)
	iat, _ := claims["iat"].(float64)
	assert.InDelta(s.T, float64(time.Now().Unix()), iat, 10, "iat is now")
	compare(s, "claims", expected.Claims, claims, iat)
	s.checkSignature(signed)
}

// checkSignature checks that a key or a secret of the credential has signed a JWT.
func (s *transcript) checkSignature(signed string) {
	parser := jwt.NewParser(jwt.WithoutClaimsValidation())
	for _, key := range s.verificationKeys() {
		if _, err := parser.Parse(signed, func(*jwt.Token) (any, error) { return key, nil }); err == nil {
			return
		}
	}
	assert.Fail(s.T, "no key of the credential has signed the assertion", signed)
}

// verificationKeys returns the public keys of the credential's private keys, and what its secrets decode to.
func (s *transcript) verificationKeys() []any {
	var keys []any
	schemas := s.p.Fields()
	for name, value := range s.fields() {
		text, _ := value.(string)
		if text == "" || !schemas[name].DisplayAttrs.Sensitive {
			continue
		}
		if block, _ := pem.Decode([]byte(text)); block != nil && block.Type == "PRIVATE KEY" {
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			require.NoError(s.T, err)
			keys = append(keys, key.(crypto.Signer).Public())
			continue
		}
		keys = append(keys, []byte(text))
		for _, decode := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString} {
			if secret, err := decode(text); err == nil {
				keys = append(keys, secret)
			}
		}
	}
	return keys
}

// filled returns a text with the thumbprints of the fixtures.
func (s *transcript) filled(text string) string {
	for marker, of := range map[string]func() (string, error){
		"<x5t>":           func() (string, error) { return provider.CertificateSHA1(fixtures["@certificate"]) },
		"<x5t_s256>":      func() (string, error) { return provider.CertificateSHA256(fixtures["@certificate"]) },
		"<public_sha256>": func() (string, error) { return provider.PublicKeyDigest(fixtures["@rsa"]) },
	} {
		if strings.Contains(text, marker) {
			value, err := of()
			require.NoError(s.T, err)
			text = strings.ReplaceAll(text, marker, value)
		}
	}
	return text
}

func decodePart(s *transcript, part string) map[string]any {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	require.NoError(s.T, err)
	var object map[string]any
	require.NoError(s.T, json.Unmarshal(raw, &object))
	return object
}

// compare compares two objects. <time> and <iat+120> stand for a time, <random> for any text.
func compare(s *transcript, what string, expected, got map[string]any, iat float64) {
	s.Helper()
	resolved := map[string]any{}
	for name, value := range expected {
		marker, isText := value.(string)
		switch {
		case isText && strings.HasPrefix(marker, "<iat"):
			offset, err := strconv.Atoi(cmp.Or(strings.TrimSuffix(strings.TrimPrefix(marker, "<iat"), ">"), "0"))
			require.NoError(s.T, err)
			resolved[name] = iat + float64(offset)
		case marker == "<time>":
			_, isNumber := got[name].(float64)
			assert.True(s.T, isNumber, "%s: %s is a time", what, name)
			resolved[name] = got[name]
		case marker == "<random>":
			assert.NotEmpty(s.T, got[name], "%s: %s", what, name)
			resolved[name] = got[name]
		default:
			resolved[name] = value
		}
	}
	assert.Equal(s.T, resolved, got, what)
}
