//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// kubernetes enables a mount at kensho with two credentials, and sets up Vault's Kubernetes auth
// method, roles and policies with the commands of docs/kubernetes.md and a simulated API server.
func kubernetes(t *testing.T) *mount {
	t.Helper()
	m := enable(t, "kensho")
	m.write("config/kensho/prod", m.keyPair())
	m.write("config/kensho/other", m.keyPair())

	server, dir := startAPIServer(t), t.TempDir()
	server.writeFiles(t, dir)
	t.Cleanup(func() { require.NoError(t, m.root.Sys().DisableAuthWithContext(context.Background(), "kubernetes")) })
	m.run(dir, "vault auth enable")
	m.run(dir, "vault write auth/kubernetes/config", "https://kubernetes.example.com:6443", server.URL)
	m.run("../..", "vault policy write")
	m.run("../..", "vault write auth/kubernetes/role/")
	return m
}

// pageCommands returns the page's commands with the given beginning.
func pageCommands(t *testing.T, beginning string) []string {
	t.Helper()
	page, err := os.ReadFile("../../docs/kubernetes.md")
	require.NoError(t, err)
	var commands []string
	for line := range strings.Lines(strings.ReplaceAll(string(page), "\\\n", " ")) {
		if command, ok := strings.CutPrefix(line, "$ "); ok && strings.HasPrefix(command, beginning) {
			commands = append(commands, command)
		}
	}
	require.NotEmpty(t, commands, beginning)
	return commands
}

// run runs the page's commands with the given beginning in a directory, with replacements as for
// strings.NewReplacer.
func (m *mount) run(dir, beginning string, oldnew ...string) {
	m.t.Helper()
	for _, command := range pageCommands(m.t, beginning) {
		args := strings.Fields(strings.NewReplacer(oldnew...).Replace(command))[1:]
		cmd := m.server.Command(m.t.Context(), m.server.Token, args...)
		cmd.Dir = dir
		output, err := cmd.CombinedOutput()
		require.NoError(m.t, err, "%v: %s", args, output)
	}
}

// login returns a client that has logged in with a service account.
func (m *mount) login(role string, account serviceAccount, audience string) (*api.Client, error) {
	m.t.Helper()
	client, err := m.server.Client()
	require.NoError(m.t, err)
	client.ClearToken()
	secret, err := client.Logical().WriteWithContext(m.t.Context(), "auth/kubernetes/login", map[string]any{
		"role": role, "jwt": account.token(m.t, audience),
	})
	if err != nil {
		return nil, err
	}
	client.SetToken(secret.Auth.ClientToken)
	return client, nil
}

func TestKubernetesRolesGrantOnlyWhatTheManifestsRead(t *testing.T) {
	m := kubernetes(t)
	all := readers(t)
	require.Len(t, all, 9, "readers in examples/kubernetes")
	for _, r := range all {
		t.Run(r.file+"/"+r.account.Namespace, func(t *testing.T) {
			client, err := m.login(r.role, r.account, r.audience)
			require.NoError(t, err)
			secret, err := client.Logical().ReadWithContext(t.Context(), r.path)
			require.NoError(t, err)
			require.NotNil(t, secret, r.path)
			assert.True(t, m.sim.Accepts(secret.Data["access_token"].(string)))

			// A lease ends with the Vault token of its login, so a reader with leases has a
			// renewable service token. A reader without leases has a batch token.
			self, err := client.Auth().Token().LookupSelfWithContext(t.Context())
			require.NoError(t, err)
			assert.Equal(t, map[bool]any{true: "service", false: "batch"}[secret.LeaseID != ""], self.Data["type"])

			for _, path := range []string{
				"kensho/creds/prod", "kensho/token/prod", "kensho/creds/other", "kensho/token/other",
				"kensho/config/kensho/prod", "kensho/status/prod",
			} {
				if path == r.path {
					continue
				}
				_, err := client.Logical().ReadWithContext(t.Context(), path)
				assertStatus(t, http.StatusForbidden, "permission denied", err)
			}
			for what, other := range map[string]reader{
				"account":   {account: serviceAccount{r.account.Namespace, "default"}, audience: r.audience},
				"namespace": {account: serviceAccount{"default", r.account.Name}, audience: r.audience},
				"audience":  {account: r.account, audience: "https://kubernetes.default.svc"},
			} {
				_, err := m.login(r.role, other.account, other.audience)
				require.Error(t, err, "logged in with another %s", what)
			}
		})
	}
}

// Given the configuration that vault-k8s makes for a pod's init container, Agent renders the token
// once and exits.
func TestInjectedAgentRendersTheToken(t *testing.T) {
	m := kubernetes(t)
	rendered := 0
	for _, r := range readers(t) {
		if r.template == "" {
			continue
		}
		rendered++
		dir := t.TempDir()
		file, login, config := filepath.Join(dir, "kensho"), filepath.Join(dir, "token"), filepath.Join(dir, "config.json")
		require.NoError(t, os.WriteFile(login, []byte(r.account.token(t, r.audience)), 0o600))
		settings, err := json.Marshal(map[string]any{
			"exit_after_auth": true,
			"auto_auth": map[string]any{"method": []any{map[string]any{
				"type": "kubernetes", "mount_path": "auth/kubernetes", "exit_on_err": true,
				"config": map[string]any{"role": r.role, "token_path": login},
			}}},
			"template": []any{map[string]any{"contents": r.template, "destination": file}},
		})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(config, settings, 0o600))

		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		output, err := m.server.Command(ctx, "", "agent", "-config="+config).CombinedOutput()
		require.NoError(t, err, "%s: %s", r.file, output)
		token, err := os.ReadFile(file)
		require.NoError(t, err, "%s: %s", r.file, output)
		assert.True(t, m.sim.Accepts(string(token)), "%s: the file holds %q", r.file, token)
	}
	require.Equal(t, 2, rendered, "templates in examples/kubernetes")
}
