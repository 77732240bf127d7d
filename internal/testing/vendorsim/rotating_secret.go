package vendorsim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // of certificates, where a vendor documents it
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A heldSecret is a secret that a vendor has of an account: a text, or a public key.
type heldSecret struct {
	vendor   string
	id, name string
	text     string
	key      crypto.PublicKey
	kid      string // or the thumbprint of the certificate
	alg      string
	der      []byte // of the certificate

	created           time.Time
	notBefore, expiry time.Time // zero for none
	scope             []string
	shown             map[string]any     // what Okta's API shows of a key, besides the usual
	policies          []cloudflarePolicy // of a token of Cloudflare
	condition         *cloudflareCondition
	isReaders         bool   // whether it is what the vendor issues to readers, and no secret of the account
	role              string // of a key of Datadog

	since, until time.Time // when it is active; until is zero while it is
	removed      time.Time // zero while the vendor stores it
}

// hold adds an active secret to an account that was created at a time.
func (a *account) hold(h *heldSecret, created time.Time) *heldSecret {
	h.vendor, _, _ = strings.Cut(a.kind, "/")
	h.created, h.since = created, created
	a.secrets = append(a.secrets, h)
	return h
}

// first adds the first secret of an account.
func (s *Sim) first(a *account, h *heldSecret) *heldSecret { return a.hold(h, s.now().Add(-age)) }

// stored returns the secrets that the vendor stores.
func (a *account) stored() []*heldSecret {
	return slices.DeleteFunc(slices.Clone(a.secrets), func(h *heldSecret) bool { return !h.removed.IsZero() })
}

// with returns the stored secret with an ID; nil if there is none.
func (a *account) with(id string) *heldSecret {
	for _, h := range a.stored() {
		if h.id == id {
			return h
		}
	}
	return nil
}

// listed returns the secrets that the vendor listed before the changes that are still spreading.
func (s *Sim) listed(a *account) []*heldSecret {
	then := s.now().Add(-s.conduct.Propagation)
	return slices.DeleteFunc(slices.Clone(a.secrets), func(h *heldSecret) bool {
		return h.created.After(then) || !h.removed.IsZero() && !h.removed.After(then)
	})
}

// deactivate makes the vendor refuse a secret.
func (s *Sim) deactivate(h *heldSecret) {
	if h.isActive() {
		h.until = s.now()
	}
}

// remove makes the vendor forget a secret.
func (s *Sim) remove(h *heldSecret) {
	s.deactivate(h)
	h.removed = s.now()
}

func (h *heldSecret) isActive() bool { return !h.since.IsZero() && h.until.IsZero() }

// isValid reports whether a time is between the dates of a secret.
func (h *heldSecret) isValid(now time.Time) bool {
	return !now.Before(h.notBefore) && (h.expiry.IsZero() || now.Before(h.expiry))
}

// accepts reports whether the vendor accepts a secret now, by what its servers know.
func (s *Sim) accepts(h *heldSecret) bool {
	then := s.now()
	if slices.Contains([]string{"entra", "google", "auth0", "okta", "okta-api"}, h.vendor) {
		then = then.Add(-s.conduct.Propagation)
	}
	return h.isValid(s.now()) && !h.since.IsZero() && !then.Before(h.since) && (h.until.IsZero() || then.Before(h.until))
}

// acceptsText reports whether a text is a secret of the account that the vendor accepts.
func (s *Sim) acceptsText(a *account, text string) bool {
	return slices.ContainsFunc(a.secrets, func(h *heldSecret) bool { return text != "" && h.text == text && s.accepts(h) })
}

// issuerOf returns the iss of a JWT, without verifying it.
func issuerOf(assertion string) string {
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(assertion, claims); err != nil {
		return ""
	}
	issuer, _ := claims["iss"].(string)
	return issuer
}

// keyOf returns how an account's accepted keys are found by a header of assertions.
func (s *Sim) keyOf(a *account, header string) func(*jwt.Token) (any, error) {
	return func(token *jwt.Token) (any, error) {
		id, _ := token.Header[header].(string)
		for _, h := range a.secrets {
			if id != "" && h.kid == id && s.accepts(h) {
				if h.alg != "" && token.Method.Alg() != h.alg {
					return nil, errForeignAlgorithm
				}
				return h.key, nil
			}
		}
		return nil, fmt.Errorf("%w: %s is %q", errForeignKey, header, id)
	}
}

// secretField finds a secret by a field.
func secretField(name string) func(*account, map[string]any) []*heldSecret {
	return func(a *account, fields map[string]any) []*heldSecret {
		text, _ := fields[name].(string)
		return []*heldSecret{a.latest(func(h *heldSecret) bool { return text != "" && h.text == text })}
	}
}

// keyField finds a key by private_key, and by a field with its ID, unless that is "".
func keyField(idField string) func(*account, map[string]any) []*heldSecret {
	return func(a *account, fields map[string]any) []*heldSecret {
		public := publicOf(fields["private_key"])
		id, _ := fields[idField].(string)
		return []*heldSecret{a.latest(func(h *heldSecret) bool { return isSameKey(h.key, public) && (idField == "" || h.kid == id) })}
	}
}

// certificateField finds a certificate by certificate and private_key.
func certificateField(a *account, fields map[string]any) []*heldSecret {
	text, _ := fields["certificate"].(string)
	public := publicOf(fields["private_key"])
	return []*heldSecret{a.latest(func(h *heldSecret) bool {
		block, _ := pem.Decode([]byte(text))
		return block != nil && bytes.Equal(h.der, block.Bytes) && isSameKey(h.key, public)
	})}
}

// latest returns the secret that was added last of those that are described; nil if there is none.
func (a *account) latest(is func(*heldSecret) bool) *heldSecret {
	for _, h := range slices.Backward(a.secrets) {
		if is(h) {
			return h
		}
	}
	return nil
}

func isSameKey(key, other crypto.PublicKey) bool {
	known, isKey := key.(interface{ Equal(crypto.PublicKey) bool })
	return isKey && other != nil && known.Equal(other)
}

// publicOf returns the public half of a private key in PEM; nil if it is not one.
func publicOf(field any) crypto.PublicKey {
	text, _ := field.(string)
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil
	}
	return key.(crypto.Signer).Public()
}

// firstKeys are the keys of first secrets, one for each kind, as their generation takes long.
var firstKeys sync.Map

// A keyGenerator generates a private key.
type keyGenerator func() (crypto.Signer, error)

// firstKey returns the key of the first secrets of a kind.
func (s *Sim) firstKey(kind string, generate keyGenerator) (key crypto.Signer, text string) {
	once, _ := firstKeys.LoadOrStore(kind, sync.OnceValue(func() crypto.Signer {
		key, err := generate()
		if err != nil {
			panic(err)
		}
		return key
	}))
	key = once.(func() crypto.Signer)()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return key, s.secret(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func newRSA() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }

func newEC() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// firstCertificate returns a certificate of a first key.
func firstCertificate(key crypto.Signer, from, to time.Time) (der []byte, text string) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "first"}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return der, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// thumbprints returns the headers x5t#S256 and x5t of a certificate (RFC 7515 §4.1).
func thumbprints(der []byte) (s256, s1 string) {
	sum, old := sha256.Sum256(der), sha1.Sum(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), base64.RawURLEncoding.EncodeToString(old[:])
}
