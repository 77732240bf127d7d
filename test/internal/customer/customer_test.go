package customer_test

import (
	"crypto/ed25519"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/test/internal/customer"
)

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestCloseLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	c, err := customer.Open(vendorsim.New(), dir)
	require.NoError(t, err)
	require.ElementsMatch(t, customer.Files, files(t, dir))

	require.NoError(t, os.Remove(filepath.Join(dir, "key.json")), "as docs/google.md does")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kensho.pem"), []byte("another key"), 0o600), "as docs/kensho.md does")
	require.NoError(t, c.Close())
	assert.Empty(t, files(t, dir))
}

func TestOpenReplacesNoFile(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "key.json")
	require.NoError(t, os.WriteFile(real, []byte("a real key"), 0o600))
	_, err := customer.Open(vendorsim.New(), dir)
	require.ErrorContains(t, err, real)
	require.ErrorContains(t, err, "move it away")
	assert.Equal(t, []string{"key.json"}, files(t, dir))
	content, err := os.ReadFile(real)
	require.NoError(t, err)
	assert.Equal(t, "a real key", string(content))
}

// A public key is sent when a page writes it. One of an earlier customer is not sent.
func TestVendorsHaveOnlyTheKeysOfThisCustomer(t *testing.T) {
	dir := t.TempDir()
	writeKey := func() {
		_, key, err := ed25519.GenerateKey(nil)
		require.NoError(t, err)
		content, err := (&jose.JSONWebKey{Key: key.Public(), KeyID: "1"}).MarshalJSON()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "okta-ledger.jwk"), content, 0o600))
	}
	writeKey()
	c, err := customer.Open(vendorsim.New(), dir)
	require.NoError(t, err)
	request := func() string {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.Variables()["OKTA_LEDGER_CLIENT_ID"]}}
		r := httptest.NewRequestWithContext(t.Context(), "POST", "https://acme.okta.com/oauth2/default/v1/token", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		c.ServeHTTP(w, r)
		return w.Body.String()
	}
	assert.Contains(t, request(), "unknown client")
	writeKey()
	assert.Contains(t, request(), "the client may not authenticate with none", "the client has a key")
}
