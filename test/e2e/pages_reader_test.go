//go:build e2e

package e2e

import (
	"context"
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

	"vault-plugin-secrets-tokenbroker/internal/testing/canary"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/test/internal/customer"
	"vault-plugin-secrets-tokenbroker/test/internal/docwalk"
	"vault-plugin-secrets-tokenbroker/test/internal/vendorproxy"
)

// pageTime is the time limit for the commands of a page.
const pageTime = 20 * time.Minute

// A pageReader follows pages, with a server, simulated vendors and a copy of the repository.
type pageReader struct {
	t         *testing.T
	root, dir string // the repository and its copy
	sim       *vendorsim.Sim
	own       *world
	customer  *customer.Customer
	environ   []string
	provided  []string // files that are there before the reader follows a page
}

// newPageReader returns a pageReader whose server does not have the plugin.
func newPageReader(t *testing.T, root string, start starter) *pageReader {
	t.Helper()
	return newRoutedReader(t, root, start, nil)
}

// newRoutedReader is newPageReader with the addresses of hosts that are not vendors.
func newRoutedReader(t *testing.T, root string, start starter, routes map[string]string) *pageReader {
	t.Helper()
	r := &pageReader{t: t, root: root, dir: t.TempDir(), sim: vendorsim.New()}
	switches := vendorproxy.NewSwitches()
	switches.Consent = r.sim.Consent
	r.sim.Behave(vendorsim.Conduct{Fault: switches.Fault})
	playground := httptest.NewServer(switches)
	t.Cleanup(playground.Close)

	copyRepository(t, root, r.dir)
	var err error
	r.customer, err = customer.Open(r.sim, r.dir)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.customer.Close()) })
	r.own, err = bareWorld(t.Context(), start, behindProxy(t, r.customer, routes)...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.own.server.Stop()) })
	r.own.outside.add(r.customer.Secrets()...)
	startAPIServer(t).writeFiles(t, r.dir)
	r.environ = append(readersEnvironment(t, r.own.server), "PLAYGROUND="+playground.URL)
	for name, value := range r.customer.Variables() {
		r.environ = append(r.environ, name+"="+value)
	}
	r.provided = addable(t, r.dir)
	return r
}

// follow runs the commands of a page, and returns the first difference from what it shows.
func (r *pageReader) follow(page *docwalk.Page) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), pageTime)
	defer cancel()
	return page.Walk(ctx, r.dir, r.environ)
}

// assertNoSecretLeft searches for secrets in what left the server and in the copy of the repository.
func (r *pageReader) assertNoSecretLeft() {
	r.t.Helper()
	assert.Empty(r.t, r.sim.Violations(), "requests that no vendor documents")
	r.own.assertNoSecretLeft(r.t, r.sim)
	assertNoSecretAdded(r.t, r.own, r.sim, r.root, r.dir)
}

// assertNoFileLeft checks that the pages have removed what they wrote. Files that .gitignore names
// may be left, and those that were provided.
func assertNoFileLeft(t *testing.T, dir string, provided []string) {
	t.Helper()
	for _, name := range addable(t, dir) {
		assert.Contains(t, provided, name, "a page leaves a file behind")
	}
}

// git runs git and returns the names that it prints.
func git(t *testing.T, args ...string) []string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "git", args...).Output()
	require.NoError(t, err)
	return strings.Split(strings.TrimSuffix(string(output), "\x00"), "\x00")
}

// addable returns the files of a copy of the repository that `git add .` would add.
func addable(t *testing.T, dir string) []string {
	t.Helper()
	index := t.TempDir()
	git(t, "init", "--quiet", "--bare", index)
	return git(t, "--git-dir="+index, "--work-tree="+dir, "-c", "core.excludesFile="+os.DevNull, "-C", dir, "ls-files", "-z", "--others", "--exclude-standard")
}

// assertNoSecretAdded searches for secrets in the files of the page's copy of the repository that
// `git add .` would add.
func assertNoSecretAdded(t *testing.T, own *world, sim *vendorsim.Sim, root, dir string) {
	t.Helper()
	tracked := git(t, "-C", root, "ls-files", "-z")
	require.Greater(t, len(tracked), 100)

	var cage canary.Cage
	cage.Add(sim.Secrets()...)
	own.outside.mu.Lock()
	cage.Add(own.outside.secrets...)
	own.outside.mu.Unlock()
	for _, name := range []string{"examples/agent/role-id", "examples/agent/secret-id", "examples/prometheus/vault-token"} {
		if secret, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			cage.Add(strings.TrimSpace(string(secret)))
		}
	}
	for _, name := range addable(t, dir) {
		if slices.Contains(tracked, name) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		assert.Empty(t, cage.Escaped(string(content)), "git add . would add the secrets in %s", name)
		assert.NotContains(t, string(content), "PRIVATE KEY-----", "git add . would add %s", name)
	}
}
