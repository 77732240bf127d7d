//go:build e2e

package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/test/internal/authserver"
)

// A document is what a vendor gets.
type document struct {
	status                  int
	mediaType, cacheControl string
	body                    string
}

// fetch sends a request without a token, as a vendor does.
func fetch(t *testing.T, url string) document {
	t.Helper()
	return fetchBy(t, http.MethodGet, url)
}

func fetchBy(t *testing.T, method, url string) document {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return document{res.StatusCode, res.Header.Get("Content-Type"), res.Header.Get("Cache-Control"), string(body)}
}

func TestAnyoneReadsThePublishedKeysAndNothingElse(t *testing.T) {
	m := enable(t, "team/published")
	mount := w.server.Address + "/v1/team/published/"
	issuer := mount + "jwks/prod"
	m.write("keypair/prod", map[string]any{"key_type": "ec-p256", "publish": true, "issuer": issuer})
	m.write("keypair/unpublished", map[string]any{"key_type": "ec-p256"})

	keys := fetch(t, issuer)
	assert.Equal(t, document{http.StatusOK, "application/jwk-set+json", "public, max-age=3600", keys.body}, keys)
	var set struct{ Keys []map[string]string }
	require.NoError(t, json.Unmarshal([]byte(keys.body), &set))
	require.Len(t, set.Keys, 1)
	assert.Equal(t, "EC", set.Keys[0]["kty"])
	assert.Empty(t, set.Keys[0]["d"])

	assert.Equal(t, document{keys.status, keys.mediaType, keys.cacheControl, ""}, fetchBy(t, http.MethodHead, issuer))

	discovery := fetch(t, issuer+"/.well-known/openid-configuration?v=1")
	assert.Equal(t, document{http.StatusOK, "application/json", "public, max-age=3600", discovery.body}, discovery)
	var discovered map[string]any
	require.NoError(t, json.Unmarshal([]byte(discovery.body), &discovered))
	assert.Equal(t, issuer, discovered["issuer"])
	assert.Equal(t, issuer, discovered["jwks_uri"])

	unknown := fetch(t, mount+"jwks/unknown")
	assert.Equal(t, http.StatusNotFound, unknown.status)
	assert.Equal(t, "no-store", unknown.cacheControl)
	assert.Equal(t, unknown, fetch(t, mount+"jwks/unpublished"))
	for _, path := range []string{"keypair/prod", "keypair/", "jwks/", "jwks/prod/activate", "jwks/prod/.well-known/other"} {
		assert.GreaterOrEqual(t, fetch(t, mount+path).status, http.StatusBadRequest, path)
	}
}

// keyRotations is how often the schedule rotates the keys in the test.
const keyRotations = 3

// The server, of another maker, fetches the keys from Vault, and caches them for at least a minute. Vault does
// its background work once a minute.
func TestRealServerAcceptsKeysThatRotateByThemselves(t *testing.T) {
	t.Parallel()
	m := enable(t, "rotating-keys")
	client := authserver.Unattended("rotating", "", "").PublishedAt(w.server.Address+"/v1/rotating-keys/jwks/prod", "ES256")
	server := startAuthServer(t, client)
	m.write("keypair/prod", map[string]any{"key_type": "ec-p256", "publish": true, "rotation_schedule": "* * * * *", "publish_ahead": "90s"})
	m.write("config/oauth2/prod", map[string]any{
		"issuer": server.Issuer, "client_id": client.ID, "auth_style": "private_key_jwt", "private_key_source": "generated", "scope": "read",
	})
	active := func() string {
		secret, err := m.root.Logical().ReadWithContext(t.Context(), m.path+"/keypair/prod")
		require.NoError(t, err)
		assert.Empty(t, secret.Data["rotation_error"])
		return secret.Data["key_id"].(string)
	}

	accepted := map[string]int{}                                                                                                                  // exchanges by key ID
	for deadline := time.Now().Add(10 * time.Minute); len(accepted) <= keyRotations && time.Now().Before(deadline); time.Sleep(7 * time.Second) { // refresh/ allows ten in a minute
		key := active()
		m.write("refresh/prod", nil) // exchanges
		if active() == key {
			accepted[key]++
		}
		secret, err := m.root.Logical().ReadWithContext(t.Context(), m.path+"/creds/prod")
		require.NoError(t, err)
		assertActive(t, server, secret.Data["access_token"].(string), client, "read")
	}
	assert.Greater(t, len(accepted), keyRotations, "exchanges by key ID: %v", accepted)

	resp, err := m.root.Logical().ReadRawWithContext(t.Context(), m.path+"/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for line := range strings.Lines(string(metrics)) {
		line = strings.TrimSpace(line)
		isFailure := strings.HasPrefix(line, "tokenbroker_exchanges_total{") && !strings.Contains(line, `result="success"`) ||
			strings.HasPrefix(line, `tokenbroker_reads_total{result="failed"}`)
		assert.False(t, isFailure && !strings.HasSuffix(line, " 0.0"), line)
	}
	t.Logf("exchanges by key ID: %v", accepted)
}
