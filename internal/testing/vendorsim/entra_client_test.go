package vendorsim_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestMicrosoftGraphReplacesTheSecretOfAClientOfAnOAuthServer(t *testing.T) {
	sim := vendorsim.New()
	const issuer = "https://login.microsoftonline.com"
	sim.AddOAuthServer(vendorsim.OAuthServer{Issuer: issuer, TokenURL: issuer + "/acme.example/oauth2/v2.0/token"})
	client := vendorsim.OAuthClient{
		Issuer: issuer, ID: "an-app", Secret: "first-secret-0123456789", Scopes: []string{"https://graph.microsoft.com/.default", "api://billing/.default"},
		AuthMethods: []string{vendorsim.SecretPost}, Grants: []string{vendorsim.ClientCredentialsGrant},
	}
	sim.AddOAuthClient(client)
	firstID := sim.AddEntraSecret(client)

	post := func(url, contentType, authorization, body string) (status int, answer map[string]string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		if authorization != "" {
			r.Header.Set("Authorization", "Bearer "+authorization)
		}
		w := httptest.NewRecorder()
		sim.ServeHTTP(w, r)
		var members map[string]any
		_ = json.Unmarshal(w.Body.Bytes(), &members) // some answers have no body
		answer = map[string]string{}
		for name, value := range members {
			answer[name], _ = value.(string)
		}
		return w.Code, answer
	}
	token := func(secret, scope string) (status int, token string) {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {client.ID}, "client_secret": {secret}, "scope": {scope}}
		status, answer := post(issuer+"/acme.example/oauth2/v2.0/token", "application/x-www-form-urlencoded", "", form.Encode())
		return status, answer["access_token"]
	}
	graph := func(action, authorization, body string) (int, map[string]string) {
		return post("https://graph.microsoft.com/v1.0/applications(appId='an-app')/"+action, "application/json", authorization, body)
	}

	_, billing := token(client.Secret, client.Scopes[1])
	status, _ := graph("addPassword", billing, `{"passwordCredential": {}}`)
	require.Equal(t, http.StatusUnauthorized, status, "a token for another API")
	_, first := token(client.Secret, client.Scopes[0])
	status, added := graph("addPassword", first, `{"passwordCredential": {}}`)
	require.Equal(t, http.StatusOK, status)
	status, next := token(added["secretText"], client.Scopes[0])
	require.Equal(t, http.StatusOK, status, "the new secret")
	status, _ = graph("removePassword", next, `{"keyId": "`+firstID+`"}`)
	require.Equal(t, http.StatusNoContent, status)
	status, _ = token(client.Secret, client.Scopes[0])
	assert.Equal(t, http.StatusUnauthorized, status, "the former secret")
	assert.Len(t, sim.StoredSecrets("entra/client_secret", client.ID), 1)
	assert.Empty(t, sim.Violations())
}
