package definition_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
	"vault-plugin-secrets-tokenbroker/provider/definition"
	"vault-plugin-secrets-tokenbroker/provider/providertest"
)

const (
	keypairURL     = "https://vault.example.com/v1/tokens/jwks/prod"
	serverURL      = "https://vault.example.com/v1/identity/oidc/plugins"
	serverSubject  = "plugin-identity:root:secret:tokenbroker_1a2b3c"
	credentialPath = "config/acme/prod"

	googleProvider = "projects/123456789012/locations/global/workloadIdentityPools/vault/providers/vault"
	googleAccount  = "billing@acme.iam.gserviceaccount.com"
)

// asIssuer sets what a credential has of a key pair with an issuer: the key of vendorsim.Issuer.
func asIssuer(s *provider.Settings) {
	s.Issuer, s.Subject, s.Thumbprint = keypairURL, credentialPath, vendorsim.Issuer{}.KeyID()
}

// withIdentity sets what a credential has of a server that issues identity tokens.
func withIdentity(s *provider.Settings) {
	s.IdentityToken = func(_ context.Context, audience string, ttl time.Duration) (string, error) {
		return vendorsim.Issuer{URL: serverURL}.Sign(serverSubject, audience, ttl), nil
	}
}

func issuerKeyPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(vendorsim.Issuer{}.Key())}))
}

// entra is an application with a federated credential for a subject of an issuer.
func entra(issuer, subject string) func() http.Handler {
	return func() http.Handler {
		sim := vendorsim.New()
		sim.AddIdentityProvider(issuer, vendorsim.Issuer{URL: issuer}.Fetch)
		sim.AddEntraApp(vendorsim.EntraApp{
			Tenant: "acme.example", ClientID: "app", Subject: subject,
			Trust: vendorsim.Trust{Issuer: issuer, Audiences: []string{vendorsim.EntraAudience}},
		})
		return sim
	}
}

// google is a workload identity pool in which a subject of an issuer can act as an account.
func google(issuer, subject string) func() http.Handler {
	return func() http.Handler {
		sim := vendorsim.New()
		sim.AddIdentityProvider(issuer, vendorsim.Issuer{URL: issuer}.Fetch)
		sim.AddGooglePool(vendorsim.GooglePool{
			Provider: googleProvider, Issuer: issuer, ServiceAccounts: map[string][]string{subject: {googleAccount}},
		})
		return sim
	}
}

// Credentials without a secret keep the contract of a provider: with the issuer of a key pair, and with
// identity tokens of the server.
func TestDefinitionsWithoutASecretKeepTheContractOfAProvider(t *testing.T) {
	app := object{"tenant": "acme.example", "client_id": "app"}
	pool := object{"provider": googleProvider, "scope": []string{vendorsim.GoogleScope, vendorsim.GoogleScope + ".read-only"}}
	key, identity := issuerKeyPEM(), "https://iam.googleapis.com/"+googleProvider
	for vendor, kinds := range map[string]map[string]providertest.Kind{
		"entra": {
			"federated":      {Settings: asIssuer, Vendor: entra(keypairURL, credentialPath), Fields: with(app, "private_key", key)},
			"identity_token": {Settings: withIdentity, Vendor: entra(serverURL, serverSubject), Fields: with(app, "identity_token_audience", vendorsim.EntraAudience)},
		},
		"google-workload-identity": {
			"service_account": {Settings: asIssuer, Vendor: google(keypairURL, credentialPath), Scope: vendorsim.GoogleScope, Fields: with(pool, "private_key", key, "service_account", googleAccount)},
			"direct":          {Settings: asIssuer, Vendor: google(keypairURL, credentialPath), Scope: vendorsim.GoogleScope, Fields: with(pool, "private_key", key)},
			"identity_token_service_account": {
				Settings: withIdentity, Vendor: google(serverURL, serverSubject), Scope: vendorsim.GoogleScope, Fields: with(pool, "identity_token_audience", identity, "service_account", googleAccount),
			},
			"identity_token_direct": {Settings: withIdentity, Vendor: google(serverURL, serverSubject), Scope: vendorsim.GoogleScope, Fields: with(pool, "identity_token_audience", identity)},
		},
		"aws-web-identity": {
			"web_identity": {Settings: asIssuer, Offline: true, Vendor: func() http.Handler { return vendorsim.New() }, Fields: object{"private_key": key}},
		},
	} {
		t.Run(vendor, func(t *testing.T) {
			providertest.Test(t, providertest.Contract{Provider: catalogue.Lookup(vendor), Kinds: kinds})
		})
	}
}

