package main

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/test/demo/stage"
	"vault-plugin-secrets-tokenbroker/test/internal/docwalk"
)

// The playground sets every variable that the pages of the reading order use, and no other.
func TestThePlaygroundSetsTheVariablesOfThePages(t *testing.T) {
	tree := os.DirFS("../..")
	order, err := docwalk.Order(tree, "docs/README.md", "Read in order")
	require.NoError(t, err)
	used := []string{"VAULT_ADDR", "VAULT_TOKEN"} // by every command of vault
	for _, name := range order {
		markdown, err := os.ReadFile(filepath.Join("../..", name))
		require.NoError(t, err)
		page, err := docwalk.Parse(name, markdown)
		require.NoError(t, err)
		variables, err := page.Without(docwalk.Cluster).Without(docwalk.Package).Variables()
		require.NoError(t, err)
		used = append(used, variables...)
	}
	used = slices.DeleteFunc(used, func(name string) bool { return name == "HOME" || name == "PWD" }) // every shell sets them

	account, _, err := openAccounts(t.TempDir(), time.Now())
	require.NoError(t, err)
	// bash is found in PATH, so that the exports do not change PATH.
	s := &stage.Stage{Server: &vaultserver.Server{Address: "http://127.0.0.1:1", Token: "root", PluginDir: "/a folder/it's"}, Client: "bash"}
	commands, err := exports(s, "http://127.0.0.1:2", account.Variables())
	require.NoError(t, err)
	assert.Equal(t, slices.Compact(slices.Sorted(slices.Values(used))), exported(t, commands, s.Server.PluginDir))
}

// exported returns the names of the variables that the commands export, sorted.
func exported(t *testing.T, commands, pluginDir string) (names []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "--noprofile", "--norc", "-c", commands+`
		test "$VAULT_PLUGIN_DIR" = "$1" && compgen -e`, "bash", pluginDir)
	cmd.Env = []string{"VAULT_NAMESPACE=another"}
	output, err := cmd.Output()
	require.NoError(t, err)
	shell := []string{"_", "OLDPWD", "PWD", "SHLVL"}
	names = slices.DeleteFunc(strings.Fields(string(output)), func(name string) bool { return slices.Contains(shell, name) })
	slices.Sort(names)
	return names
}

func TestAVendorThatIsNotSimulatedIsNamedAsTheReason(t *testing.T) {
	account, switches, err := openAccounts(t.TempDir(), time.Now())
	require.NoError(t, err)
	get := func(url string) (int, string) {
		w := httptest.NewRecorder()
		account.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", url, nil))
		return w.Code, w.Body.String()
	}
	const reason = "the playground does not simulate this vendor"
	status, body := get("https://other.okta.com/oauth2/default/v1/token")
	assert.Equal(t, 404, status)
	assert.Contains(t, body, reason)
	_, body = get("https://acme.okta.com/oauth2/default/v1/token")
	assert.NotContains(t, body, reason)

	switches.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "POST", "http://127.0.0.1/oauth2/down", nil))
	status, _ = get("https://acme.okta.com/oauth2/default/v1/token")
	assert.Equal(t, 503, status)
	status, _ = get("https://other.okta.com/oauth2/default/v1/token")
	assert.Equal(t, 404, status, "only simulated vendors have outages")
}
