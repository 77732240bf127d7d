package engine

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// NewPublished mounts an engine with the OAuth 2.0 credential prod and its published key pair, which has
// further fields. The vendor fetches the keys: several nodes of it, whose caches expire at different times.
func NewPublished(t *testing.T, fields map[string]any) (*Engine, []*vendorsim.KeyCache) {
	t.Helper()
	e := New(t)
	all := map[string]any{"key_type": "ec-p256", "publish": true}
	for name, value := range fields {
		all[name] = value
	}
	e.Keypair("prod", all)
	var nodes []*vendorsim.KeyCache
	for range 4 {
		node := &vendorsim.KeyCache{Fetch: e.fetchKeys}
		node.Keys()
		nodes = append(nodes, node)
		time.Sleep(17 * time.Second)
	}
	client := SigningClient(nil)
	client.Nodes = nodes
	e.Sim.AddOAuthClient(client)
	e.Write("config/oauth2/prod", map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": ClientID, "auth_style": "private_key_jwt", "private_key_source": "generated"})
	return e, nodes
}

// fetchKeys reads jwks/prod as a vendor does.
func (e *Engine) fetchKeys() (status int, cacheControl string, body []byte) {
	resp, status, _ := e.Request(logical.ReadOperation, "jwks/prod", nil)
	if resp == nil {
		return status, "", nil
	}
	return resp.Data[logical.HTTPStatusCode].(int), resp.Data[logical.HTTPCacheControlHeader].(string), resp.Data[logical.HTTPRawBody].([]byte)
}
