package vendorsim_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // of certificates, as Microsoft documents
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// signer returns the private key of a stored credential.
func (s *stored) signer() crypto.Signer {
	s.t.Helper()
	block, _ := pem.Decode([]byte(s.fields["private_key"].(string)))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	require.NoError(s.t, err)
	return key.(crypto.Signer)
}

// Entra removes a certificate only with a proof that one of the application's certificates signs.
func TestEntraChecksTheProofOfACertificate(t *testing.T) {
	for name, c := range map[string]struct {
		claims      jwt.MapClaims
		header      map[string]any
		method      jwt.SigningMethod
		status      int
		isViolation bool
	}{
		"right":                 {status: 204},
		"by the client ID":      {claims: jwt.MapClaims{"iss": "client"}, status: 401},
		"for another audience":  {claims: jwt.MapClaims{"aud": "https://graph.microsoft.com"}, status: 401, isViolation: true},
		"for too long":          {claims: jwt.MapClaims{"exp": time.Date(2000, 1, 1, 0, 11, 0, 0, time.UTC).Unix()}, status: 401, isViolation: true},
		"expired":               {claims: jwt.MapClaims{"nbf": 0, "exp": 600}, status: 401},
		"not yet valid":         {claims: jwt.MapClaims{"nbf": time.Date(2000, 1, 1, 0, 5, 0, 0, time.UTC).Unix()}, status: 401},
		"without nbf":           {claims: jwt.MapClaims{"nbf": nil}, status: 401, isViolation: true},
		"without exp":           {claims: jwt.MapClaims{"exp": nil}, status: 401, isViolation: true},
		"by an unknown one":     {header: map[string]any{"x5t": "AAAA"}, status: 401},
		"signed by PS256":       {method: jwt.SigningMethodPS256, status: 401, isViolation: true},
		"the signature is left": {method: jwt.SigningMethodNone, status: 401, isViolation: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // in 2000
				s := newStored(t, vendorsim.New(), "entra/certificate", "prod")
				block, _ := pem.Decode([]byte(s.fields["certificate"].(string)))
				sum := sha1.Sum(block.Bytes)
				claims := jwt.MapClaims{
					"iss": s.fields["object_id"], "aud": "00000002-0000-0000-c000-000000000000", "nbf": time.Now().Unix(), "exp": time.Now().Add(10 * time.Minute).Unix(),
				}
				maps.Copy(claims, c.claims)
				maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
				method, key := c.method, any(s.signer())
				switch method {
				case nil:
					method = jwt.SigningMethodRS256
				case jwt.SigningMethodNone:
					key = jwt.UnsafeAllowNoneSignatureType
				}
				token := jwt.NewWithClaims(method, claims)
				token.Header["x5t"] = base64.RawURLEncoding.EncodeToString(sum[:])
				maps.Copy(token.Header, c.header)
				proof, err := token.SignedString(key)
				require.NoError(t, err)
				authorization := strings.ReplaceAll(bearer, "<token>", s.token(graphScope))
				status, text := s.call(http.MethodPost, graphURL+"/removeKey", authorization, fmt.Sprintf(`{"keyId":"{certificate_id}","proof":%q}`, proof))
				assert.Equal(t, c.status, status, text)
				assert.Equal(t, c.isViolation, len(s.sim.Violations()) > 0, text)
				assert.Equal(t, status == http.StatusNoContent, !s.isAccepted())
				assert.Contains(t, s.sim.Secrets(), proof)
			})
		})
	}
}

