package oauth2_test

import (
	"crypto/elliptic"
	"maps"
	"testing"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
	"vault-plugin-secrets-tokenbroker/provider/providertest"
)

func FuzzAnswer(f *testing.F) {
	kind := func(replaced string, more map[string]any) providertest.Kind {
		fields := map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": clientID}
		maps.Copy(fields, more)
		return providertest.Kind{Replaced: replaced, ExpiresIn: "expires_in", ExpiresInUnit: time.Second, Fields: fields}
	}
	key := keyPEM(ecKey(elliptic.P256()))
	providertest.Fuzz(f, providertest.Contract{Provider: oauth2.Provider{}, Kinds: map[string]providertest.Kind{
		"secret":                  kind("", map[string]any{"client_secret": "s", "scope": []string{"read"}}),
		"secret, Basic":           kind("", map[string]any{"client_secret": "s", "auth_style": "client_secret_basic"}),
		"secret, in the form":     kind("", map[string]any{"client_secret": "s", "auth_style": "client_secret_post", "default_ttl": 60}),
		"account credentials":     kind("", map[string]any{"client_secret": "s", "grant_type": "account_credentials"}),
		"private key":             kind("", map[string]any{"private_key": key}),
		"assertion":               kind("", map[string]any{"private_key": key, "grant_type": "jwt_bearer"}),
		"refresh token":           kind("refresh_token", map[string]any{"refresh_token": "r"}),
		"refresh token, a secret": kind("refresh_token", map[string]any{"refresh_token": "r", "client_secret": "s", "single_token": true}),
	}},
		// RFC 6749 §5.1 and §5.2, and vendors' variants.
		providertest.AnswerSeed{Kind: "secret", Status: 200, Body: `{"access_token":"${access}","token_type":"example","expires_in":3600,"refresh_token":"${refresh}","example_parameter":"example_value"}`},
		providertest.AnswerSeed{Kind: "refresh token", Status: 200, Body: `{"access_token":"${access}","token_type":"bearer","expires_in":"3600","refresh_token":"${refresh}","scope":"read write"}`},
		providertest.AnswerSeed{Kind: "refresh token, a secret", Status: 200, Body: `{"access_token":7,"refresh_token":"${refresh}","expires_in":3600.5}`},
		providertest.AnswerSeed{Kind: "refresh token", Status: 200, Body: `{"ok":false,"error":"invalid_refresh_token"}`},
		providertest.AnswerSeed{Kind: "refresh token", Status: 200, Body: `{"access_token":"","error":null,"refresh_token":"${refresh}"}`},
		providertest.AnswerSeed{Kind: "assertion", Status: 200, Body: `{"access_token":"${access}","instance_url":"https://a.example","scope":["api",7]}`},
		providertest.AnswerSeed{Kind: "secret", Status: 401, Body: `{"error":"invalid_client","error_description":"${sent}"}`},
		providertest.AnswerSeed{Kind: "private key", Status: 400, Body: `{"error":"invalid_grant","error_description":"${sent}","error_uri":"https://a.example"}`},
		providertest.AnswerSeed{Kind: "account credentials", Status: 400, Body: `{"error":"temporarily_unavailable"}`},
		providertest.AnswerSeed{Kind: "secret, Basic", Status: 403, Body: `error=access_denied&error_description=${query}`},
		providertest.AnswerSeed{Kind: "secret, in the form", Status: 200, Body: `access_token=${access}&token_type=bearer`},
	)
}
