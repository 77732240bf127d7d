//go:build e2e

package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/test/internal/docwalk"
)

const readme = "README.md"

// onRaft are the pages that need Raft storage instead of a dev server's.
var onRaft = map[string]bool{"docs/operations.md": true}

// writesCode are the pages whose result is a file of the repository.
var writesCode = map[string]bool{"docs/adding-a-provider.md": true}

// withoutCommands are the pages without commands.
var withoutCommands = map[string]bool{
	"docs/README.md": true, "docs/api.md": true, "docs/capacity.md": true, "docs/comparison.md": true, "docs/definitions.md": true, "docs/glossary.md": true, "docs/guarantees.md": true, "docs/how-it-works.md": true,
	"docs/kubernetes-install.md": true, "docs/kubernetes-playground.md": true, "docs/performance.md": true, "docs/security.md": true, "docs/terraform.md": true, "docs/vendors.md": true,
}

// The commands of each page run in order, on a server and with vendors of its own, and print what
// the page shows. The plugin is registered, except for the README, which installs it.
func TestPageCommandsWorkAsShown(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	for _, path := range append(pages, filepath.Join(root, readme)) {
		name, err := filepath.Rel(root, path)
		require.NoError(t, err)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			page := parsePage(t, root, name).Without(docwalk.Cluster).Without(docwalk.Package)
			if page.Commands() == 0 {
				assert.True(t, withoutCommands[name], "%s has no commands", name)
				return
			}
			start := vaultserver.StartDev
			if onRaft[name] {
				start = vaultserver.StartRaft
			}
			require.NoError(t, atAnyHour(t, func() error {
				r := newPageReader(t, root, start)
				if name != readme {
					require.NoError(t, r.own.register(t.Context()))
				}
				if err := r.follow(page); err != nil {
					return err
				}
				r.assertNoSecretLeft()
				if !writesCode[name] {
					assertNoFileLeft(t, r.dir, r.provided)
				}
				if name == readme {
					token, err := os.ReadFile(filepath.Join(r.dir, renderedToken))
					require.NoError(t, err)
					assert.True(t, r.sim.Accepts(string(token)))
				}
				return nil
			}))
		})
	}
}

// atAnyHour repeats a walk that has failed across a full hour, at which Kensho's tokens expire.
func atAnyHour(t *testing.T, walk func() error) error {
	t.Helper()
	began := time.Now().Truncate(time.Hour)
	err := walk()
	if err != nil && !time.Now().Truncate(time.Hour).Equal(began) {
		t.Logf("repeat, because Kensho's tokens have expired at the full hour: %v", err)
		err = walk()
	}
	return err
}

func parsePage(t *testing.T, root, name string) *docwalk.Page {
	t.Helper()
	markdown, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	page, err := docwalk.Parse(name, markdown)
	require.NoError(t, err)
	return page
}

// renderedToken is the file with the token that the README's commands render.
const renderedToken = "examples/agent/kensho-token"

func TestReadmeRendersATokenInUnderTenCommands(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	path, _, found := strings.Cut(string(text), "$ cat "+renderedToken)
	require.True(t, found)
	assert.Less(t, 1+strings.Count(path, "\n$ "), 10)
}

// readersEnvironment returns the environment of an operator with a root token and a Go toolchain,
// without the settings of the person who runs the tests.
func readersEnvironment(t *testing.T, server *vaultserver.Server) []string {
	t.Helper()
	home := t.TempDir()
	vault := os.Getenv("VAULT")
	require.NoError(t, os.Symlink(vault, filepath.Join(home, "vault")))
	environ := []string{
		"HOME=" + home,
		"PATH=" + home + string(filepath.ListSeparator) + os.Getenv("PATH"),
		"TMPDIR=" + os.Getenv("TMPDIR"),
		"VAULT=" + vault, // the binary of the server for `make demo`
		"VAULT_ADDR=" + server.Address,
		"VAULT_TOKEN=" + server.Token,
		"VAULT_PLUGIN_DIR=" + server.PluginDir,
	}
	for _, variable := range os.Environ() {
		if strings.HasPrefix(variable, "GO") {
			environ = append(environ, variable)
		}
	}
	// Go's caches are below the real home directory by default.
	for _, name := range []string{"GOENV", "GOCACHE", "GOMODCACHE", "GOPATH"} {
		value, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
		require.NoError(t, err)
		environ = append(environ, name+"="+strings.TrimSpace(string(value)))
	}
	return environ
}

// copyRepository copies the files of the repository, including those that are not committed yet,
// but not those that Git ignores, such as secrets that a page has written.
func copyRepository(t *testing.T, from, to string) {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "git", "-C", from, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	require.NoError(t, err)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(output), "\x00"), "\x00") {
		source, target := filepath.Join(from, name), filepath.Join(to, name)
		info, err := os.Stat(source)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, but not yet in a commit
		}
		require.NoError(t, err)
		content, err := os.ReadFile(source)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(target), 0o700))
		require.NoError(t, os.WriteFile(target, content, info.Mode().Perm()))
	}
}