// Vendors whose servers learn of a change one after the other refuse a new secret at first, and accept a removed one.
func TestChangesSpread(t *testing.T) {
	for _, kind := range []string{"entra/client_secret", "entra/certificate", "google", "auth0/client_secret", "auth0/private_key", "okta/client_secret", "okta/private_key", "okta-api"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				sim.Behave(vendorsim.Conduct{Propagation: time.Minute})
				s := newStored(t, sim, kind, "prod")
				require.NoError(t, s.prove(), "the first one has been known for long")
				fields, err := s.rotation().Create(t.Context(), s.newSecret())
				require.NoError(t, err)
				next := s.with(fields)
				var failure *provider.Error
				require.ErrorAs(t, next.prove(), &failure)
				assert.Equal(t, provider.Rejected, failure.Kind)
				assert.False(t, next.isAccepted())
				assert.True(t, s.isAccepted())
				time.Sleep(time.Minute)
				require.NoError(t, next.prove())
				assert.True(t, next.isAccepted())
				if s.rotation().Rules().EndsFormer {
					assert.False(t, s.isAccepted())
					return
				}
				require.NoError(t, next.rotation().Remove(t.Context(), s.former()))
				assert.True(t, s.isAccepted())
				assert.Equal(t, 1, s.live(), "the vendor will not accept it for long")
				time.Sleep(time.Minute)
				assert.False(t, s.isAccepted())
				assert.Empty(t, sim.Violations())
			})
		})
	}
}

// Entra and Google list a new secret late, so that one that is left behind is found only then.
func TestListsSpread(t *testing.T) {
	for _, kind := range []string{"entra/client_secret", "entra/certificate", "google"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				sim.Behave(vendorsim.Conduct{Propagation: time.Minute})
				s := newStored(t, sim, kind, "prod")
				n := s.newSecret()
				_, err := s.rotation().Create(t.Context(), n)
				require.NoError(t, err)
				require.NoError(t, s.rotation().Discard(t.Context(), n))
				assert.Equal(t, 2, s.live())
				time.Sleep(time.Minute)
				require.NoError(t, s.rotation().Discard(t.Context(), n))
				assert.Equal(t, 1, s.live())
				assert.Empty(t, sim.Violations())
			})
		})
	}
}

// GitLab takes the second use of a rotated token for a theft.
func TestGitLabRevokesTheFamilyOfATokenThatIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStored(t, vendorsim.New(), "gitlab-token", "prod")
		n := s.newSecret()
		fields, err := s.rotation().Create(t.Context(), n)
		require.NoError(t, err)
		next := s.with(fields)
		require.Error(t, s.prove())
		require.True(t, next.isAccepted(), "a look does no harm")
		_, err = s.rotation().Create(t.Context(), n)
		require.Error(t, err)
		assert.False(t, next.isAccepted())
		assert.Zero(t, next.live())
		assert.Empty(t, s.sim.Violations())
	})
}

// A token that GitLab creates is revoked by itself, and expires when its date begins.
func TestGitLabEndsTheTokensThatItCreates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in 2000
		s := newStored(t, vendorsim.New(), "gitlab-token", "prod")
		token, other := s.token(nil), s.token(nil)
		assert.Equal(t, time.Date(2000, 1, 3, 0, 0, 0, 0, time.UTC), s.sim.Expiry(token).UTC())
		for _, want := range []int{http.StatusNoContent, http.StatusUnauthorized} {
			status, text := s.call(http.MethodDelete, gitLabURL+"personal_access_tokens/self", "PRIVATE-TOKEN: "+token, "")
			assert.Equal(t, want, status, text)
		}
		assert.False(t, s.sim.Accepts(token))
		assert.True(t, s.sim.Accepts(other))
	})
}

// A credential of Auth0 is accepted only while an authentication method has it.
func TestAuth0AcceptsACredentialThatIsAssociated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := vendorsim.New()
		s := newStored(t, sim, "auth0/private_key", "prod")
		n := s.newSecret()
		sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if r.Method == http.MethodPatch {
				return vendorsim.Answer(http.StatusBadGateway, "")
			}
			return nil
		}})
		_, err := s.rotation().Create(t.Context(), n)
		require.Error(t, err)
		assert.Equal(t, 1, s.live())
		assert.Len(t, sim.StoredSecrets(s.kind, s.name), 2)
		next := s.with(map[string]any{"private_key": n.Chosen["new_private_key"], "key_id": kidOf(t, n)})
		assert.False(t, next.isAccepted())
		require.Error(t, next.prove())
		sim.Behave(vendorsim.Conduct{})
		require.NoError(t, s.rotation().Discard(t.Context(), n))
		assert.Len(t, sim.StoredSecrets(s.kind, s.name), 1)
		assert.Empty(t, sim.Violations())
	})
}

// kidOf returns the kid of a generated key.
func kidOf(t *testing.T, n provider.NewSecret) string {
	t.Helper()
	public, err := provider.PublicHalf(n.Chosen["new_private_key"])
	require.NoError(t, err)
	return public.Thumbprint
}