// federating is a definition whose vendor trusts the issuer of a key pair, and the server, at two requests.
func federating() []change {
	return []change{
		{"/auth", nil}, {"/fields/client_id", nil}, {"/fields/client_secret", nil}, {"/fields/scope", nil},
		{"/fields/private_key", object{}}, {"/fields/assertion_subject", object{}}, {"/fields/identity_token_audience", object{}},
		{"/assertion", object{"claims": object{"iss": "{keypair_issuer}", "sub": "{assertion_subject}", "aud": "acme"}}},
		{"/grants", []any{
			object{"grant_type": "issuer", "needs": []string{"private_key"}, "request": object{"form": object{"token": "{assertion}"}}},
			object{"grant_type": "server", "needs": []string{"identity_token_audience"}, "request": object{"headers": object{"X-Token": "{identity_token}"}, "json": object{"token": "{identity_token}"}}},
		}},
	}
}

func TestTheErrorOfADefinitionNamesAMisusedIdentity(t *testing.T) {
	for name, test := range map[string]struct {
		changes []change
		err     string
	}{
		"the issuer in a request":          {[]change{{"/grants/0/request/form/iss", "{keypair_issuer}"}}, "/grants/0/request/form/iss: {keypair_issuer} is not a field"},
		"the token of the server, signed":  {[]change{{"/assertion/claims/act", "{identity_token}"}}, "/assertion/claims: {identity_token} is not a field"},
		"the token of the server in a URL": {[]change{{"/token_url", "https://{account}.vendor.example/token?t={identity_token}"}}, "/token_url: {identity_token} is not a field"},
		"no audience":                      {[]change{{"/fields/identity_token_audience", nil}, {"/grants/1/needs", nil}}, "/grants/1/request/headers/X-Token: an identity token needs a field named identity_token_audience"},
		"no audience of a client":          {[]change{{"/fields/identity_token_audience", nil}, {"/fields/client_id", object{}}, {"/grants/1", object{"grant_type": "server", "auth": "identity_token", "request": object{}}}}, "/grants/1/auth: identity_token needs a field named identity_token_audience"},
		"a ttl that is a text":             {[]change{{"/fields/identity_token_ttl", object{"type": "string"}}}, "/grants/1/request/headers/X-Token: an identity token needs a field identity_token_ttl that is a duration"},
		"an issuer with a shared secret": {
			[]change{{"/fields/private_key", nil}, {"/fields/api_key", object{}}, {"/grants/0/needs", nil}, {"/assertion/key", "api_key"}, {"/assertion/algorithms", []string{"HS256"}}},
			"/assertion/key: {keypair_issuer} needs the field private_key",
		},
		"a kept value of that name":        {[]change{{"/grants/0/before", []any{object{"request": object{}, "keep": object{"identity_token": "/t"}}}}}, "/grants/0/before/0/keep/identity_token: is another value's name"},
		"a field of that name":             {[]change{{"/fields/keypair_issuer", object{"description": "x"}}}, "/fields/keypair_issuer: the engine has the name already"},
		"a revocation without an audience": {[]change{{"/fields/identity_token_audience", nil}, {"/grants", []any{object{"grant_type": "issuer", "request": object{"form": object{"token": "{assertion}"}}}}}, {"/revocation", object{"url": "https://a.example", "auth": "identity_token"}}}, "/revocation/auth: an identity token needs a field named"},
	} {
		_, err := definition.Parse("acme", changed(t, append(federating(), test.changes...)...))
		assert.ErrorContains(t, err, "definition: "+test.err, name)
	}
}

