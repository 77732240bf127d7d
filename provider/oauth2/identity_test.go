package oauth2_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
	"vault-plugin-secrets-tokenbroker/provider/providertest"
)

const (
	serverIssuer  = "https://vault.example.com/v1/identity/oidc/plugins"
	serverSubject = "plugin-identity:root:secret:tokenbroker_1a2b3c"
)

// identified are the fields of a client that authenticates with an identity token.
var identified = map[string]any{
	"token_url": "https://login.microsoftonline.com/acme.example/oauth2/v2.0/token", "client_id": "app",
	"scope": []string{"https://graph.microsoft.com/.default"}, "identity_token_audience": vendorsim.EntraAudience,
}

func TestAnIdentityTokenKeepsTheContractOfAProvider(t *testing.T) {
	providertest.Test(t, providertest.Contract{Provider: oauth2.Provider{}, Kinds: map[string]providertest.Kind{"identity token": {
		Fields: identified,
		Settings: func(s *provider.Settings) {
			s.IdentityToken = func(_ context.Context, audience string, ttl time.Duration) (string, error) {
				return vendorsim.Issuer{URL: serverIssuer}.Sign(serverSubject, audience, ttl), nil
			}
		},
		Vendor: func() http.Handler {
			sim := vendorsim.New()
			sim.AddIdentityProvider(serverIssuer, vendorsim.Issuer{URL: serverIssuer}.Fetch)
			sim.AddEntraApp(vendorsim.EntraApp{
				Tenant: "acme.example", ClientID: "app", Subject: serverSubject,
				Trust: vendorsim.Trust{Issuer: serverIssuer, Audiences: []string{vendorsim.EntraAudience}},
			})
			return sim
		},
	}}})
}

func TestAnIdentityTokenIsRequestedForItsTime(t *testing.T) {
	for given, expected := range map[any]time.Duration{nil: time.Hour, 90: 90 * time.Second} {
		fields := maps.Clone(identified)
		fields["identity_token_ttl"] = given
		maps.DeleteFunc(fields, func(_ string, value any) bool { return value == nil })
		raw, err := json.Marshal(fields)
		require.NoError(t, err)
		client, err := provider.NewClient(provider.ClientOptions{Timeout: 10 * time.Second, Transport: vendorsim.Transport(vendorsim.New())})
		require.NoError(t, err)
		var asked time.Duration
		credential, err := oauth2.Provider{}.Open(provider.Settings{Fields: raw, Client: client, IdentityToken: func(_ context.Context, audience string, ttl time.Duration) (string, error) {
			assert.Equal(t, vendorsim.EntraAudience, audience)
			asked = ttl
			return "", provider.Errorf(provider.Unavailable, "no key")
		}})
		require.NoError(t, err)
		_, err = credential.Exchange(t.Context(), provider.Grant{})
		require.ErrorContains(t, err, "no key")
		assert.Equal(t, expected, asked)
	}
}

func TestGuarantee13TheAudienceOfAnIdentityTokenIsADestination(t *testing.T) {
	credential, err := tryOpen(t, vendorsim.New(), identified)
	require.NoError(t, err)
	assert.Equal(t, []string{vendorsim.EntraAudience}, credential.Destinations().Audiences)
}

func TestFieldsOfAnIdentityTokenAreForItOnly(t *testing.T) {
	with := func(changes map[string]any) map[string]any {
		fields := map[string]any{}
		for _, all := range []map[string]any{identified, changes} {
			for name, value := range all {
				fields[name] = value
			}
		}
		return fields
	}
	for name, bad := range map[string]struct {
		changes map[string]any
		says    string
	}{
		"no audience":             {map[string]any{"identity_token_audience": nil, "auth_style": "identity_token"}, "identity_token_audience: must be set with auth_style=identity_token"},
		"no client":               {map[string]any{"client_id": nil}, "client_id: must be set"},
		"a secret as well":        {map[string]any{"client_secret": clientSecret}, "identity_token_audience: applies only to auth_style=identity_token; set that, or clear it"},
		"a secret that is unused": {map[string]any{"client_secret": clientSecret, "auth_style": "identity_token"}, "client_secret: is not used with auth_style=identity_token"},
		"a key as well":           {map[string]any{"private_key": keyPEM(rsaKey()), "auth_style": "identity_token"}, "private_key: is not used with auth_style=identity_token"},
		"a ttl of zero":           {map[string]any{"identity_token_ttl": 0}, "identity_token_ttl: must be at least 1s"},
		"a ttl without a token":   {map[string]any{"identity_token_audience": nil, "client_secret": clientSecret, "identity_token_ttl": 60}, "identity_token_ttl: applies only to auth_style=identity_token"},
		"an audience in quotes":   {map[string]any{"identity_token_audience": `"api"`}, "identity_token_audience: is quoted"},
	} {
		_, err := tryOpen(t, vendorsim.New(), with(bad.changes))
		var e *provider.Error
		require.ErrorAs(t, err, &e, name)
		assert.Equal(t, provider.Invalid, e.Kind, name)
		assert.Contains(t, e.Reason, bad.says, name)
	}
}
