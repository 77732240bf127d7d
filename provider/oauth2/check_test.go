package oauth2_test

import (
	"crypto/elliptic"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

func TestBadInputIsRefusedWithTheFieldAndTheFix(t *testing.T) {
	secret := map[string]any{"client_secret": clientSecret}
	with := func(name string, value any, more ...map[string]any) map[string]any {
		fields := map[string]any{name: value}
		for _, m := range append(more, secret) {
			for k, v := range m {
				if _, set := fields[k]; !set {
					fields[k] = v
				}
			}
		}
		return fields
	}
	for name, bad := range map[string]struct {
		fields map[string]any
		says   string
	}{
		"no server":                            {with("token_url", nil), "token_url: must be set; give the vendor's token endpoint, or set issuer instead"},
		"two servers":                          {with("issuer", "https://a.example"), "token_url and issuer are mutually exclusive; keep one, and clear the other"},
		"a server in clear":                    {with("token_url", "http://a.example/token"), "token_url: must be an https URL"},
		"a server without a host":              {with("token_url", "https://:443/t"), "token_url: not a URL with a host"},
		"a server of a megabyte":               {with("token_url", "https://"+strings.Repeat("a", 1<<20)+"/t"), "token_url: the URL is too long: 1048586 bytes (at most 2048)"},
		"an issuer in clear":                   {with("issuer", "http://a.example", map[string]any{"token_url": nil}), "issuer: must be an https URL"},
		"an issuer with a query":               {with("issuer", "https://a.example/?a=b", map[string]any{"token_url": nil}), "issuer: must not contain a query"},
		"a revocation without TLS":             {with("revocation_url", "http://a.example/revoke"), "revocation_url: must be an https URL"},
		"no client":                            {with("client_id", nil), "client_id: must be set"},
		"no client authentication":             {map[string]any{}, "client_secret: must be set; grant_type=client_credentials needs client authentication"},
		"an unknown grant":                     {with("grant_type", "password"), `grant_type: unknown grant type "password" (allowed: account_credentials, client_credentials, jwt_bearer, refresh_token`},
		"an unknown auth style":                {with("auth_style", "digest"), `auth_style: unknown style "digest" (allowed: client_secret_basic, client_secret_basic_unencoded, client_secret_post, private_key_jwt, identity_token, tls_client_auth, none`},
		"no refresh token":                     {with("grant_type", "refresh_token"), "refresh_token: must be set with grant_type=refresh_token"},
		"a refresh token for another grant":    {with("grant_type", "client_credentials", map[string]any{"refresh_token": refreshToken}), "refresh_token: does not apply to grant_type=client_credentials; clear it"},
		"no key for the grant":                 {with("grant_type", "jwt_bearer"), "private_key: must be set with grant_type=jwt_bearer, to sign"},
		"a subject for another grant":          {with("assertion_subject", "me"), "assertion_subject: applies only to grant_type=jwt_bearer"},
		"a scope in another grant's assertion": {with("scope_in_assertion", true), "scope_in_assertion: applies only to grant_type=jwt_bearer"},
		"an idle expiry of a secret":           {with("idle_expiry", 3600), "idle_expiry: applies only with a refresh_token"},
		"Basic without a secret":               {map[string]any{"auth_style": "client_secret_basic"}, "client_secret: must be set with auth_style=client_secret_basic"},
		"a signature without a key":            {with("auth_style", "private_key_jwt"), "private_key: must be set with auth_style=private_key_jwt"},
		"a key beside Basic":                   {with("auth_style", "client_secret_basic", map[string]any{"private_key": keyPEM(rsaKey())}), "private_key: is not used with auth_style=client_secret_basic; clear it"},
		"a secret beside a signature":          {with("private_key", keyPEM(rsaKey())), "client_secret: is not used with auth_style=private_key_jwt; clear it"},
		"a key ID without a key":               {with("key_id", "7"), "key_id: applies only with a private_key"},
		"an algorithm without a key":           {with("signing_algorithm", "RS256"), "signing_algorithm: applies only with a private_key"},
		"an audience without a key":            {with("assertion_audience", "https://a.example"), "assertion_audience: applies only with a private_key"},
		"an EC algorithm with RSA":             {map[string]any{"private_key": keyPEM(rsaKey()), "signing_algorithm": "ES256"}, `signing_algorithm: "ES256" does not fit the private_key; use RS256 or RS384 or RS512 or PS256 or PS384 or PS512`},
		"another curve's algorithm":            {map[string]any{"private_key": keyPEM(ecKey(elliptic.P256())), "signing_algorithm": "ES384"}, `signing_algorithm: "ES384" does not fit the private_key; use ES256`},
		"an unsupported curve":                 {map[string]any{"private_key": keyPEM(ecKey(elliptic.P224()))}, "private_key: unsupported curve"},
		"no key":                               {map[string]any{"private_key": "canary"}, "private_key: not PEM"},
		"a secret with a line break":           {map[string]any{"client_secret": "canary\ncanary"}, "client_secret: contains a line break, a control character or a non-ASCII character"},
		"a secret in quotes":                   {map[string]any{"client_secret": `"canary"`}, "client_secret: is quoted; give the value without the quotes"},
		"a token in quotes":                    {with("refresh_token", "“canary”"), "refresh_token: is quoted"},
		"a client in quotes":                   {with("client_id", "'canary'"), "client_id: is quoted"},
		"a client with a line break":           {with("client_id", "canary\ncanary"), "client_id: contains a line break"},
		"a colon in the client ID":             {with("client_id", "a:b", map[string]any{"auth_style": "client_secret_basic_unencoded"}), "client_id: contains a colon, which HTTP Basic cannot carry"},
		"Basic, unencoded, without a secret":   {map[string]any{"auth_style": "client_secret_basic_unencoded"}, "client_secret: must be set with auth_style=client_secret_basic_unencoded"},
		"an invalid scope":                     {with("scope", []string{`"a"`}), `scope: "\"a\"" is not a scope; a scope is printable ASCII without spaces, double quotes and backslashes`},
		"a parameter with its own field":       {with("token_params", map[string]string{"client_secret": "canary"}), "token_params: must not contain client_secret, which the engine sets from other fields"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryOpen(t, vendorsim.New(), bad.fields)
			var e *provider.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, provider.Invalid, e.Kind)
			assert.Contains(t, e.Reason, bad.says)
			assert.NotContains(t, e.Reason, "canary")
		})
	}
}

func TestValuesThatAFormCanCarryAreAccepted(t *testing.T) {
	const odd = `  it is "quoted" inside, ~ and \ end `
	for style, plain := range map[string]bool{"client_secret_basic": false, "client_secret_basic_unencoded": true, "client_secret_post": false} {
		synctest.Test(t, func(t *testing.T) {
			sim := newSim(func(c *vendorsim.OAuthClient) {
				c.Secret, c.AuthMethods = odd, []string{strings.TrimSuffix(style, "_unencoded")}
			})
			sim.AddOAuthRefreshToken(vendorsim.OAuthClient{ID: clientID}, "refresh "+odd)
			sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{PlainBasic: plain}})
			exchange(t, sim, open(t, sim, map[string]any{"client_secret": odd, "auth_style": style, "refresh_token": "refresh " + odd}), provider.Grant{})
		})
	}
}