func TestAnIssuerSignsWithItsPublishedKeyForItsSubject(t *testing.T) {
	p := parsed(t, append(federating(), change{"/fields/key_id", object{}})...)
	fields := object{"account": "a", "private_key": issuerKeyPEM()}
	signed := func(fields object) (header, claims object) {
		v := &vendor{answers: []answer{ok(`{"access_token":"t","expires_in":60}`)}}
		c := openWith(t, p, v, fields, asIssuer)
		exchanged(t, c, provider.Grant{})
		_, form, _ := strings.Cut(v.requests[0], "token=")
		token, _, err := jwt.NewParser().ParseUnverified(form, jwt.MapClaims{})
		require.NoError(t, err)
		assert.Equal(t, []string{"acme"}, c.Destinations().Audiences)
		claims = object(token.Claims.(jwt.MapClaims))
		assert.Equal(t, []provider.Subject{{Issuer: keypairURL, Subject: claims["sub"].(string)}}, c.Destinations().Subjects)
		return token.Header, claims
	}
	header, claims := signed(fields)
	assert.Equal(t, keypairURL, claims["iss"])
	assert.Equal(t, credentialPath, claims["sub"], "the default")
	assert.Equal(t, vendorsim.Issuer{}.KeyID(), header["kid"])
	header, claims = signed(with(fields, "assertion_subject", "billing", "key_id", "another"))
	assert.Equal(t, "billing", claims["sub"])
	assert.Equal(t, vendorsim.Issuer{}.KeyID(), header["kid"], "the kid is that of the published keys")

	assert.Contains(t, refused(t, p, fields), "private_key: has no issuer, which grant_type=issuer needs; set private_key_source=generated, and issuer of the key pair (keypair/<name>)")
}

func TestASubjectIsThatOfTheClaimsAsFarAsTheyAreKnown(t *testing.T) {
	for name, test := range map[string]struct {
		claims object
		want   provider.Subject
	}{
		"none":          {object{"aud": "acme", "x": "{keypair_issuer}{assertion_subject}"}, provider.Subject{Issuer: provider.NoIssuer}},
		"literal":       {object{"iss": "https://other.example", "sub": "ann", "x": "{keypair_issuer}{assertion_subject}"}, provider.Subject{Issuer: "https://other.example", Subject: "ann"}},
		"known later":   {object{"iss": "{uuid}", "sub": "{now}", "x": "{keypair_issuer}{assertion_subject}"}, provider.Subject{}},
		"of two":        {object{"iss": []string{"{keypair_issuer}", "x"}, "sub": "{assertion_subject}"}, provider.Subject{Subject: credentialPath}},
		"the endpoint":  {object{"iss": "{token_url}", "sub": "{keypair_issuer}", "x": "{assertion_subject}"}, provider.Subject{Issuer: "https://a.vendor.example/token", Subject: keypairURL}},
		"an object":     {object{"iss": object{"a": "{keypair_issuer}"}, "sub": 7, "x": "{assertion_subject}"}, provider.Subject{}},
		"part of a URL": {object{"iss": "{keypair_issuer}/", "sub": "{assertion_subject}"}, provider.Subject{Issuer: keypairURL + "/", Subject: credentialPath}},
	} {
		p := parsed(t, append(federating(), change{"/assertion/claims", test.claims})...)
		c := openWith(t, p, nil, object{"account": "a", "private_key": issuerKeyPEM()}, asIssuer)
		assert.Equal(t, []provider.Subject{test.want}, c.Destinations().Subjects, name)
	}
}

