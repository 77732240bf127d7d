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
		"no server":                       {with("token_url", nil), "token_url: is missing; give the vendor's token endpoint, or its issuer"},
		"two servers":                     {with("issuer", "https://a.example"), "token_url and issuer contradict each other: give one, and clear the other"},
		"a server in clear":               {with("token_url", "http://a.example/token"), "token_url: must be an https URL"},
		"a server without a host":         {with("token_url", "https://:443/t"), "token_url: is not a URL with a host"},
		"a server of a megabyte":          {with("token_url", "https://"+strings.Repeat("a", 1<<20)+"/t"), "token_url: has 1048586 bytes, and may have 2048"},
		"an issuer in clear":              {with("issuer", "http://a.example", map[string]any{"token_url": nil}), "issuer: must be an https URL"},
		"an issuer with a query":          {with("issuer", "https://a.example/?a=b", map[string]any{"token_url": nil}), "issuer: must not hold a query"},
		"a revocation in clear":           {with("revocation_url", "http://a.example/revoke"), "revocation_url: must be an https URL"},
		"no client":                       {with("client_id", nil), "client_id: is missing"},
		"nothing to prove it by":          {map[string]any{}, "client_secret: is missing; a client that proves itself by nothing can have no grant_type=client_credentials"},
		"an unknown grant":                {with("grant_type", "password"), `grant_type: "password" is none of account_credentials, client_credentials, jwt_bearer, refresh_token`},
		"an unknown authentication":       {with("auth_style", "digest"), `auth_style: "digest" is none of client_secret_basic, client_secret_basic_unencoded, client_secret_post, private_key_jwt, none`},
		"a refresh without a token":       {with("grant_type", "refresh_token"), "refresh_token: is missing, which grant_type=refresh_token exchanges"},
		"a token for another grant":       {with("grant_type", "client_credentials", map[string]any{"refresh_token": refreshToken}), "refresh_token: is not for grant_type=client_credentials; clear it"},
		"a grant without a key":           {with("grant_type", "jwt_bearer"), "private_key: is missing, which signs the assertion"},
		"a subject for another grant":     {with("assertion_subject", "me"), "assertion_subject: goes with grant_type=jwt_bearer alone"},
		"a scope inside of another grant": {with("scope_in_assertion", true), "scope_in_assertion: goes with grant_type=jwt_bearer alone"},
		"an idle expiry of a secret":      {with("idle_expiry", 3600), "idle_expiry: goes with a refresh_token alone"},
		"Basic without a secret":          {map[string]any{"auth_style": "client_secret_basic"}, "client_secret: is missing, which auth_style=client_secret_basic proves the client by"},
		"a signature without a key":       {with("auth_style", "private_key_jwt"), "private_key: is missing, which auth_style=private_key_jwt"},
		"a key beside Basic":              {with("auth_style", "client_secret_basic", map[string]any{"private_key": keyPEM(rsaKey())}), "private_key: is not used with auth_style=client_secret_basic; clear it"},
		"a secret beside a signature":     {with("private_key", keyPEM(rsaKey())), "client_secret: is not used with auth_style=private_key_jwt; clear it"},
		"a key ID without a key":          {with("key_id", "7"), "key_id: goes with a private_key alone"},
		"an algorithm without a key":      {with("signing_algorithm", "RS256"), "signing_algorithm: goes with a private_key alone"},
		"an audience without a key":       {with("assertion_audience", "https://a.example"), "assertion_audience: goes with a private_key alone"},
		"an EC algorithm with RSA":        {map[string]any{"private_key": keyPEM(rsaKey()), "signing_algorithm": "ES256"}, `signing_algorithm: "ES256" is not for this private_key, which signs with RS256 or RS384 or RS512 or PS256 or PS384 or PS512`},
		"another curve's algorithm":       {map[string]any{"private_key": keyPEM(ecKey(elliptic.P256())), "signing_algorithm": "ES384"}, `signing_algorithm: "ES384" is not for this private_key, which signs with ES256`},
		"a curve that nobody takes":       {map[string]any{"private_key": keyPEM(ecKey(elliptic.P224()))}, "private_key: is on a curve that no signing algorithm is for"},
		"no key":                          {map[string]any{"private_key": "canary"}, "private_key: is no PEM"},
		"a secret with a line break":      {map[string]any{"client_secret": "canary\ncanary"}, "client_secret: holds a line break, a control character or a character outside ASCII"},
		"a secret in quotes":              {map[string]any{"client_secret": `"canary"`}, "client_secret: is in quotes; give the value without them"},
		"a token in quotes":               {with("refresh_token", "“canary”"), "refresh_token: is in quotes"},
		"a client in quotes":              {with("client_id", "'canary'"), "client_id: is in quotes"},
		"a client with a line break":      {with("client_id", "canary\ncanary"), "client_id: holds a line break"},
		"a colon before a colon":          {with("client_id", "a:b", map[string]any{"auth_style": "client_secret_basic_unencoded"}), "client_id: holds a colon, which ends it in HTTP Basic"},
		"Basic as it stands, of nothing":  {map[string]any{"auth_style": "client_secret_basic_unencoded"}, "client_secret: is missing, which auth_style=client_secret_basic_unencoded"},
		"an invalid scope":                {with("scope", []string{`"a"`}), `scope: "\"a\"" is not a scope; a scope is printable ASCII without spaces, quotes and backslashes`},
		"a parameter with its own field":  {with("token_params", map[string]string{"client_secret": "canary"}), "token_params: must not hold client_secret, which has a field of its own"},
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

func TestWhatAFormAndBasicCanCarryIsTaken(t *testing.T) {
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
