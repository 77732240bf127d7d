package oauth2_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

func TestTheEndpointsComeFromTheIssuersMetadata(t *testing.T) {
	for name, server := range map[string]vendorsim.OAuthServer{
		"OpenID Connect Discovery": {Issuer: "https://a.example", Metadata: []string{vendorsim.OpenIDMetadata}},
		"RFC 8414":                 {Issuer: "https://a.example", Metadata: []string{vendorsim.OAuthMetadata}},
		"a tenant, OpenID Connect": {Issuer: "https://a.example/tenant/7", Metadata: []string{vendorsim.OpenIDMetadata}},
		"a tenant, appended":       {Issuer: "https://a.example/tenant/7", Metadata: []string{vendorsim.AppendedMetadata}},
		"a tenant, RFC 8414":       {Issuer: "https://a.example/tenant/7", Metadata: []string{vendorsim.OAuthMetadata}},
		"an issuer with a final /": {Issuer: "https://a.example/", Metadata: []string{vendorsim.OpenIDMetadata}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server.TokenURL, server.RevocationURL = "https://a.example/token", "https://a.example/revoke"
				sim := vendorsim.New()
				sim.AddOAuthServer(server)
				sim.AddOAuthClient(vendorsim.OAuthClient{
					Issuer: server.Issuer, ID: clientID, Secret: clientSecret,
					AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.ClientCredentialsGrant},
				})
				credential := open(t, sim, map[string]any{"token_url": nil, "issuer": server.Issuer, "client_secret": clientSecret, "auth_style": "client_secret_basic"})
				first, err := credential.Exchange(t.Context(), provider.Grant{})
				require.NoError(t, err)
				require.True(t, sim.Accepts(first.AccessToken))
				calls := len(sim.Calls())
				_, err = credential.Exchange(t.Context(), provider.Grant{})
				require.NoError(t, err)
				assert.Len(t, sim.Calls(), calls+1, "the metadata is read once")

				require.NoError(t, credential.(provider.Revoker).Revoke(t.Context(), first.AccessToken, provider.Grant{}))
				assert.Equal(t, []string{first.AccessToken}, sim.Revoked())
			})
		})
	}
}

func TestMetadataIsFoundIfTheFirstLocationIsAPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newSim()
		sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if strings.HasSuffix(r.URL.Path, "openid-configuration") {
				return vendorsim.Answer(200, "<html>")
			}
			return nil
		}})
		credential := open(t, sim, map[string]any{"token_url": nil, "issuer": vendorsim.OAuthIssuer, "client_secret": clientSecret, "auth_style": "client_secret_basic"})
		exchange(t, sim, credential, provider.Grant{})
	})
}