func TestAnIdentityTokenIsNewInEachRequest(t *testing.T) {
	v := &vendor{answers: []answer{ok(`{"access_token":"t","expires_in":60}`)}}
	p, n := parsed(t, append(federating(), change{"/fields/identity_token_ttl", object{}})...), 0
	c := openWith(t, p, v, object{"account": "a", "identity_token_audience": "acme", "identity_token_ttl": 90}, func(s *provider.Settings) {
		s.IdentityToken = func(_ context.Context, audience string, ttl time.Duration) (string, error) {
			n++
			return fmt.Sprintf("%s-%s-%d", audience, ttl, n), nil
		}
	})
	exchanged(t, c, provider.Grant{})
	exchanged(t, c, provider.Grant{})
	assert.Equal(t, []string{
		`POST https://a.vendor.example/token [X-Token: acme-1m30s-1] {"token":"acme-1m30s-1"}`,
		`POST https://a.vendor.example/token [X-Token: acme-1m30s-2] {"token":"acme-1m30s-2"}`,
	}, v.requests)
	assert.Equal(t, []string{"acme"}, c.Destinations().Audiences)
	assert.Contains(t, refused(t, p, object{"account": "a", "identity_token_audience": "acme", "identity_token_ttl": 0}), "identity_token_ttl: must be at least 1s")
	assert.Contains(t, refused(t, p, object{"account": "a", "grant_type": "server"}), "identity_token_audience: must be set with grant_type=server")
}

func TestAFailureToIssueAnIdentityTokenIsNotARejection(t *testing.T) {
	for _, test := range []struct {
		set  func(*provider.Settings)
		kind provider.Kind
	}{
		{func(*provider.Settings) {}, provider.Invalid},
		{func(s *provider.Settings) {
			s.IdentityToken = func(context.Context, string, time.Duration) (string, error) {
				return "", provider.Errorf(provider.Unavailable, "no key")
			}
		}, provider.Unavailable},
	} {
		v := &vendor{answers: []answer{ok(`{"access_token":"t","expires_in":60}`)}}
		c := openWith(t, parsed(t, federating()...), v, object{"account": "a", "identity_token_audience": "acme"}, test.set)
		_, err := c.Exchange(t.Context(), provider.Grant{})
		var failure *provider.Error
		require.ErrorAs(t, err, &failure)
		assert.Equal(t, test.kind, failure.Kind)
		assert.Empty(t, v.requests, "the vendor is not called")
	}
}

func TestAPreviewShowsIdentitiesByTheirNames(t *testing.T) {
	p := parsed(t, federating()...)
	preview := previewed(t, p, object{"account": "a", "private_key": rsaKey()}, "", 200)
	require.Len(t, preview.Requests, 1)
	assert.Contains(t, preview.Requests[0], `"iss":"{keypair_issuer}"`)
	assert.Contains(t, preview.Requests[0], `"sub":"config/acme/{name}"`)
	preview = previewed(t, p, object{"account": "a", "identity_token_audience": "acme"}, "", 200)
	assert.Equal(t, []string{"POST https://a.vendor.example/token\nAccept: application/json\nContent-Type: application/json\nX-Token: {identity_token}\n\n{\"token\":\"{identity_token}\"}"}, preview.Requests)
}

func TestGuarantee6AnIdentityTokenIsNotQuoted(t *testing.T) {
	const token = "t0ken-of-vault"
	v := &vendor{answers: []answer{{status: http.StatusBadRequest, body: `{"error":"invalid_request","error_description":"you sent ` + token + `"}`}}}
	c := openWith(t, parsed(t, federating()...), v, object{"account": "a", "identity_token_audience": "acme"}, func(s *provider.Settings) {
		s.IdentityToken = func(context.Context, string, time.Duration) (string, error) { return token, nil }
	})
	_, err := c.Exchange(t.Context(), provider.Grant{})
	require.ErrorContains(t, err, "you sent [redacted]")
}
