package sitecore_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/internal/version"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/providertest"
	"vault-plugin-secrets-tokenbroker/provider/sitecore"
)

const apiKey = "01-4d3c2b1a-0f9e8d7c6b5a49382716051423324150617283940a1"

func open(t *testing.T, sim *vendorsim.Sim, fields map[string]any) provider.Credential {
	t.Helper()
	client, err := provider.NewClient(provider.ClientOptions{Timeout: 10 * time.Second, Transport: sim.Transport()})
	require.NoError(t, err)
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	credential, err := sitecore.Provider{}.Open(provider.Settings{Fields: raw, Client: client})
	require.NoError(t, err)
	return credential
}

func exchange(t *testing.T, sim *vendorsim.Sim, c provider.Credential, last provider.Grant) *provider.Answer {
	t.Helper()
	answer, err := c.Exchange(t.Context(), last)
	require.NoError(t, err)
	assert.Empty(t, sim.Violations())
	assert.True(t, sim.Accepts(answer.AccessToken))
	return answer
}

func TestAnAPIKeyIsExchangedByPOST(t *testing.T) {
	for name, test := range map[string]struct {
		fields  map[string]any
		url     string
		body    string
		access  time.Duration
		refresh time.Duration
	}{
		"as in the vendor's sample": {
			map[string]any{"access_expiry": 43200, "refresh_expiry": 259200},
			"https://api.rfksrv.com/account/1/access-token",
			`{"scope":["discover"],"accessExpiry":43200000,"refreshExpiry":259200000}`,
			12 * time.Hour, 72 * time.Hour,
		},
		"only the key": {
			map[string]any{},
			"https://api.rfksrv.com/account/1/access-token",
			`{"scope":["discover"]}`,
			24 * time.Hour, 7 * 24 * time.Hour,
		},
		"two scopes, staging": {
			map[string]any{"scope": []string{"discover", "event"}, "base_url": "https://api-staging.rfksrv.com/"},
			"https://api-staging.rfksrv.com/account/1/access-token",
			`{"scope":["discover","event"]}`,
			24 * time.Hour, 7 * 24 * time.Hour,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				sim.AddAPIKey(apiKey)
				test.fields["api_key"] = apiKey
				answer := exchange(t, sim, open(t, sim, test.fields), provider.Grant{})
				assert.Equal(t, []vendorsim.Call{{
					Method: http.MethodPost,
					URL:    test.url,
					Header: http.Header{
						"User-Agent":    {"vault-plugin-secrets-tokenbroker/" + version.Version},
						"Cache-Control": {"no-cache, no-store"},
						"Content-Type":  {"application/json"},
						"X-Api-Key":     {apiKey},
					},
					Body: test.body,
				}}, sim.Calls())
				assert.Equal(t, test.access, answer.ExpiresIn, "milliseconds")
				assert.Equal(t, test.access, answer.Grant.AccessLifetime)
				assert.WithinDuration(t, time.Now().Add(test.refresh), answer.Grant.ExpireTime, 0)
				assert.True(t, answer.Grant.Derived)
			})
		})
	}
}

func TestARefreshTokenIsExchangedByPUTWithBothHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := vendorsim.New()
		sim.AddPair("a-refresh-token", 2*time.Hour, 24*time.Hour)
		answer := exchange(t, sim, open(t, sim, map[string]any{"refresh_token": "a-refresh-token", "access_expiry": 7200}), provider.Grant{})
		assert.Equal(t, []vendorsim.Call{{
			Method: http.MethodPut,
			URL:    "https://api.rfksrv.com/account/1/access-token",
			Header: http.Header{
				"User-Agent":    {"vault-plugin-secrets-tokenbroker/" + version.Version},
				"Cache-Control": {"no-cache, no-store"},
				"Content-Type":  {"application/json"},
				"Refresh-Token": {"a-refresh-token"},
				"Authorization": {"Bearer a-refresh-token"},
			},
		}}, sim.Calls())
		assert.Zero(t, answer.ExpiresIn, "the response states none")
		assert.Equal(t, 2*time.Hour, answer.Lifetime)
		assert.Nil(t, answer.Grant)
	})
}

func TestARefreshTokenOfTheAPIKeyYieldsTokensOfItsPairsLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := vendorsim.New()
		sim.AddAPIKey(apiKey)
		credential := open(t, sim, map[string]any{"api_key": apiKey, "access_expiry": 3600, "refresh_expiry": 7200})
		created := exchange(t, sim, credential, provider.Grant{})
		refreshed := exchange(t, sim, credential, *created.Grant)
		assert.Equal(t, time.Hour, refreshed.Lifetime)
		assert.Equal(t, http.MethodPut, sim.Calls()[1].Method)
		assert.Equal(t, []string{"discover"}, refreshed.Scope)
	})
}