func TestInvalidMembersOfMetadataAreIgnored(t *testing.T) {
	for name, metadata := range map[string]string{
		"an invalid revocation endpoint": `{"issuer": "https://a.example", "token_endpoint": "https://a.example/token", "revocation_endpoint": 7}`,
		"one without TLS":                `{"issuer": "https://a.example", "token_endpoint": "https://a.example/token", "revocation_endpoint": "http://a.example/revoke"}`,
		"a byte order mark":              "\xef\xbb\xbf" + `{"issuer": "https://a.example", "token_endpoint": "https://a.example/token"}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				vendor := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.URL.Path, "/.well-known/") {
						vendorsim.Answer(200, metadata)(w, r)
						return
					}
					vendorsim.Answer(200, `{"access_token": "a-token-0123456789", "expires_in": 60}`)(w, r)
				})
				credential, err := tryOpen(t, vendor, map[string]any{"token_url": nil, "issuer": "https://a.example", "client_secret": clientSecret})
				require.NoError(t, err)
				answer, err := credential.Exchange(t.Context(), provider.Grant{})
				require.NoError(t, err)
				assert.Equal(t, "a-token-0123456789", answer.AccessToken)
				require.ErrorContains(t, credential.(provider.Revoker).Revocable(t.Context()), "revocation endpoint is unknown")
			})
		})
	}
}

func TestStaleMetadataIsReadAgainOrStaysInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endpoint, down := "https://a.example/token", false
		var called []string
		vendor := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			called = append(called, r.URL.Path)
			switch isMetadata := strings.HasPrefix(r.URL.Path, "/.well-known/"); {
			case isMetadata && down:
				vendorsim.Answer(503, "")(w, r)
			case isMetadata:
				vendorsim.Answer(200, `{"issuer": "https://a.example", "token_endpoint": "`+endpoint+`"}`)(w, r)
			default:
				vendorsim.Answer(200, `{"access_token": "a-token-0123456789", "expires_in": 60}`)(w, r)
			}
		})
		credential, err := tryOpen(t, vendor, map[string]any{"token_url": nil, "issuer": "https://a.example", "client_secret": clientSecret, "auth_style": "client_secret_basic"})
		require.NoError(t, err)
		calls := func() []string {
			called = nil
			_, err := credential.Exchange(t.Context(), provider.Grant{})
			require.NoError(t, err)
			return called
		}
		const metadata = "/.well-known/openid-configuration"
		assert.Equal(t, []string{metadata, "/token"}, calls())
		endpoint = "https://a.example/elsewhere"
		time.Sleep(23 * time.Hour)
		assert.Equal(t, []string{"/token"}, calls())
		time.Sleep(2 * time.Hour)
		assert.Equal(t, []string{metadata, "/elsewhere"}, calls())
		down = true
		time.Sleep(25 * time.Hour)
		assert.Equal(t, []string{metadata, "/elsewhere"}, calls(), "stale metadata stays in use")
	})
}

func TestMetadataOfAnotherIssuerAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		metadata string
		kind     provider.Kind
		says     string
	}{
		"of another issuer":     {`{"issuer": "https://b.example", "token_endpoint": "https://a.example/token"}`, provider.InvalidResponse, `issuer: expected "https://a.example" in the metadata at https://a.example/.well-known/openid-configuration, found "https://b.example"; if the latter is correct, set issuer to it`},
		"without an endpoint":   {`{"issuer": "https://a.example"}`, provider.InvalidResponse, "no usable token endpoint"},
		"with one without TLS":  {`{"issuer": "https://a.example", "token_endpoint": "http://a.example/token"}`, provider.InvalidResponse, "must be an https URL"},
		"with one on this host": {`{"issuer": "https://a.example", "token_endpoint": "http://127.0.0.1/token"}`, provider.InvalidResponse, "must be an https URL, like the issuer"},
		"with one elsewhere":    {`{"issuer": "https://a.example", "token_endpoint": "https://b.example/token"}`, provider.InvalidResponse, `token_endpoint: "https://b.example/token" is not on the issuer's host; to allow it, set token_url instead of issuer`},
		"with one below it":     {`{"issuer": "https://a.example", "token_endpoint": "https://login.a.example/token"}`, provider.InvalidResponse, "is not on the issuer's host"},
		"with another port":     {`{"issuer": "https://a.example", "token_endpoint": "https://a.example:8443/token"}`, provider.InvalidResponse, "is not on the issuer's host"},
		"an invalid issuer":     {`{"issuer": 7, "token_endpoint": "https://a.example/token"}`, provider.InvalidResponse, `found ""`},
		"an invalid endpoint":   {`{"issuer": "https://a.example", "token_endpoint": ["https://a.example/token"]}`, provider.InvalidResponse, "no usable token endpoint"},
		"a page":                {`<html>`, provider.InvalidResponse, "not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var called []string
				vendor := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					called = append(called, r.URL.Path)
					vendorsim.Answer(200, test.metadata)(w, r)
				})
				credential, err := tryOpen(t, vendor, map[string]any{"token_url": nil, "issuer": "https://a.example", "client_secret": clientSecret})
				require.NoError(t, err)
				_, err = credential.Exchange(t.Context(), provider.Grant{})
				var e *provider.Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, test.kind, e.Kind)
				assert.Contains(t, e.Reason, test.says)
				for _, path := range called {
					assert.True(t, strings.HasPrefix(path, "/.well-known/"), "the secret went to %s", path)
				}
			})
		})
	}
}

