package kensho_test

import (
	"testing"
	"time"

	"vault-plugin-secrets-tokenbroker/provider/kensho"
	"vault-plugin-secrets-tokenbroker/provider/providertest"
)

func FuzzAnswer(f *testing.F) {
	const link, sister, keyPair, pasted = "refresh token", "refresh token of a sister product", "key pair", "access token"
	providertest.Fuzz(f, providertest.Contract{Provider: kensho.Provider{}, Kinds: map[string]providertest.Kind{
		link:   {Replaced: "refreshToken", Fields: map[string]any{"refresh_token": "r"}},
		sister: {Replaced: "refresh_token", Fields: map[string]any{"refresh_token": "r", "product": "scribe"}},
		keyPair: {ExpiresIn: "expires_in", ExpiresInUnit: time.Second, Fields: map[string]any{
			"client_id": "0oaclient", "private_key": keyPEM(),
		}},
		pasted: {Fields: map[string]any{"access_token": "a"}},
	}},
		providertest.AnswerSeed{Kind: link, Status: 200, Body: `{"accessToken": "${access}"}`},
		providertest.AnswerSeed{Kind: link, Status: 200, Body: `{"accessToken": "eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjE3NzIzNjIwMDB9.c2ln", "refreshToken": "${refresh}"}`},
		providertest.AnswerSeed{Kind: sister, Status: 200, Body: `{"access_token": "${access}", "refresh_token": "${refresh}"}`},
		providertest.AnswerSeed{Kind: keyPair, Status: 200, Body: `{"access_token": "${access}", "token_type": "Bearer", "expires_in": 3600, "scope": "kensho:app:link"}`},
		providertest.AnswerSeed{Kind: keyPair, Status: 400, Body: `{"error": "invalid_client", "error_description": "The client secret supplied for a confidential client is invalid."}`},
		providertest.AnswerSeed{Kind: keyPair, Status: 400, Body: `{"errorCode": "E0000022", "errorSummary": "${sent}", "errorCauses": []}`},
		providertest.AnswerSeed{Kind: pasted, Status: 500, Body: "never asked"},
	)
}
