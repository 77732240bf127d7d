//go:build e2e

package e2e

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const billing, search = "https://billing.example.com", "https://search.example.com"

// A narrowing mount has the role orders, of which a read can have an audience or a scope of two each.
type narrowing struct{ *policed }

func newNarrowing(t *testing.T) narrowing {
	t.Helper()
	m := narrowing{&policed{mount: enable(t, "api")}}
	m.behave(vendorsim.Conduct{JWT: true})
	m.sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: "api", Secret: "api-client-secret-0123", Scopes: []string{"read", "write"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.ClientCredentialsGrant}, Audiences: []string{billing, search},
	})
	m.write("config/oauth2/api", map[string]any{
		"token_url": vendorsim.URL(m.base, vendorsim.OAuthTokenURL), "client_id": "api", "client_secret": "api-client-secret-0123",
		"auth_style": "client_secret_basic", "audience": billing + "," + search, "scope": "read,write",
	})
	m.write("roles/orders", map[string]any{"config": "api", "audience": billing + "," + search})
	return m
}

// read returns the audience of the token that a read with a query yields.
func (m narrowing) read(t *testing.T, reader *api.Client, path, query string) ([]string, error) {
	t.Helper()
	values, err := url.ParseQuery(query)
	require.NoError(t, err)
	secret, err := reader.Logical().ReadWithDataWithContext(t.Context(), "api/"+path, values)
	if err != nil {
		return nil, err
	}
	return m.sim.About(secret.Data["access_token"].(string)).Audience, nil
}