func TestGuarantee13MetadataThatChangeTheHostAreNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := "A.example:443"
		var called []string
		vendor := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			called = append(called, r.Host+r.URL.Path)
			if strings.HasPrefix(r.URL.Path, "/.well-known/") {
				vendorsim.Answer(200, `{"issuer": "https://a.example", "token_endpoint": "https://`+host+`/token", "revocation_endpoint": "https://b.example/revoke"}`)(w, r)
				return
			}
			vendorsim.Answer(200, `{"access_token": "a-token-0123456789", "expires_in": 60}`)(w, r)
		})
		credential, err := tryOpen(t, vendor, map[string]any{"token_url": nil, "issuer": "https://a.example", "client_secret": clientSecret, "auth_style": "client_secret_basic"})
		require.NoError(t, err)
		_, err = credential.Exchange(t.Context(), provider.Grant{})
		require.NoError(t, err)
		require.ErrorContains(t, credential.(provider.Revoker).Revocable(t.Context()), "set revocation_url", "the metadata names another host")
		host = "b.example"
		time.Sleep(25 * time.Hour)
		_, err = credential.Exchange(t.Context(), provider.Grant{})
		require.NoError(t, err, "with the earlier metadata")
		for _, url := range called {
			assert.True(t, strings.HasPrefix(strings.ToLower(url), "a.example"), url)
		}
	})
}

func TestARevocationAuthenticatesTheClient(t *testing.T) {
	for name, test := range map[string]struct {
		fields  map[string]any
		methods string
		conduct vendorsim.OAuthConduct
	}{
		"by a secret in the header":     {map[string]any{"client_secret": clientSecret, "auth_style": "client_secret_basic"}, vendorsim.SecretBasic, vendorsim.OAuthConduct{}},
		"by a secret, unencoded":        {map[string]any{"client_secret": clientSecret, "auth_style": "client_secret_basic_unencoded"}, vendorsim.SecretBasic, vendorsim.OAuthConduct{PlainBasic: true}},
		"by a secret in the form":       {map[string]any{"client_secret": clientSecret, "auth_style": "client_secret_post"}, vendorsim.SecretPost, vendorsim.OAuthConduct{}},
		"of an invalid token, by a 400": {map[string]any{"client_secret": clientSecret, "auth_style": "client_secret_post"}, vendorsim.SecretPost, vendorsim.OAuthConduct{Gone400: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := newSim(func(c *vendorsim.OAuthClient) { c.AuthMethods = []string{test.methods} })
				sim.Behave(vendorsim.Conduct{OAuth: test.conduct})
				test.fields["revocation_url"] = vendorsim.OAuthRevocationURL
				credential := open(t, sim, test.fields)
				answer := exchange(t, sim, credential, provider.Grant{})
				revoker := credential.(provider.Revoker)
				require.NoError(t, revoker.Revocable(t.Context()))
				for range 2 { // an invalid token is not an error
					require.NoError(t, revoker.Revoke(t.Context(), answer.AccessToken, provider.Grant{}))
				}
				assert.False(t, sim.Accepts(answer.AccessToken))
				assert.Equal(t, []string{answer.AccessToken}, sim.Revoked())
				assert.Empty(t, sim.Violations())
			})
		})
	}
}

func TestAFailedRevocationStatesTheReasonWithoutASecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newSim()
		credential := open(t, sim, map[string]any{"client_secret": clientSecret, "auth_style": "client_secret_basic", "revocation_url": vendorsim.OAuthRevocationURL})
		answer := exchange(t, sim, credential, provider.Grant{})
		sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Echo)})
		err := credential.(provider.Revoker).Revoke(t.Context(), answer.AccessToken, provider.Grant{})
		require.ErrorContains(t, err, "401")
		assert.NotContains(t, err.Error(), answer.AccessToken)
		assert.NotContains(t, err.Error(), clientSecret)

		credential = open(t, sim, map[string]any{"client_secret": clientSecret})
		require.ErrorContains(t, credential.(provider.Revoker).Revocable(t.Context()), "set revocation_url")
	})
}