func TestARefreshTokenFromElsewhereYieldsTokensOfTheDefaultLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := vendorsim.New()
		sim.AddAPIKey(apiKey)
		sim.AddPair("from-elsewhere", 24*time.Hour, 24*time.Hour)
		// access_expiry and scope apply only to the pairs of the API key.
		for expiry, want := range map[int]time.Duration{48 * 3600: 24 * time.Hour, 3600: time.Hour} {
			answer := exchange(t, sim, open(t, sim, map[string]any{
				"api_key": apiKey, "refresh_token": "from-elsewhere", "access_expiry": expiry, "scope": []string{"event"},
			}), provider.Grant{})
			assert.Equal(t, want, answer.Lifetime)
			assert.Empty(t, answer.Scope)
		}
	})
}

func TestABaseURLMayIncludeTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := vendorsim.New()
		sim.AddAPIKey(apiKey)
		exchange(t, sim, open(t, sim, map[string]any{"api_key": apiKey, "base_url": "https://api.rfksrv.com/account/1/access-token"}), provider.Grant{})
	})
}

func TestARefreshTokenExpiresAsTheResponseStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := vendorsim.New()
		sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"accessToken":"a","refreshToken":"r","accessTokenExpiry":60000,"refreshTokenExpiry":120000}`))})
		answer, err := open(t, sim, map[string]any{"api_key": apiKey, "refresh_expiry": 3600}).Exchange(t.Context(), provider.Grant{})
		require.NoError(t, err)
		assert.Equal(t, time.Minute, answer.ExpiresIn)
		assert.WithinDuration(t, time.Now().Add(2*time.Minute), answer.Grant.ExpireTime, 0)
	})
}

func TestTheAPIKeyIsUsedOnceTheRefreshTokenHasExpired(t *testing.T) {
	for name, last := range map[string]provider.Grant{
		"expired":     {RefreshToken: "of-nobody", Derived: true, ExpireTime: time.Unix(1, 0)},
		"none issued": {Derived: true},
		"no grant":    {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				sim.AddAPIKey(apiKey)
				credential := open(t, sim, map[string]any{"api_key": apiKey})
				exchange(t, sim, credential, last)
				assert.Equal(t, http.MethodPost, sim.Calls()[0].Method, "an expired refresh token is not tried")
				assert.Nil(t, credential.(provider.Fallback).Fallback(last), "the key has already been used")
			})
		})
	}
}

func TestTheAPIKeyIsTheFallback(t *testing.T) {
	for name, test := range map[string]struct {
		fields map[string]any
		last   provider.Grant
	}{
		"for a refresh token of the key":           {map[string]any{"api_key": apiKey}, provider.Grant{RefreshToken: "of-nobody", Derived: true}},
		"for the operator's":                       {map[string]any{"api_key": apiKey, "refresh_token": "of-nobody"}, provider.Grant{}},
		"for one of the key beside the operator's": {map[string]any{"api_key": apiKey, "refresh_token": "r"}, provider.Grant{RefreshToken: "of-nobody", Derived: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				sim.AddAPIKey(apiKey)
				credential := open(t, sim, test.fields)
				_, err := credential.Exchange(t.Context(), test.last)
				var e *provider.Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, provider.Rejected, e.Kind)
				other := credential.(provider.Fallback).Fallback(test.last)
				require.NotNil(t, other)
				exchange(t, sim, other, provider.Grant{})
				calls := sim.Calls()
				require.Len(t, calls, 2)
				assert.Equal(t, []string{http.MethodPut, http.MethodPost}, []string{calls[0].Method, calls[1].Method})
			})
		})
	}
	without := open(t, vendorsim.New(), map[string]any{"refresh_token": "r"})
	assert.Nil(t, without.(provider.Fallback).Fallback(provider.Grant{}))
}

// A refresh token that is too long would make the credential's entry impossible to store.
func TestGuarantee15ARefreshTokenThatCannotBeSentOrStoredIsDropped(t *testing.T) {
	for name, created := range map[string]string{"a line break": `r\n`, "a blank": "r r", "a name for nothing": "null", "256 KiB and a byte": strings.Repeat("r", 256<<10+1)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(200, `{"accessToken":"a","refreshToken":"`+created+`"}`))})
				credential := open(t, sim, map[string]any{"api_key": apiKey})
				answer, err := credential.Exchange(t.Context(), provider.Grant{})
				require.NoError(t, err)
				assert.Empty(t, answer.Grant.RefreshToken)
				_, err = credential.Exchange(t.Context(), *answer.Grant)
				require.NoError(t, err)
				assert.Equal(t, http.MethodPost, sim.Calls()[1].Method, "the key yields the next token")
			})
		})
	}
}

func TestSitecoreFulfillsTheProviderContract(t *testing.T) {
	vendor := func() http.Handler {
		sim := vendorsim.New()
		sim.AddAPIKey("01-key-0123456789")
		sim.AddPair("of-a-pair-0123456789", 24*time.Hour, 7*24*time.Hour)
		return sim
	}
	providertest.Test(t, providertest.Contract{Provider: sitecore.Provider{}, Kinds: map[string]providertest.Kind{
		"API key":       {Vendor: vendor, Scope: "event", Fields: map[string]any{"api_key": "01-key-0123456789", "scope": []string{"discover", "event"}}},
		"refresh token": {Vendor: vendor, Fields: map[string]any{"refresh_token": "of-a-pair-0123456789"}},
	}})
}
