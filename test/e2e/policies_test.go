//go:build e2e

package e2e

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// request is a kind of request that Vault's policies can distinguish. The operation replace is a
// write of only a new secret.
type request struct{ operation, path string }

// activation is refused by the engine, also if the policy allows it.
var activation = request{"write", "keypair/spare/activate"}

// refusals are the engine's errors for requests that a policy allows.
var refusals = map[request]string{activation: "no credential uses keypair/spare"}

// requests are in an order in which all others can succeed.
var requests = []request{
	{"write", "config/kensho/prod"},
	{"patch", "config/kensho/prod"},
	{"replace", "config/kensho/prod"},
	{"read", "config/kensho/prod"},
	{"list", "config"},
	{"list", "config/kensho"},
	{"write", "clients/crm"},
	{"patch", "clients/crm"},
	{"read", "clients/crm"},
	{"list", "clients"},
	{"delete", "clients/crm"},
	{"write", "authorize/person"},
	{"read", "authorize/person"},
	{"list", "vendors"},
	{"read", "vendors/entra"},
	{"write", "keypair/spare"},
	{"write", "keypair/spare"},
	activation,
	{"read", "keypair/spare"},
	{"list", "keypair"},
	{"delete", "keypair/spare"},
	{"write", "roles/app"},
	{"patch", "roles/app"},
	{"read", "roles/app"},
	{"list", "roles"},
	{"write", "refresh/prod"},
	{"drop", "refresh/prod"},
	{"read", "status/prod"},
	{"list", "status"},
	{"read", "metrics"},
	{"read", "creds/prod"},
	{"read", "creds/app"},
	{"read", "token/prod"},
	{"read", "token/app"},
	{"delete", "roles/app"},
	{"delete", "config/kensho/prod"},
}

// A policed mount answers requests under an example's policy.
type policed struct {
	*mount
	data map[string]map[string]any // of writes, by path
}

// oauthClient returns a client of an OAuth server, which people can consent to.
func (m *policed) oauthClient() map[string]any {
	return map[string]any{
		"vendor": "oauth2", "token_url": vendorsim.URL(m.base, vendorsim.OAuthTokenURL), "authorization_url": vendorsim.OAuthAuthorizationURL,
		"client_id": "saas", "client_secret": "saas-client-secret-0123", "auth_style": "client_secret_basic", "scope": "read",
		"grant_type": "refresh_token", "redirect_uri": "https://vault.example.com/v1/saas/callback",
	}
}

func (m *policed) ask(client *api.Client, r request) error {
	var err error
	ctx, logical, path := context.Background(), client.Logical(), m.path+"/"+r.path
	switch r.operation {
	case "write":
		_, err = logical.WriteWithContext(ctx, path, m.data[r.path])
	case "replace":
		_, err = logical.WriteWithContext(ctx, path, map[string]any{"refresh_token": refreshToken})
	case "drop":
		_, err = logical.WriteWithContext(ctx, path, map[string]any{"drop": true})
	case "patch":
		_, err = logical.JSONMergePatch(ctx, path, m.data[r.path])
	case "read":
		_, err = logical.ReadRawWithContext(ctx, path) // metrics are not JSON
	case "list":
		_, err = logical.ListWithContext(ctx, path)
	case "delete":
		_, err = logical.DeleteWithContext(ctx, path)
	}
	return err
}

// put writes the policy example from a file, after replacements.
func (m *policed) put(t *testing.T, file string, oldnew ...string) {
	t.Helper()
	policy, err := os.ReadFile("../../examples/policies/" + file)
	require.NoError(t, err)
	require.NoError(t, m.root.Sys().PutPolicyWithContext(t.Context(), "example", strings.NewReplacer(oldnew...).Replace(string(policy))))
}

// assertDenied makes a request that a policy must not allow.
func (m *policed) assertDenied(t *testing.T, holder *api.Client, r request) {
	t.Helper()
	err := m.ask(holder, r)
	require.Error(t, err, r)
	assertStatus(t, http.StatusForbidden, "permission denied", err)
}

// assertTested checks that each example for a mount is tested.
func assertTested(t *testing.T, mount string, granted map[string]func(request) bool) {
	t.Helper()
	files, err := filepath.Glob("../../examples/policies/*.hcl")
	require.NoError(t, err)
	for _, file := range files {
		policy, err := os.ReadFile(file)
		require.NoError(t, err)
		isFor := strings.Contains(string(policy), `path "`+mount)
		assert.Equal(t, isFor, granted[filepath.Base(file)] != nil, "%s is not tested", file)
	}
}