// What Vault's policies compare of a read is its query: each parameter, with its name in lower case, as the text
// that was sent, or as a list if it was sent twice. docs/roles-and-policies.md says so.
func TestPoliciesPinTheParametersOfReads(t *testing.T) {
	m := newNarrowing(t)
	const own, denied, byEngine = "", "permission denied", "400"
	both := []string{billing, search}
	for _, test := range []struct {
		policy   string            // the rules besides the capability; "" for examples/policies/one-audience.hcl
		outcomes map[string]string // by query
		yields   map[string][]string
	}{
		{
			policy: "",
			outcomes: map[string]string{
				"":                                   denied,
				"audience=":                          denied,
				"audience=" + search:                 denied,
				"audience=" + billing + "," + search: denied,
				"audience=" + billing + ",":          denied,
				"audience=+" + billing:               denied,
				"audience=" + billing + "&audience=" + search:  denied,
				"audience=" + billing + "&audience=" + billing: denied,
				"AUDIENCE=" + billing:                          denied,
				"audience=" + billing + "&AUDIENCE=" + search:  denied,
				"audience=" + billing + "&AUDIENCE=" + billing: byEngine,
				"audience=" + billing + "&scope=read":          denied,
				"audience=" + billing + "&other=x":             denied,
				"audience=" + billing + "&min_ttl=1m":          own,
				"audience=" + billing:                          own,
			},
		},
		{ // required, but not which value
			policy:   `required_parameters = ["audience"]`,
			outcomes: map[string]string{"": denied, "scope=read": denied, "audience=": byEngine, "audience=,": byEngine},
			yields:   map[string][]string{"audience=" + search: {search}, "audience=" + billing + "&audience=" + search: both},
		},
		{ // allowed, but not required
			policy:   `allowed_parameters = { "audience" = ["` + billing + `"] }`,
			outcomes: map[string]string{"audience=" + search: denied, "min_ttl=1m": denied, "audience=" + billing: own},
			yields:   map[string][]string{"": both},
		},
		{ // a wildcard allows a list that begins with it
			policy: `allowed_parameters = { "audience" = ["https://billing*"] }`,
			yields: map[string][]string{"audience=" + billing + "," + search: both},
		},
		{ // a denied value can be part of a list
			policy:   `denied_parameters = { "audience" = ["` + search + `"] }`,
			outcomes: map[string]string{"audience=" + search: denied},
			yields: map[string][]string{
				"audience=" + search + ",": {search}, "audience=" + search + "&audience=" + search: {search}, "": both,
			},
		},
		{ // a parameter that is denied as a whole
			policy: `denied_parameters = { "scope" = [] }`,
			outcomes: map[string]string{
				"scope=": denied, "scope=read": denied, "SCOPE=read": denied, "scope=read&scope=write": denied, "audience=" + billing: own,
			},
			yields: map[string][]string{"": both},
		},
		{ // templates are filled in paths only
			policy:   `allowed_parameters = { "audience" = ["{{identity.entity.name}}"] }`,
			outcomes: map[string]string{"audience=" + billing: denied},
		},
	} {
		name := "examples/policies/one-audience.hcl"
		if test.policy == "" {
			m.put(t, "one-audience.hcl")
		} else {
			name = test.policy
			m.putRules(t, "example", test.policy)
		}
		reader := m.client("example")
		for query, want := range test.outcomes {
			t.Run(name+"?"+query, func(t *testing.T) {
				for _, path := range []string{"creds/orders", "token/orders"} {
					got, err := m.read(t, reader, path, query)
					switch want {
					case denied:
						assertStatus(t, http.StatusForbidden, denied, err)
					case byEngine:
						assertStatus(t, http.StatusBadRequest, "", err)
					default:
						require.NoError(t, err)
						assert.Equal(t, []string{billing}, got)
					}
				}
			})
		}
		for query, want := range test.yields {
			t.Run(name+"?"+query, func(t *testing.T) {
				got, err := m.read(t, reader, "creds/orders", query)
				require.NoError(t, err)
				assert.Equal(t, want, got)
			})
		}
	}

	t.Run("a policy without rules adds nothing to one with them", func(t *testing.T) {
		m.put(t, "one-audience.hcl")
		m.putRules(t, "plain", "")
		token, err := m.root.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"example", "plain"}})
		require.NoError(t, err)
		_, err = m.read(t, m.as(token.Auth.ClientToken), "creds/orders", "")
		assertStatus(t, http.StatusForbidden, denied, err)
	})
	t.Run("of two policies with values, the values of both are allowed", func(t *testing.T) {
		m.put(t, "one-audience.hcl")
		m.putRules(t, "other", `allowed_parameters = { "audience" = ["`+search+`"] }`)
		token, err := m.root.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"example", "other"}})
		require.NoError(t, err)
		reader := m.as(token.Auth.ClientToken)
		for _, audience := range []string{billing, search} {
			got, err := m.read(t, reader, "creds/orders", "audience="+audience)
			require.NoError(t, err)
			assert.Equal(t, []string{audience}, got)
		}
		_, err = m.read(t, reader, "creds/orders", "")
		assertStatus(t, http.StatusForbidden, denied, err)
	})
	t.Run("the example grants nothing else", func(t *testing.T) {
		m.put(t, "one-audience.hcl")
		for _, r := range []request{{"read", "creds/api"}, {"read", "token/api"}, {"read", "roles/orders"}, {"read", "status/api"}, {"list", "creds"}} {
			m.assertDenied(t, m.client("example"), r)
		}
	})
}

// putRules writes a policy that may read the tokens of orders, with rules.
func (m narrowing) putRules(t *testing.T, name, rules string) {
	t.Helper()
	var policy strings.Builder
	for _, path := range []string{"creds", "token"} {
		policy.WriteString(`path "api/` + path + `/orders" { capabilities = ["read"]` + "\n" + rules + "\n}\n")
	}
	require.NoError(t, m.root.Sys().PutPolicyWithContext(t.Context(), name, policy.String()))
}

func TestAgentReadsWithParameters(t *testing.T) {
	m := newNarrowing(t)
	m.put(t, "one-audience.hcl")
	dir := t.TempDir()
	for name, content := range map[string]string{
		"vault-token": m.client("example").Token(),
		"agent.hcl": `
auto_auth {
  method "token_file" {
    config = { token_file_path = "vault-token" }
  }
}
template {
  contents    = "{{ with secret \"api/creds/orders?audience=` + billing + `\" }}{{ .Data.access_token }}{{ end }}"
  destination = "orders-token"
}`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	cmd := m.server.Command(t.Context(), "", "agent", "-config=agent.hcl", "-exit-after-auth")
	cmd.Dir = dir
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, string(output))
	token, err := os.ReadFile(filepath.Join(dir, "orders-token"))
	require.NoError(t, err)
	assert.Equal(t, []string{billing}, m.sim.About(string(token)).Audience)
}