// Okta deletes what is deactivated, and accepts what is activated again.
func TestOktaDeletesWhatIsInactive(t *testing.T) {
	s := newStored(t, vendorsim.New(), "okta/private_key", "prod")
	for i, c := range []struct {
		method, path string
		status       int
		isAccepted   bool
	}{
		{"DELETE", "", 400, true},
		{"POST", "/lifecycle/deactivate", 200, false},
		{"POST", "/lifecycle/activate", 200, true},
		{"POST", "/lifecycle/deactivate", 200, false},
		{"DELETE", "", 204, false},
		{"DELETE", "", 404, false},
	} {
		status, text := s.call(c.method, oktaURL+"/jwks/{jwk_id}"+c.path, ssws, "")
		assert.Equal(t, c.status, status, "%d %s", i, text)
		assert.Equal(t, c.isAccepted, s.isAccepted(), i)
	}
	assert.Empty(t, s.sim.Violations())
}

// Okta's documentation has two shapes of the list of public keys.
func TestAKeyOfOktaThatALostAnswerLeavesIsFoundInEitherList(t *testing.T) {
	for _, kind := range []string{"okta/private_key", "okta-api"} {
		for _, isNested := range []bool{false, true} {
			sim := vendorsim.New()
			s := newStored(t, sim, kind, "prod")
			sim.Behave(vendorsim.Conduct{NestedKeys: isNested})
			administered := s.with(map[string]any{"api_token": newStored(t, sim, "okta/private_key", "other").fields["api_token"]})
			for _, s := range []*stored{s, administered} {
				n := s.newSecret()
				_, err := s.rotation().Create(t.Context(), n)
				require.NoError(t, err)
				require.Equal(t, 2, s.live())
				require.NoError(t, s.rotation().Discard(t.Context(), n))
				assert.Equal(t, 1, s.live())
				assert.True(t, s.isAccepted())
			}
			assert.Empty(t, sim.Violations())
		}
	}
}

// A client secret gets no token for Okta's own API.
func TestOktaIssuesTokensForItsOwnAPIToKeys(t *testing.T) {
	s := newStored(t, vendorsim.New(), "okta/client_secret", "prod")
	ask := form("grant_type", "client_credentials", "scope", "okta.apps.manage")
	a := post(t, s.sim, "https://acme.okta.com/oauth2/v1/token", basic(s.fields["client_id"].(string), s.fields["client_secret"].(string)), ask)
	assert.Equal(t, "invalid_client", a.error())
	assert.Empty(t, s.sim.Violations())
}

// The keys of a pair are those of one organization.
func TestDatadogRefusesAPairOfTwoOrganizations(t *testing.T) {
	sim := vendorsim.New()
	s, other := newStored(t, sim, "datadog", "prod"), newStored(t, sim, "datadog", "other")
	assert.False(t, s.with(map[string]any{"api_key": other.fields["api_key"]}).isAccepted())
	mixed := s.with(map[string]any{"api_key": other.fields["api_key"]})
	require.Error(t, mixed.prove())
	assert.Len(t, sim.LiveSecrets("datadog", "prod"), 2, "both keys")
}

// Cloudflare ends the former value of a token at each roll, and lists tokens on pages.
func TestCloudflareRollsAndListsTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := vendorsim.New()
		s := newStored(t, sim, "cloudflare/account", "prod")
		first := s.token(nil)
		second := s.token(nil)
		assert.False(t, sim.Accepts(first))
		assert.True(t, sim.Accepts(second))
		for range 60 {
			_, err := s.rotation().Create(t.Context(), s.newSecret())
			require.NoError(t, err)
			time.Sleep(time.Second)
		}
		n := s.newSecret()
		before := s.live()
		_, err := s.rotation().Create(t.Context(), n)
		require.NoError(t, err)
		require.NoError(t, s.rotation().Discard(t.Context(), n))
		assert.Equal(t, before, s.live(), "the newest of many is found")
		assert.Empty(t, sim.Violations())
	})
}

