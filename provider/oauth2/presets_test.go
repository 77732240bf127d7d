package oauth2

import (
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

func eachPreset(t *testing.T, check func(*testing.T, Preset)) {
	for _, p := range Presets() {
		t.Run(p.Name, func(t *testing.T) { check(t, p) })
	}
}

func TestPresetsAreSortedAndHaveUniqueNames(t *testing.T) {
	names := presetNames()
	assert.Equal(t, slices.Compact(slices.Sorted(slices.Values(names))), names)
	for _, name := range []string{"auth0", "bitbucket", "entra", "gitlab", "google", "hubspot", "okta", "salesforce", "slack", "zoom"} {
		assert.Contains(t, names, name)
	}
}

func TestEachPresetHasDocsAndNotes(t *testing.T) {
	eachPreset(t, func(t *testing.T, p Preset) {
		assert.Regexp(t, `^[a-z][a-z0-9]*$`, p.Name)
		assert.NotEmpty(t, p.Title)
		assert.NotEmpty(t, p.Docs)
		for _, page := range p.Docs {
			require.NoError(t, provider.CheckURL("docs", strings.ReplaceAll(page, "#", "/")))
		}
		assert.Regexp(t, `^\S.*\.$`, p.Notes)
		assert.NotContains(t, p.Notes, ". ", "one sentence")
		for _, param := range p.Params {
			assert.NotEmpty(t, param.Description, param.Name)
		}
	})
}

func TestEachPresetHasValidSettings(t *testing.T) {
	eachPreset(t, func(t *testing.T, p Preset) {
		require.NotEmpty(t, p.GrantTypes)
		for _, grant := range p.GrantTypes {
			assert.Contains(t, grantTypes, grant)
		}
		if p.AuthStyle != "" {
			assert.Contains(t, allAuthStyles, p.AuthStyle)
		}
		isBearer, refreshes := slices.Contains(p.GrantTypes, "jwt_bearer"), slices.Contains(p.GrantTypes, "refresh_token")
		assert.False(t, p.ScopeInAssertion && !isBearer, "scope_in_assertion is for jwt_bearer")
		assert.False(t, p.AssertionSubjectRequired && !isBearer, "assertion_subject_required is for jwt_bearer")
		assert.False(t, p.IdleExpiry != 0 && !refreshes, "idle_expiry is for refresh_token")
		assert.False(t, p.SingleToken && !refreshes, "single_token is for refresh_token")
	})
}

func TestEachParamIsUsedAndEachPlaceholderIsAParam(t *testing.T) {
	eachPreset(t, func(t *testing.T, p Preset) {
		var params, used []string
		for _, param := range p.Params {
			params = append(params, param.Name)
			if param.Default != "" {
				assert.Regexp(t, param.whole, param.Default)
			}
		}
		for _, template := range p.templates() {
			for _, name := range placeholder.FindAllStringSubmatch(template, -1) {
				used = append(used, name[1])
			}
			assert.NotContains(t, placeholder.ReplaceAllString(template, ""), "{", "an invalid placeholder")
		}
		assert.Equal(t, slices.Compact(slices.Sorted(slices.Values(used))), slices.Sorted(slices.Values(params)))
	})
}

// ownDomain matches the end of a URL template's host, which no value can change.
var ownDomain = regexp.MustCompile(`^https://([^/]*\}\.)?([^/{}]+\.[^/{}]+)/`)

func TestNoValueOfAParamLeadsToAnotherHost(t *testing.T) {
	hostile := []string{
		"", " ", ".", "..", ".a", "a.", "a..b", "/", "a/b", "../a", "evil.example/", "evil.example#", "evil.example?", "u@evil.example",
		"a:1", `a\b`, "a%2fb", "a%2eb", "a b", "a\tb", "a\nb", "a\n", "\na", "é", "{domain}", "a&b=c", "a;b", "[::1]",
	}
	eachPreset(t, func(t *testing.T, p Preset) {
		for _, param := range p.Params {
			for _, value := range append(hostile, "evil.example/"+param.Default, param.Default+".evil.example/") {
				assert.False(t, param.whole.MatchString(value), "%s takes %q", param.Name, value)
			}
		}
		require.Regexp(t, ownDomain, p.TokenURL)
		if p.RevocationURL != "" {
			assert.Equal(t, ownDomain.FindString(p.TokenURL), ownDomain.FindString(p.RevocationURL), "tokens are sent only to their issuer")
		}
	})
}

func TestAnInvalidTableIsRefused(t *testing.T) {
	for name, table := range map[string]string{
		"an unknown member":      `[{"name":"a","tokens_url":"https://a.example/token"}]`,
		"data after the table":   `[] []`,
		"not a list":             `{}`,
		"an invalid pattern":     `[{"name":"a","params":[{"name":"b","pattern":"("}]}]`,
		"an invalid duration":    `[{"name":"a","idle_expiry":"a week"}]`,
		"a number as a duration": `[{"name":"a","idle_expiry":7}]`,
	} {
		_, err := parsePresets([]byte(table))
		require.ErrorContains(t, err, "table of presets", name)
	}
	list, err := parsePresets([]byte(`[{"name":"a","idle_expiry":"7d","default_ttl":"90m"}]`))
	require.NoError(t, err)
	assert.Equal(t, []Preset{{Name: "a", IdleExpiry: 7 * 24 * 3600, DefaultTTL: 90 * 60}}, list)
}

// The provider must accept each preset with each of its grants.
func TestEachGrantOfEachPresetMakesACredential(t *testing.T) {
	eachPreset(t, func(t *testing.T, p Preset) {
		for _, grant := range p.GrantTypes {
			own := map[string]any{"preset": p.Name, "preset_params": someParams(p), "grant_type": grant, "client_id": "client"}
			switch grant {
			case "jwt_bearer":
				own["private_key"], own["assertion_subject"] = somePrivateKey(t), "somebody@acme.example"
			case "refresh_token":
				own["client_secret"], own["refresh_token"] = "secret", "refresh-token"
			default:
				own["client_secret"] = "secret"
			}
			credential := open(t, own)
			client, isClient := credential.(*Client)
			require.True(t, isClient, grant)
			assert.Equal(t, grantTypes[grant], client.GrantType)
			at, err := url.Parse(client.Server.Token)
			require.NoError(t, err)
			assert.Equal(t, "https", at.Scheme)
			assert.NotContains(t, client.Server.Token, "{")
		}
	})
}

func TestPrivateKeysAuthenticateIfTheVendorSupportsIt(t *testing.T) {
	for name, audience := range map[string]string{"auth0": "https://acme.auth0.com/", "okta": ""} {
		credential := open(t, map[string]any{
			"preset": name, "preset_params": map[string]string{"domain": "acme"}, "client_id": "client", "private_key": somePrivateKey(t),
		})
		client := credential.(*Client)
		assert.Equal(t, PrivateKeyJWT, client.AuthStyle, name)
		assert.Equal(t, audience, client.Assertion.Audience, name)
	}
}

func open(t *testing.T, own map[string]any) provider.Credential {
	t.Helper()
	raw, err := json.Marshal(own)
	require.NoError(t, err)
	credential, err := Provider{}.Open(provider.Settings{Fields: raw, Client: &provider.Client{}})
	require.NoError(t, err, "%s", raw)
	return credential
}

// someParams returns values for the required parameters.
func someParams(p Preset) map[string]string {
	values := map[string]string{}
	for _, param := range p.Params {
		for _, value := range []string{"acme", "1234567"} {
			if param.Default == "" && param.whole.MatchString(value) {
				values[param.Name] = value
			}
		}
	}
	return values
}
