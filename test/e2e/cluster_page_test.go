//go:build e2e && kubernetes

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

// kubernetesHost is that of the page.
const kubernetesHost = "kubernetes.example.com:6443"

// The commands of the page run in order, those with kubectl too. Then every manifest is applied as it is.
func TestKubernetesPageAndManifestsWorkAsTheyAre(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	k := startKube(t)
	r := newRoutedReader(t, root, vaultserver.StartDev, map[string]string{kubernetesHost: k.Address()})
	k.serve(r.own)
	require.NoError(t, r.own.register(t.Context()))
	ca, err := os.ReadFile(k.CA)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "vault-ca.crt"), ca, 0o600))
	r.environ = append(append(r.environ, k.Environment()...), "PATH="+linked(t, "kubectl")+string(filepath.ListSeparator)+pathOf(r.environ))
	require.NoError(t, r.follow(parsePage(t, root, "docs/kubernetes.md")))
	r.assertNoSecretLeft()

	accepts := func(token string) bool { return r.sim.Accepts(token) }
	assert.True(t, accepts(k.secret("analytics", "kensho-token", "access_token")), "the token of the page")
	k.kubectl("", "delete", "-f", "../../examples/kubernetes/eso.yaml")
	k.prepare("reporting")
	applied := []string{"eso.yaml", "reviewer.yaml", "secret-file.yaml", "serviceaccount.yaml"} // by the page
	for _, c := range []struct {
		file, secret string
		needs        []string
	}{
		{"vso.yaml", "kensho-token", nil},
		{"vso-restart.yaml", "kensho-token-env", []string{"vso.yaml"}},
		{"vso-token.yaml", "kensho-token", nil},
		{"eso-store.yaml", "kensho-token", nil},
		{"eso-cluster.yaml", "kensho-token", nil},
	} {
		all := slices.Concat(c.needs, []string{c.file})
		for _, file := range all {
			k.apply(file)
		}
		k.eventually(func() bool { return accepts(k.secret("analytics", c.secret, "access_token")) }, "%s: no live token", c.file)
		for _, file := range all {
			k.kubectl("", "delete", "--ignore-not-found", "-f", "../../examples/kubernetes/"+file)
		}
		k.eventually(func() bool { return k.secret("analytics", c.secret, "access_token") == "" }, "%s: the Secret stays", c.file)
		applied = append(applied, c.file)
	}
	for _, file := range []string{"injector.yaml", "injector-creds.yaml"} {
		k.apply(file)
		for _, folder := range k.agents("analytics", "app.kubernetes.io/name=dashboard", 2) {
			token, err := os.ReadFile(filepath.Join(folder, "kensho"))
			require.NoError(t, err)
			assert.True(t, accepts(string(token)), "%s: an Agent renders %q", file, token)
		}
		k.kubectl("", "delete", "-f", "../../examples/kubernetes/"+file)
		k.eventually(func() bool {
			pods, err := k.Pods(t.Context(), "analytics", "app.kubernetes.io/name=dashboard")
			return err == nil && len(pods) == 0
		}, "%s: the pods stay", file)
		applied = append(applied, file)
	}
	k.apply("server/networkpolicy.yaml")
	assert.ElementsMatch(t, applied, manifestFiles(t), "files in examples/kubernetes")
}

// manifestFiles returns the names of the files in examples/kubernetes.
func manifestFiles(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("../../examples/kubernetes/*.yaml")
	require.NoError(t, err)
	names := make([]string, 0, len(paths))
	for _, path := range paths {
		names = append(names, filepath.Base(path))
	}
	return names
}

// linked returns a folder with a link to a program of the cluster.
func linked(t *testing.T, program string) string {
	t.Helper()
	folder := t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(os.Getenv("KUBERNETES_BIN"), program), filepath.Join(folder, program)))
	return folder
}

// pathOf returns the PATH of an environment.
func pathOf(environ []string) (path string) {
	for _, variable := range environ {
		if value, is := strings.CutPrefix(variable, "PATH="); is {
			path = value
		}
	}
	return path
}
