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
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// kubernetesHost is that of the page.
const kubernetesHost = "kubernetes.example.com:6443"

// The commands of the pages run in order, those with kubectl too. Then every manifest is applied as it is.
func TestKubernetesPageAndManifestsWorkAsTheyAre(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	k := startKube(t)
	k.reader(root).followAll("docs/kubernetes-playground.md")

	r := k.reader(root)
	k.serve(r.own)
	ca, err := os.ReadFile(k.CA)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "vault-ca.crt"), ca, 0o600))
	r.followAll("docs/kubernetes.md")
	accepts := func(token string) bool { return r.sim.Accepts(token) }
	assert.True(t, accepts(k.secret("analytics", "kensho-token", "access_token")), "the token of the page")
	k.remove("eso.yaml", "secret-file.yaml")
	var applied []string
	for _, command := range pageCommands(t, "kubectl apply -f examples/kubernetes/") {
		applied = append(applied, filepath.Base(strings.Fields(command)[3]))
	}
	for _, c := range []struct {
		file, secret string
		needs        []string
		namespaces   []string
	}{
		{"vso.yaml", "kensho-token", nil, []string{"analytics"}},
		{"vso-restart.yaml", "kensho-token-env", []string{"vso.yaml"}, []string{"analytics"}},
		{"vso-token.yaml", "kensho-token", nil, []string{"analytics"}},
		{"eso-store.yaml", "kensho-token", nil, []string{"analytics"}},
		{"eso-cluster.yaml", "kensho-token", nil, []string{"analytics", "reporting"}},
	} {
		all := slices.Concat(c.needs, []string{c.file})
		for _, file := range all {
			k.apply(file)
		}
		for _, namespace := range c.namespaces {
			k.eventually(func() bool { return accepts(k.secret(namespace, c.secret, "access_token")) }, "%s: no valid token in %s", c.file, namespace)
		}
		k.remove(all...)
		applied = append(applied, c.file)
	}
	for _, file := range []string{"injector.yaml", "injector-creds.yaml"} {
		k.apply(file)
		for _, pod := range k.agents("analytics", "app.kubernetes.io/name=dashboard", 2) {
			token := rendered(pod)()
			assert.True(t, accepts(token), "%s: an Agent renders %q", file, token)
		}
		k.remove(file)
		applied = append(applied, file)
	}
	k.apply("server/networkpolicy.yaml")
	slices.Sort(applied)
	assert.Equal(t, manifestFiles(t), slices.Compact(applied), "files in examples/kubernetes")
}

// reader returns a reader of pages who has the cluster, and a server of their own with the plugin registered.
func (k *kube) reader(root string) *pageReader {
	k.t.Helper()
	r := newRoutedReader(k.t, root, vaultserver.StartDev, map[string]string{kubernetesHost: k.Address()})
	// One page stores a refresh token, whose tokens would expire on the full hour.
	r.sim.Behave(vendorsim.Conduct{HourOffset: hourOffset()})
	require.NoError(k.t, r.own.register(k.t.Context()))
	r.environ = append(append(r.environ, k.Environment()...), "PATH="+linked(k.t, "kubectl")+string(filepath.ListSeparator)+pathOf(r.environ))
	return r
}

// followAll runs the commands of a page, which must print what it shows, and searches for secrets that were left.
func (r *pageReader) followAll(page string) {
	r.t.Helper()
	require.NoError(r.t, r.follow(parsePage(r.t, r.root, page)))
	r.assertNoSecretLeft()
}

// remove deletes the objects of manifests. It returns when the tokens that they had are gone, so that a later token is not one of
// these.
func (k *kube) remove(files ...string) {
	k.t.Helper()
	for _, file := range files {
		k.kubectl("", "delete", "--ignore-not-found", "-f", "../../examples/kubernetes/"+file)
	}
	for _, namespace := range []string{"analytics", "reporting"} {
		for _, secret := range []string{"kensho-token", "kensho-token-env"} {
			k.eventually(func() bool { return k.secret(namespace, secret, "access_token") == "" }, "%v: the Secret %s stays in %s", files, secret, namespace)
		}
	}
	k.eventually(func() bool {
		pods, err := k.Pods(k.t.Context(), "analytics", "app.kubernetes.io/name=dashboard")
		return err == nil && len(pods) == 0
	}, "%v: the pods stay", files)
}

// manifestFiles returns the names of the files in examples/kubernetes, in order.
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
