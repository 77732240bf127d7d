package engine

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// ExchangeClient is the client of the credential swap of NewDelegating.
var ExchangeClient = vendorsim.OAuthClient{
	ID: "exchanger", Secret: ClientSecret, Scopes: []string{"read", "write"}, AuthMethods: []string{vendorsim.SecretBasic},
	Targets: []string{"ledger", "https://ledger.example.com"}, Grants: []string{vendorsim.TokenExchangeGrant, vendorsim.ClientCredentialsGrant},
}

// NewDelegating mounts an engine with the OAuth 2.0 credential swap, which only exchanges callers' tokens, the
// credential both, which has tokens of its own as well, the role reading, and the role bound, which takes only
// tokens of the vendor's issuer for the client.
func NewDelegating(t *testing.T, fields map[string]any) *Engine {
	t.Helper()
	e := New(t)
	e.Sim.AddOAuthClient(ExchangeClient)
	base := map[string]any{
		"token_url": vendorsim.OAuthTokenURL, "revocation_url": vendorsim.OAuthRevocationURL, "auth_style": "client_secret_basic",
		"client_id": ExchangeClient.ID, "client_secret": ClientSecret, "scope": "read,write",
	}
	for name, value := range fields {
		base[name] = value
	}
	e.Write("config/oauth2/both", base)
	base["grant_type"] = "token_exchange"
	e.Write("config/oauth2/swap", base)
	e.Write("roles/reading", map[string]any{"config": "swap", "scope": "read"})
	e.Write("roles/bound", map[string]any{"config": "swap", "bound_issuer": vendorsim.OAuthIssuer, "bound_audiences": ExchangeClient.ID})
	return e
}

// Swap writes to exchange/<name>. It fails the test unless the exchange succeeds, and the vendor accepts the token
// until the end of the lease plus the margin.
func (e *Engine) Swap(name string, data map[string]any) *logical.Response {
	e.T.Helper()
	resp, status, message := e.Request(logical.UpdateOperation, "exchange/"+name, data)
	require.Equal(e.T, http.StatusOK, status, message)
	left := time.Until(e.Sim.Expiry(TokenOf(resp)))
	require.Positive(e.T, left, "the vendor does not accept the token")
	require.LessOrEqual(e.T, resp.Secret.TTL, left-min(30*time.Second, left/20), "guarantee 1: the lease ends less than the margin before the token")
	require.False(e.T, resp.Secret.Renewable)
	return resp
}

// RefusedSwap writes to exchange/<name>, and fails the test unless the exchange fails.
func (e *Engine) RefusedSwap(name string, data map[string]any) (status int, message string) {
	e.T.Helper()
	_, status, message = e.Request(logical.UpdateOperation, "exchange/"+name, data)
	require.NotEqual(e.T, http.StatusOK, status)
	return status, message
}

// TokenRequests returns how many requests the vendor's token endpoint has received.
func (e *Engine) TokenRequests() int {
	return len(slices.DeleteFunc(e.Sim.Calls(), func(c vendorsim.Call) bool { return c.URL != vendorsim.OAuthTokenURL }))
}
