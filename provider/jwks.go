package provider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"

	"github.com/go-jose/go-jose/v4"
)

// A KeySet has the keys of a JSON Web Key Set that verify signatures: RSA, ECDSA on NIST's curves, and Ed25519. Keys
// for encryption and of other kinds are ignored (RFC 7517 §5), as is an element that is not a valid key.
type KeySet []crypto.PublicKey

// UnmarshalJSON implements json.Unmarshaler.
func (s *KeySet) UnmarshalJSON(text []byte) error {
	var published struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &published); err != nil {
		return err
	}
	*s = nil
	for _, one := range published.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(one, &key) != nil || key.Use != "" && key.Use != "sig" {
			continue
		}
		switch key.Key.(type) {
		case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey: // those that oidc.StaticKeySet verifies with
			*s = append(*s, key.Key)
		}
	}
	return nil
}
