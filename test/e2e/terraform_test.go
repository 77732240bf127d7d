//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestTerraformExampleAppliesConvergesAndDestroys(t *testing.T) {
	m := unmounted(t)
	tf := newExample(t, m)
	tf.run(0, "fmt", "-check", "-diff", "-recursive")
	tf.run(0, "init")
	tf.run(0, "validate")

	// The error of an apply says why a credential is rejected; a later apply succeeds.
	tf.set("client_id", "of-nobody")
	assert.Contains(t, tf.apply(1), "rejected the credential")
	tf.set("client_id", clientID)
	tf.apply(0)
	tf.withoutKey() // needed only when it changes
	tf.assertNoChanges()
	assert.Contains(t, tf.apply(0), "0 added, 0 changed, 0 destroyed", "a second apply changes nothing")

	app := m.client(tf.output("policy"))
	var tokens []string
	read := func(path string) *api.Secret {
		secret, err := app.Logical().ReadWithContext(t.Context(), path)
		require.NoError(t, err)
		token := secret.Data["access_token"].(string)
		assert.True(t, m.sim.Accepts(token))
		tokens = append(tokens, token)
		return secret
	}
	secret := read(tf.output("creds_path"))
	assert.Equal(t, []any{"kensho:app:link"}, secret.Data["scope"], "the role's scope, not the credential's")
	assert.LessOrEqual(t, secret.LeaseDuration, 900)
	assert.Equal(t, secret.Data["access_token"], read(tf.output("token_path")).Data["access_token"])
	for _, path := range []string{"creds/batch", "token/batch", "roles/link-reports", "config/kensho/batch"} {
		_, err := app.Logical().ReadWithContext(t.Context(), "kensho/"+path)
		assertStatus(t, http.StatusForbidden, "", err)
	}

	// A setting that was changed outside Terraform is detected and corrected, without the key.
	require.NoError(t, w.root.Sys().TuneMountAllowNilWithContext(t.Context(), "kensho", api.TuneMountConfigInput{Description: new("changed")}))
	m.write("roles/link-reports", map[string]any{"ttl": "1h"})
	m.write("config/kensho/batch", map[string]any{"scope": "kensho:app:link"})
	tf.assertChanges()
	assert.Contains(t, tf.apply(0), "0 added, 3 changed, 0 destroyed")
	tf.assertNoChanges()

	// A new key pair replaces the old one. The first attempts fail, and until the last the old one
	// works.
	old := read(tf.output("creds_path")).Data["access_token"]
	first, second := privateKeyPEM(), encodeKey(newKey(t))
	tf.set("private_key_version", "2")
	assert.Contains(t, tf.apply(1), "Output: The secret must be written, but")
	tf.set("private_key", "")
	assert.Contains(t, tf.apply(1), "Output: The secret must be written, but")
	tf.set("private_key", second)
	m.behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, ""))})
	assert.Contains(t, tf.apply(1), "cannot verify the credential")
	assert.Equal(t, old, read(tf.output("creds_path")).Data["access_token"])
	m.behave(vendorsim.Conduct{})
	m.sim.AddClient(clientID, publicKey(t, second), "")
	tf.apply(0)
	tf.withoutKey()
	tf.assertNoChanges()
	assert.NotEqual(t, old, read(tf.output("creds_path")).Data["access_token"])

	secrets := slices.Concat(keyLines(first), keyLines(second), tokens)
	tf.assertNowhere(secrets)
	assert.Contains(t, tf.run(0, "destroy", "-auto-approve"), "5 destroyed")
	mounts, err := w.root.Sys().ListMountsWithContext(t.Context())
	require.NoError(t, err)
	assert.NotContains(t, mounts, "kensho/")

	tf.assertNowhere(secrets)
	for _, secret := range secrets {
		assert.NotContains(t, w.log.String(), secret, "a secret in the server's log")
	}
	assert.Empty(t, m.sim.Violations(), "requests that no vendor documents")
}

func TestTerraformModuleRejectsInvalidVariables(t *testing.T) {
	tf := newTerraform(t, unmounted(t), "modules/tokenbroker", `path "kensho/*" { capabilities = ["deny"] }`)
	tf.run(0, "init")
	assert.Contains(t, tf.run(0, "test"), "12 passed, 0 failed")
}

// newExample returns a runner of the example for a mount.
func newExample(t *testing.T, m *mount) *terraform {
	t.Helper()
	policy, err := os.ReadFile(terraformExample + "/policy.hcl")
	require.NoError(t, err)
	tf := newTerraform(t, m, "", string(policy))
	tf.set("client_id", clientID)
	tf.set("private_key", privateKeyPEM())
	tf.set("token_url", vendorsim.URL(m.base, "https://kensho.okta.com/oauth2/default/v1/token"))
	return tf
}

// unmounted returns a mount with vendors whose path, kensho, Terraform will mount.
func unmounted(t *testing.T) *mount {
	t.Helper()
	m := &mount{world: w, t: t, path: "kensho", sim: vendorsim.New()}
	server := httptest.NewServer(m.sim)
	t.Cleanup(server.Close)
	m.base = server.URL
	m.behave(vendorsim.Conduct{})
	m.sim.AddClient(clientID, &privateKey().PublicKey, "")
	// The mount still exists only if the test failed.
	t.Cleanup(func() { require.NoError(t, w.root.Sys().UnmountWithContext(context.Background(), "kensho")) })
	return m
}

// client returns a client with a token of policies.
func (m *mount) client(policies ...string) *api.Client {
	m.t.Helper()
	token, err := m.root.Auth().Token().CreateWithContext(m.t.Context(), &api.TokenCreateRequest{Policies: policies})
	require.NoError(m.t, err)
	client, err := m.root.Clone()
	require.NoError(m.t, err)
	client.SetToken(token.Auth.ClientToken)
	return client
}

func newKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return key
}

// publicKey returns the public key of a private key in PEM.
func publicKey(t *testing.T, private string) *rsa.PublicKey {
	t.Helper()
	block, _ := pem.Decode([]byte(private))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	require.NoError(t, err)
	return &key.PublicKey
}

// keyLines returns the lines of a PEM key that identify it.
func keyLines(key string) []string {
	lines := strings.Split(strings.TrimSpace(key), "\n")
	return lines[1 : len(lines)-2] // without the PEM frame and the last line, which may be short
}