// A new token of Cloudflare may be used from where the present one may, and from nowhere else.
func TestANewTokenOfCloudflareHasTheConditionOfThePresentOne(t *testing.T) {
	for _, kind := range []string{"cloudflare/account", "cloudflare/user"} {
		for _, c := range []struct{ in, notIn []string }{
			{nil, nil}, {[]string{"192.0.2.0/24", "2001:db8::/32"}, nil}, {nil, []string{"198.51.100.7/32"}}, {[]string{"192.0.2.0/24"}, []string{"192.0.2.1/32"}},
		} {
			sim := vendorsim.New()
			s := newStored(t, sim, kind, "prod")
			sim.RestrictCloudflare(kind, "prod", c.in, c.notIn)
			for range 2 {
				fields, err := s.rotation().Create(t.Context(), s.newSecret())
				require.NoError(t, err)
				s = s.with(fields)
			}
			assert.Empty(t, sim.Violations(), "%s: %v", kind, c)
		}
	}
}

// A secret is refused after its expiry, and is then no live one.
func TestSecretsExpire(t *testing.T) {
	for kind, after := range map[string]time.Duration{
		"entra/client_secret": 90 * 24 * time.Hour, "entra/certificate": 90 * 24 * time.Hour, "databricks/account": 90 * 24 * time.Hour,
		"google": 90 * 24 * time.Hour, "cloudflare/user": 90 * 24 * time.Hour, "gitlab-token": 90 * 24 * time.Hour,
	} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // at midnight
				s := newStored(t, vendorsim.New(), kind, "prod")
				fields, err := s.rotation().Create(t.Context(), s.newSecret())
				require.NoError(t, err)
				next := s.with(fields)
				time.Sleep(after - time.Hour)
				assert.True(t, next.isAccepted())
				live := next.live()
				time.Sleep(time.Hour)
				assert.False(t, next.isAccepted())
				require.Error(t, next.prove())
				assert.Equal(t, live-1, next.live())
				assert.Len(t, s.sim.StoredSecrets(kind, "prod"), live)
			})
		})
	}
}

// Google takes only certificates of RSA keys, once each.
func TestGoogleTakesACertificateOnce(t *testing.T) {
	s := newStored(t, vendorsim.New(), "google", "prod")
	authorization := strings.ReplaceAll(bearer, "<token>", s.token(cloudPlatform))
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	upload := func(expires time.Time) int {
		certificate, err := provider.SelfSigned(private, "unused", expires)
		require.NoError(t, err)
		status, _ := s.call(http.MethodPost, googleURL+":upload", authorization, fmt.Sprintf(`{"publicKeyData":%q}`, base64.StdEncoding.EncodeToString([]byte(certificate))))
		return status
	}
	assert.Equal(t, http.StatusBadRequest, upload(time.Now().Add(-time.Second)))
	assert.Equal(t, http.StatusOK, upload(time.Now().Add(time.Hour)))
	assert.Equal(t, http.StatusBadRequest, upload(time.Now().Add(time.Hour)))
	assert.Empty(t, s.sim.Violations())
}

// Of a lost answer, the vendor's work remains; LostAnswers may read the request.
func TestALostAnswerComesAfterTheWork(t *testing.T) {
	sim := vendorsim.New()
	s := newStored(t, sim, "databricks/workspace", "prod")
	var seen []string
	sim.Behave(vendorsim.Conduct{LostAnswers: func(r *http.Request) bool {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, string(body))
		return strings.Contains(string(body), "lifetime")
	}})
	_, err := s.rotation().Create(t.Context(), s.newSecret())
	require.Error(t, err)
	assert.Equal(t, 2, s.live())
	assert.Len(t, seen, 4, "an exchange and a request, to list the secrets and to create one")
	assert.Empty(t, sim.Violations())
}

func TestTheHostsOfRotatingAccountsAreSimulated(t *testing.T) {
	sim := vendorsim.New()
	assert.False(t, sim.Simulates("graph.microsoft.com"))
	sim.AddRotating("entra/client_secret", "prod")
	assert.True(t, sim.Simulates("graph.microsoft.com"))
	assert.True(t, sim.Simulates("login.microsoftonline.com"))
	assert.IsIncreasing(t, vendorsim.RotatingKinds())
	assert.Len(t, vendorsim.RotatingKinds(), 15)
}
