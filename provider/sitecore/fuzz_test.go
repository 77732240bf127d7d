package sitecore_test

import (
	"testing"
	"time"

	"vault-plugin-secrets-tokenbroker/provider/providertest"
	"vault-plugin-secrets-tokenbroker/provider/sitecore"
)

func FuzzAnswer(f *testing.F) {
	kind := func(fields map[string]any) providertest.Kind {
		return providertest.Kind{ExpiresIn: "accessTokenExpiry", ExpiresInUnit: time.Millisecond, Fields: fields}
	}
	// The documented responses. Expiries are in milliseconds.
	const pair = `{"accessToken": "${access}", "refreshToken": "${refresh}", "accessTokenExpiry": 43200000, "refreshTokenExpiry": 259200000}`
	providertest.Fuzz(f, providertest.Contract{Provider: sitecore.Provider{}, Kinds: map[string]providertest.Kind{
		"API key":       kind(map[string]any{"api_key": "k"}),
		"refresh token": kind(map[string]any{"refresh_token": "r", "access_expiry": 3600}),
		"both":          kind(map[string]any{"api_key": "k", "refresh_token": "r"}),
	}},
		providertest.AnswerSeed{Kind: "API key", Status: 200, Body: pair},
		providertest.AnswerSeed{Kind: "both", Status: 200, Body: pair},
		providertest.AnswerSeed{Kind: "API key", Status: 200, Body: `{"accessToken": "${access}", "refreshToken": "r\n", "accessTokenExpiry": "43200000", "refreshTokenExpiry": null}`},
		providertest.AnswerSeed{Kind: "API key", Status: 200, Body: `{"refreshToken": "${refresh}", "refreshTokenExpiry": 1e300}`},
		providertest.AnswerSeed{Kind: "refresh token", Status: 200, Body: `{"accessToken": "${access}"}`},
		providertest.AnswerSeed{Kind: "both", Status: 401, Body: `{"message": "${sent}"}`},
	)
}
