package oauth2_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

func TestTheAuthStyleThatWorkedIsRemembered(t *testing.T) {
	for style, calls := range map[string]int{vendorsim.SecretBasic: 1, vendorsim.SecretPost: 2} {
		t.Run(style, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := newSim(func(c *vendorsim.OAuthClient) { c.AuthMethods = []string{style} })
				fields := map[string]any{"client_secret": clientSecret}
				answer := exchange(t, sim, open(t, sim, fields), provider.Grant{})
				assert.Len(t, sim.Calls(), calls)
				require.NotNil(t, answer.Grant)
				assert.Equal(t, style, answer.Grant.AuthStyle)

				again := exchange(t, sim, open(t, sim, fields), *answer.Grant)
				assert.Len(t, sim.Calls(), calls+1, "after a restart as well")
				assert.Nil(t, again.Grant)
			})
		})
	}
}

func TestAWrongSecretIsTriedInBothStyles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newSim()
		credential := open(t, sim, map[string]any{"client_secret": "another"})
		for i, style := range []string{"", vendorsim.SecretBasic, vendorsim.SecretPost} {
			_, err := credential.Exchange(t.Context(), provider.Grant{AuthStyle: style})
			require.ErrorContains(t, err, "invalid_client")
			assert.Len(t, sim.Calls(), 2*(i+1))
		}
	})
}

func TestTheOtherAuthStyleIsTriedAfterARefusal(t *testing.T) {
	for worked, works := range map[string]string{vendorsim.SecretBasic: vendorsim.SecretPost, vendorsim.SecretPost: vendorsim.SecretBasic} {
		t.Run(worked, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := newSim(func(c *vendorsim.OAuthClient) { c.AuthMethods = []string{works} })
				credential := open(t, sim, map[string]any{"client_secret": clientSecret, "revocation_url": vendorsim.OAuthRevocationURL})
				answer := exchange(t, sim, credential, provider.Grant{AuthStyle: worked})
				require.NotNil(t, answer.Grant)
				assert.Equal(t, works, answer.Grant.AuthStyle)
				require.NoError(t, credential.(provider.Revoker).Revoke(t.Context(), answer.AccessToken, provider.Grant{AuthStyle: worked}))
				assert.Equal(t, []string{answer.AccessToken}, sim.Revoked())
			})
		})
	}
}

func TestTheAuthStyleComesFromTheMetadata(t *testing.T) {
	for name, test := range map[string]struct {
		listed []string
		takes  string
		calls  int // without those for the metadata
	}{
		"one":            {[]string{vendorsim.SecretPost}, vendorsim.SecretPost, 1},
		"one of several": {[]string{vendorsim.PrivateKeyJWT, vendorsim.SecretPost, vendorsim.None}, vendorsim.SecretPost, 1},
		"both":           {[]string{vendorsim.SecretPost, vendorsim.SecretBasic}, vendorsim.SecretPost, 2},
		"no usable one":  {[]string{vendorsim.PrivateKeyJWT}, vendorsim.SecretPost, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const issuer = "https://a.example"
				sim := vendorsim.New()
				sim.AddOAuthServer(vendorsim.OAuthServer{
					Issuer: issuer, TokenURL: issuer + "/token", RevocationURL: issuer + "/revoke",
					Metadata: []string{vendorsim.OpenIDMetadata}, Listed: test.listed,
				})
				sim.AddOAuthClient(vendorsim.OAuthClient{
					Issuer: issuer, ID: clientID, Secret: clientSecret,
					AuthMethods: []string{test.takes}, Grants: []string{vendorsim.ClientCredentialsGrant},
				})
				credential := open(t, sim, map[string]any{"token_url": nil, "issuer": issuer, "client_secret": clientSecret})
				answer := exchange(t, sim, credential, provider.Grant{})
				assert.Len(t, sim.Calls(), 1+test.calls)

				require.NoError(t, credential.(provider.Revoker).Revoke(t.Context(), answer.AccessToken, provider.Grant{}))
				assert.Len(t, sim.Calls(), 1+2*test.calls)
			})
		})
	}
}

func TestARefreshTokenIsSentTwiceOnlyIfTheClientWasRefused(t *testing.T) {
	for body, calls := range map[string]int{
		`{"error":"invalid_client"}`:  2, // the vendor has not considered the token
		`{"error":"invalid_request"}`: 1,
		`{"error":"invalid_grant"}`:   1,
		"":                            1,
	} {
		for name, fields := range map[string]map[string]any{
			"a secret": {"client_secret": clientSecret},
			"a key":    {"private_key": keyPEM(rsaKey())},
		} {
			t.Run(name+" "+body, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sim := newSim()
					sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, r *http.Request) {
						// A clock so far off that the assertion must be dated again.
						w.Header().Set("Date", time.Now().Add(-2*time.Minute).UTC().Format(http.TimeFormat))
						vendorsim.Answer(http.StatusBadRequest, body)(w, r)
					})})
					fields["refresh_token"] = refreshToken
					_, err := open(t, sim, fields).Exchange(t.Context(), provider.Grant{})
					require.ErrorContains(t, err, "400 Bad Request")
					sent := 0
					for _, call := range sim.Calls() {
						if form(t, call).Get("refresh_token") == refreshToken {
							sent++
						}
					}
					assert.Equal(t, calls, sent)
				})
			})
		}
	}
}

func TestAnUntriedAuthStyleIsSuggested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newSim()
		sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusBadRequest, `{"error":"invalid_request"}`))})
		_, err := open(t, sim, map[string]any{"client_secret": clientSecret, "refresh_token": refreshToken}).Exchange(t.Context(), provider.Grant{})
		require.ErrorContains(t, err, "400 Bad Request: invalid_request; if the vendor requires client_secret_post, set auth_style=client_secret_post")
	})
}