func TestExamplePoliciesGrantOnlyWhatTheyDocument(t *testing.T) {
	m := &policed{mount: enable(t, "kensho")}
	m.data = map[string]map[string]any{
		"config/kensho/prod": m.kensho(),
		"roles/app":          {"config": "prod"},
		"clients/crm":        m.oauthClient(),
	}
	m.write("clients/people", m.oauthClient())
	m.write("config/oauth2/person", map[string]any{"client": "people"})

	granted := map[string]func(request) bool{
		"app.hcl":            func(r request) bool { return r == request{"read", "creds/prod"} },
		"app-lease-free.hcl": func(r request) bool { return r == request{"read", "token/prod"} },
		"monitoring.hcl":     func(r request) bool { return r.path == "status" || r.path == "status/prod" },
		"metrics.hcl":        func(r request) bool { return r == request{"read", "metrics"} },
		"responder.hcl": func(r request) bool {
			return r == request{"write", "refresh/prod"} || r.path == "status" || r.path == "status/prod"
		},
		"leak.hcl": func(r request) bool {
			return r.path == "refresh/prod" || r.path == "status" || r.path == "status/prod"
		},
		"replacer.hcl": func(r request) bool { return r.operation == "replace" || r.path == "status/prod" },
		"operator.hcl": func(r request) bool {
			return !slices.Contains([]string{"creds/prod", "creds/app", "token/prod", "token/app"}, r.path)
		},
	}
	assertTested(t, "kensho/", granted)
	for file, grants := range granted {
		t.Run(file, func(t *testing.T) {
			m.put(t, file)
			holder := m.client("example")
			for _, r := range requests {
				switch {
				case grants(r) && refusals[r] != "":
					assertStatus(t, http.StatusBadRequest, refusals[r], m.ask(holder, r))
				case grants(r):
					require.NoError(t, m.ask(holder, r), r)
				default:
					m.assertDenied(t, holder, r)
					if refusals[r] == "" { // the later requests need its effect
						require.NoError(t, m.ask(m.root, r))
					}
				}
			}
		})
	}
}

// rotationRequests are in an order in which all can succeed, of a mount with a credential of Entra.
var rotationRequests = []request{
	{"write", "config/entra/prod"},
	{"patch", "config/entra/prod"},
	{"read", "config/entra/prod"},
	{"write", "config/entra/prod/rotate"},
	{"write", "refresh/prod"},
	{"read", "status/prod"},
	{"list", "status"},
	{"read", "creds/prod"},
	{"read", "token/prod"},
	{"delete", "config/entra/prod"},
}

func TestTheExampleForRotationsGrantsOnlyThem(t *testing.T) {
	sim := vendorsim.New()
	own := rotationWorld(t, vaultserver.StartDev, sim)
	_, fields := sim.AddRotating("entra/client_secret", "prod")
	m := &policed{
		mount: &mount{world: own, t: t, path: rotationMount, sim: sim},
		data:  map[string]map[string]any{"config/entra/prod": fields},
	}
	granted := map[string]func(request) bool{
		"rotator.hcl": func(r request) bool {
			return r.path == "config/entra/prod/rotate" || r == request{"read", "status/prod"}
		},
	}
	assertTested(t, "entra/", granted)
	m.put(t, "rotator.hcl", `"entra/`, `"`+rotationMount+"/")
	holder := m.client("example")
	for _, r := range rotationRequests {
		if !granted["rotator.hcl"](r) {
			m.assertDenied(t, holder, r)
			require.NoError(t, m.ask(m.root, r), r)
			continue
		}
		require.NoError(t, m.ask(holder, r), r)
	}
}

// peoplesRequests are in an order in which all can succeed, of a mount with the client crm and the
// credentials of two people, who have consented.
var peoplesRequests = []request{
	{"write", "clients/crm"},
	{"read", "clients/crm"},
	{"list", "clients"},
	{"write", "config/oauth2/" + alice},
	{"write", "config/oauth2/carol@example.com"},
	{"write", "config/oauth2/other-client"},
	{"write", "config/oauth2/no-client"},
	{"patch", "config/oauth2/" + alice},
	{"read", "config/oauth2/" + alice},
	{"list", "config/oauth2"},
	{"write", "authorize/" + alice},
	{"read", "authorize/" + alice},
	{"write", "authorize/" + bob},
	{"read", "authorize/" + bob},
	{"read", "creds/" + alice},
	{"read", "creds/" + bob},
	{"read", "token/" + alice},
	{"read", "status/" + alice},
	{"read", "status/" + bob},
	{"list", "status"},
	{"write", "refresh/" + alice},
	{"drop", "refresh/" + alice},
	{"delete", "config/oauth2/carol@example.com"},
	{"delete", "config/oauth2/other-client"},
}

