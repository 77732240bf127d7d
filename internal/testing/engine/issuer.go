package engine

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/stretchr/testify/require"
)

// MountURL is the URL of the mount, as vendors reach it.
const MountURL = "https://vault.example.com/v1/kensho/"

// PublishKeypair generates the key pair name, whose issuer the vendors can reach, and returns the issuer.
func (e *Engine) PublishKeypair(name string, data map[string]any) string {
	e.T.Helper()
	issuer := MountURL + "jwks/" + name
	e.Keypair(name, With(With(data, "publish", true), "issuer", issuer))
	e.Sim.AddIdentityProvider(issuer, e.fetch)
	return issuer
}

// fetch reads a URL of the mount without a token.
func (e *Engine) fetch(url string) (status int, body []byte) {
	path, isOurs := strings.CutPrefix(url, MountURL)
	if !isOurs {
		return http.StatusNotFound, nil
	}
	name := strings.TrimPrefix(strings.TrimSuffix(path, "/.well-known/openid-configuration"), "jwks/")
	resp := e.Read("keypair/" + name)
	document := any(map[string]any{"keys": []any{resp.Data["jwk"]}})
	if strings.HasSuffix(path, "openid-configuration") {
		document = map[string]any{
			"issuer": MountURL + "jwks/" + name, "jwks_uri": MountURL + "jwks/" + name, "response_types_supported": []string{"id_token"},
			"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
		}
	}
	body, err := json.Marshal(document)
	require.NoError(e.T, err)
	return http.StatusOK, body
}
