package simulation_test

import (
	"crypto"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// generatedKind is the kind of accounts whose key pair is generated in Vault and rotated.
const generatedKind = "OAuth 2.0, generated key"

// makePair generates an account's active or pending key pair, and returns its key ID and public
// key.
func (m *month) makePair(a *account) (id string, key crypto.PublicKey) {
	var resp *logical.Response
	status, message := m.send(logical.UpdateOperation, "keypair/"+a.name, map[string]any{"key_type": "ec-p256"}, &resp)
	if !assert.Equal(m.T, http.StatusOK, status, message) {
		return "", nil
	}
	prefix := ""
	if resp.Data["pending_key_id"] != nil {
		prefix = "pending_"
	}
	return resp.Data[prefix+"key_id"].(string), engine.PublicKey(m.T, resp.Data[prefix+"public_key"])
}

// register replaces the keys that the vendor accepts.
func (a *account) register(keys map[string]crypto.PublicKey) {
	a.sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: engine.ClientID, Keys: keys, AuthMethods: []string{vendorsim.PrivateKeyJWT}, Grants: []string{vendorsim.ClientCredentialsGrant},
	})
}

// rotate rotates an account's key pair at a vendor that takes up to two days to register a key. A
// first activation comes too early, and must fail without an effect.
func (m *month) rotate(a *account, rng *rand.Rand) {
	var before *logical.Response
	status, message := m.send(logical.ReadOperation, "keypair/"+a.name, nil, &before)
	if !assert.Equal(m.T, http.StatusOK, status, message) {
		return
	}
	older, olderKey := before.Data["key_id"].(string), engine.PublicKey(m.T, before.Data["public_key"])
	newer, newerKey := m.makePair(a)
	if status, message := m.activate(a); status == http.StatusOK {
		m.T.Errorf("%s: a key was activated that its vendor does not accept: %s", a.name, message)
	}
	if m.ended(time.Duration(rng.Int64N(int64(2 * 24 * time.Hour)))) {
		return
	}
	a.register(map[string]crypto.PublicKey{older: olderKey, newer: newerKey})
	for wait := time.Minute; ; wait = min(2*wait, time.Hour) {
		status, message := m.activate(a)
		if status == http.StatusOK {
			break
		}
		if !a.excused(time.Now().Add(-time.Minute), time.Now()) {
			m.T.Errorf("%s: %s is not activated: %d %s", time.Now(), a.name, status, message)
		}
		if m.ended(wait) {
			return
		}
	}
	a.note(event{at: time.Now(), exchange: true})
	m.rotations.Add(1)
	a.register(map[string]crypto.PublicKey{newer: newerKey})
}

func (m *month) activate(a *account) (status int, message string) {
	return m.send(logical.UpdateOperation, "keypair/"+a.name+"/activate", nil, nil)
}