func TestExamplePoliciesForPeopleGrantOnlyWhatTheyDocument(t *testing.T) {
	m := &policed{mount: enable(t, "saas")}
	oauthClient := vendorsim.OAuthClient{
		ID: "saas", Secret: "saas-client-secret-0123", Scopes: []string{"read"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.RefreshTokenGrant},
	}
	m.sim.AddOAuthClient(oauthClient)
	for _, name := range []string{alice, bob, "carol@example.com", "other-client", "no-client"} {
		m.sim.AddOAuthRefreshToken(oauthClient, "rt-of-"+name, "read")
	}
	of := func(client, name string) map[string]any {
		return map[string]any{"client": client, "refresh_token": "rt-of-" + name}
	}
	apart := m.oauthClient()
	delete(apart, "vendor")
	apart["refresh_token"] = "rt-of-no-client"
	m.data = map[string]map[string]any{
		"clients/crm":                     m.oauthClient(),
		"config/oauth2/" + alice:          of("crm", alice),
		"config/oauth2/carol@example.com": of("crm", "carol@example.com"),
		"config/oauth2/other-client":      of("other", "other-client"),
		"config/oauth2/no-client":         {"refresh_token": "rt-of-no-client"}, // of a credential that is there
	}
	m.write("clients/crm", m.oauthClient())
	m.write("clients/other", m.oauthClient())
	m.write("config/oauth2/"+alice, of("crm", alice))
	m.write("config/oauth2/"+bob, of("crm", bob))
	m.write("config/oauth2/no-client", apart)

	own := []request{{"write", "authorize/" + alice}, {"read", "authorize/" + alice}, {"read", "creds/" + alice}, {"read", "status/" + alice}}
	granted := map[string]func(request) bool{
		"person.hcl": func(r request) bool { return slices.Contains(own, r) },
		"consent.hcl": func(r request) bool {
			return strings.HasPrefix(r.path, "authorize/") || strings.HasPrefix(r.path, "status")
		},
		"onboarding.hcl": func(r request) bool {
			isWrite := r.operation == "write" && slices.Contains([]string{"config/oauth2/" + alice, "config/oauth2/carol@example.com"}, r.path)
			return isWrite || r.operation == "delete" || strings.HasPrefix(r.path, "status")
		},
		"clients.hcl": func(r request) bool {
			return strings.HasPrefix(r.path, "clients") || strings.HasPrefix(r.path, "status") || r == request{"write", "refresh/" + alice}
		},
	}
	assertTested(t, "saas/", granted)
	holder := m.person(t, alice, "example")
	for file, grants := range granted {
		t.Run(file, func(t *testing.T) {
			m.put(t, file)
			for _, r := range peoplesRequests {
				if grants(r) {
					require.NoError(t, m.ask(holder, r), r)
					continue
				}
				m.assertDenied(t, holder, r)
				require.NoError(t, m.ask(m.root, r), r)
			}
		})
	}
	mounts, err := m.root.Sys().ListAuthWithContext(t.Context())
	require.NoError(t, err)
	for _, part := range []string{"metadata.email", "aliases." + mounts["people/"].Accessor + ".name"} {
		t.Run("person.hcl with "+part, func(t *testing.T) {
			m.put(t, "person.hcl", "identity.entity.name", "identity.entity."+part)
			for _, r := range own {
				require.NoError(t, m.ask(holder, r), r)
				m.assertDenied(t, holder, request{r.operation, strings.ReplaceAll(r.path, alice, bob)})
			}
		})
	}
}

// person returns the client of a person, who logs in and whose identity has a policy and the person's
// address as its name, in its metadata and as the name of its alias.
func (m *policed) person(t *testing.T, address, policy string) *api.Client {
	t.Helper()
	write := func(path string, data map[string]any) map[string]any {
		secret, err := m.root.Logical().WriteWithContext(t.Context(), path, data)
		require.NoError(t, err)
		if secret == nil {
			return nil
		}
		if secret.Auth != nil {
			return map[string]any{"token": secret.Auth.ClientToken}
		}
		return secret.Data
	}
	require.NoError(t, m.root.Sys().EnableAuthWithOptionsWithContext(t.Context(), "people", &api.EnableAuthOptions{Type: "approle"}))
	mounts, err := m.root.Sys().ListAuthWithContext(t.Context())
	require.NoError(t, err)
	entity := write("identity/entity", map[string]any{"name": address, "policies": policy, "metadata": map[string]any{"email": address}})
	write("identity/entity-alias", map[string]any{"name": address, "canonical_id": entity["id"], "mount_accessor": mounts["people/"].Accessor})
	write("auth/people/role/person", nil)
	write("auth/people/role/person/role-id", map[string]any{"role_id": address})
	secretID := write("auth/people/role/person/secret-id", nil)["secret_id"]
	return m.as(write("auth/people/login", map[string]any{"role_id": address, "secret_id": secretID})["token"].(string))
}
