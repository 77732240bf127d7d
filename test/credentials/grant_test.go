package credentials_test

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// A policy that only allows replacing a secret must not allow changing the grant.
func TestClearingASecretDoesNotChangeTheGrant(t *testing.T) {
	const server = "https://id.example/token"
	user := map[string]any{"token_url": server, "client_id": "id", "client_secret": "s", "refresh_token": "user"}
	signed := map[string]any{"token_url": server, "client_id": "id", "private_key": engine.PrivateKeyPEM(), "refresh_token": "user"}
	bearer := map[string]any{"token_url": server, "client_id": "id", "private_key": engine.PrivateKeyPEM(), "client_secret": "s", "grant_type": "jwt_bearer", "auth_style": "client_secret_post"}
	named := engine.With(user, "grant_type", "refresh_token")
	assertion := engine.With(engine.With(signed, "refresh_token", ""), "grant_type", "jwt_bearer")
	kensho := map[string]any{"refresh_token": "user"}
	sitecore := map[string]any{"api_key": "01-key", "refresh_token": "pair"}
	for name, c := range map[string]struct {
		provider string
		stored   map[string]any
		op       logical.Operation
		data     map[string]any
		says     string // "" if the write succeeds
	}{
		"empty":                            {"oauth2", user, logical.UpdateOperation, map[string]any{"refresh_token": ""}, "refresh_token: clearing this changes the grant type to client_credentials; to confirm, add grant_type=client_credentials"},
		"blank":                            {"oauth2", user, logical.UpdateOperation, map[string]any{"refresh_token": " \n"}, "refresh_token: clearing this changes the grant"},
		"null in a write":                  {"oauth2", user, logical.UpdateOperation, map[string]any{"refresh_token": nil}, "refresh_token: clearing this changes the grant"},
		"null in a patch":                  {"oauth2", user, logical.PatchOperation, map[string]any{"refresh_token": nil}, "refresh_token: clearing this changes the grant"},
		"empty in a patch":                 {"oauth2", user, logical.PatchOperation, map[string]any{"refresh_token": ""}, "refresh_token: clearing this changes the grant"},
		"next to a private key":            {"oauth2", signed, logical.UpdateOperation, map[string]any{"refresh_token": ""}, "refresh_token: clearing this changes the grant"},
		"with another secret":              {"oauth2", user, logical.UpdateOperation, map[string]any{"refresh_token": "", "client_secret": "t"}, "refresh_token: clearing this changes the grant"},
		"with the grant":                   {"oauth2", user, logical.UpdateOperation, map[string]any{"refresh_token": "", "grant_type": "client_credentials"}, ""},
		"with the grant in a patch":        {"oauth2", user, logical.PatchOperation, map[string]any{"refresh_token": nil, "grant_type": "client_credentials"}, ""},
		"an empty grant":                   {"oauth2", user, logical.UpdateOperation, map[string]any{"refresh_token": "", "grant_type": ""}, "refresh_token: clearing this changes the grant"},
		"a blank grant":                    {"oauth2", user, logical.UpdateOperation, map[string]any{"refresh_token": "", "grant_type": " \n"}, "refresh_token: clearing this changes the grant"},
		"null for the grant":               {"oauth2", user, logical.UpdateOperation, map[string]any{"refresh_token": "", "grant_type": nil}, "refresh_token: clearing this changes the grant"},
		"nulls in a patch":                 {"oauth2", user, logical.PatchOperation, map[string]any{"refresh_token": nil, "grant_type": nil}, "refresh_token: clearing this changes the grant"},
		"a cleared grant":                  {"oauth2", assertion, logical.UpdateOperation, map[string]any{"grant_type": ""}, "grant_type: must be set, as this write changes the grant type to client_credentials"},
		"a grant cleared with its token":   {"oauth2", named, logical.PatchOperation, map[string]any{"grant_type": nil, "refresh_token": nil}, "refresh_token: clearing this changes the grant"},
		"a grant cleared without a change": {"oauth2", named, logical.UpdateOperation, map[string]any{"grant_type": ""}, ""},
		"another refresh token":            {"oauth2", user, logical.UpdateOperation, map[string]any{"refresh_token": "other"}, ""},
		"a secret of the same grant":       {"oauth2", user, logical.UpdateOperation, map[string]any{"client_secret": ""}, ""},
		"the secret of a JWT bearer":       {"oauth2", bearer, logical.UpdateOperation, map[string]any{"client_secret": "", "auth_style": ""}, ""},
		"Kensho's only secret":             {"kensho", kensho, logical.UpdateOperation, map[string]any{"refresh_token": ""}, "needs refresh_token, or client_id and private_key, or access_token"},
		"a key pair for Kensho":            {"kensho", kensho, logical.UpdateOperation, map[string]any{"refresh_token": "", "client_id": "id", "private_key": engine.PrivateKeyPEM()}, ""},
		"a private key only for Kensho":    {"kensho", kensho, logical.UpdateOperation, map[string]any{"refresh_token": "", "private_key": engine.PrivateKeyPEM()}, "client_id: must be set"},
		"Sitecore's refresh token":         {"sitecore", sitecore, logical.UpdateOperation, map[string]any{"refresh_token": ""}, ""},
		"Sitecore's API key":               {"sitecore", sitecore, logical.PatchOperation, map[string]any{"api_key": nil}, ""},
		"both secrets of Sitecore":         {"sitecore", sitecore, logical.UpdateOperation, map[string]any{"api_key": "", "refresh_token": ""}, "needs api_key, or refresh_token, or both"},
		"another vendor's refresh token":   {"bitbucket", map[string]any{"client_id": "id", "client_secret": "s", "refresh_token": "user"}, logical.UpdateOperation, map[string]any{"refresh_token": ""}, "refresh_token: clearing this changes the grant"},
		"no secret":                        {"oauth2", user, logical.UpdateOperation, map[string]any{"description": "x", "scope": "read"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				path := "config/" + c.provider + "/prod"
				with := func(data map[string]any) map[string]any {
					all := map[string]any{"verify": false}
					for field, value := range data {
						all[field] = value
					}
					return all
				}
				e.Write(path, with(c.stored))
				before := e.Dump()
				_, status, message := e.Request(c.op, path, with(c.data))
				if c.says == "" {
					require.Equal(t, http.StatusOK, status, message)
					return
				}
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, c.says)
				assert.Equal(t, before, e.Dump())
			})
		})
	}
}
