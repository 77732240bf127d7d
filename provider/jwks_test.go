package provider_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

func TestOnlyKeysThatVerifySignaturesAreRead(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	p, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	e, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	text, err := json.Marshal(map[string]any{"keys": []any{
		map[string]string{"kty": "OKP", "crv": "X25519", "x": "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
		map[string]string{"kty": "EC", "crv": "secp256k1", "x": "eb5mfvncu6xVoGKVzocLBwKb_NstzijZWfKBWxb4F5g", "y": "SDradyajxGVdpPv8DhEIqP0XtEimhVQZnEfQj_sQ1Lg"},
		map[string]string{"kty": "new"},
		"not a key",
		jose.JSONWebKey{Key: []byte("a shared secret")},
		jose.JSONWebKey{Key: private},
		jose.JSONWebKey{Key: &r.PublicKey, Use: "enc"},
		jose.JSONWebKey{Key: &r.PublicKey, Use: "sig"},
		jose.JSONWebKey{Key: &p.PublicKey},
		jose.JSONWebKey{Key: e},
	}})
	require.NoError(t, err)
	var keys provider.KeySet
	require.NoError(t, json.Unmarshal(text, &keys))
	assert.Equal(t, provider.KeySet{crypto.PublicKey(&r.PublicKey), &p.PublicKey, e}, keys)
	assert.Error(t, json.Unmarshal([]byte(`{"keys":"none"}`), &keys))
}
