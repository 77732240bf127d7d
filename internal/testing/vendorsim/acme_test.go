package vendorsim_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	acmeTokens = "https://eu.login.acme.example/v1/tokens"
	acmeOrders = "https://eu.api.acme.example/v1/orders"
)

func TestAcmeIssuesTokensForItsAPI(t *testing.T) {
	sim := vendorsim.New()
	sim.AddAcmeKey("key", "https://eu.api.acme.example")
	status, text := call(t, sim, http.MethodPost, acmeTokens, map[string]string{"Content-Type": "application/json", "X-Api-Key": "key"},
		`{"lifetime": 3600, "scopes": ["orders.read"]}`)
	require.Equal(t, http.StatusOK, status, text)
	var answer struct {
		Data struct {
			Token     string `json:"token"`
			ExpiresAt int64  `json:"expires_at"`
			APIURL    string `json:"api_url"`
		} `json:"data"`
	}
	require.NoError(t, json.Unmarshal([]byte(text), &answer))
	assert.WithinDuration(t, time.Now().Add(time.Hour), time.Unix(answer.Data.ExpiresAt, 0), time.Minute)
	assert.Equal(t, "https://eu.api.acme.example", answer.Data.APIURL)
	status, _ = call(t, sim, http.MethodGet, acmeOrders, map[string]string{"X-Acme-Token": answer.Data.Token}, "")
	assert.Equal(t, http.StatusOK, status)
	status, _ = call(t, sim, http.MethodGet, acmeOrders, map[string]string{"X-Acme-Token": "other"}, "")
	assert.Equal(t, http.StatusUnauthorized, status)
	assert.Empty(t, sim.Violations())
}

func TestAcmeAcceptsOnlyDocumentedRequests(t *testing.T) {
	header := map[string]string{"Content-Type": "application/json", "X-Api-Key": "key"}
	with := func(name, value string) map[string]string {
		changed := maps.Clone(header)
		changed[name] = value
		return changed
	}
	const body = `{"lifetime": 3600}`
	for name, c := range map[string]struct {
		method, url string
		header      map[string]string
		body        string
		isViolation bool
	}{
		"an unknown key":       {"POST", acmeTokens, with("X-Api-Key", "other"), body, false},
		"another method":       {"PUT", acmeTokens, header, body, true},
		"a query":              {"POST", acmeTokens + "?a=b", header, body, true},
		"a form":               {"POST", acmeTokens, with("Content-Type", "application/x-www-form-urlencoded"), "lifetime=3600", true},
		"no key":               {"POST", acmeTokens, with("X-Api-Key", ""), body, true},
		"a key as a bearer":    {"POST", acmeTokens, with("Authorization", "Bearer key"), body, true},
		"no lifetime":          {"POST", acmeTokens, header, `{}`, true},
		"a lifetime too long":  {"POST", acmeTokens, header, `{"lifetime": 3601}`, true},
		"another member":       {"POST", acmeTokens, header, `{"lifetime": 3600, "scope": "orders.read"}`, true},
		"scopes as a text":     {"POST", acmeTokens, header, `{"lifetime": 3600, "scopes": "orders.read"}`, true},
		"an API without token": {"GET", acmeOrders, nil, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			sim := vendorsim.New()
			sim.AddAcmeKey("key", "https://eu.api.acme.example")
			status, text := call(t, sim, c.method, c.url, c.header, c.body)
			assert.GreaterOrEqual(t, status, 400, text)
			assert.Equal(t, c.isViolation, len(sim.Violations()) > 0, text)
		})
	}
}
