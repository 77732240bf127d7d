//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/test/internal/docwalk"
)

const readme = "README.md"

// onRaft are the pages that need Raft storage instead of a dev server's.
var onRaft = map[string]bool{"docs/operations.md": true}

// writesCode are the pages whose result is a file of the repository.
var writesCode = map[string]bool{"docs/adding-a-provider.md": true}

// withoutCommands are the pages without commands.
var withoutCommands = map[string]bool{
	"docs/README.md": true, "docs/api.md": true, "docs/comparison.md": true, "docs/glossary.md": true, "docs/guarantees.md": true, "docs/how-it-works.md": true,
	"docs/kubernetes-install.md": true, "docs/performance.md": true, "docs/security.md": true,
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
			page := parsePage(t, root, name)
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
					r.assertNoFileLeft()
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

// The pages of the reading order in docs/README.md can be followed one after the other, on one
// server, from the installation of the plugin to its removal.
func TestPagesCanBeFollowedInOrder(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	order, err := docwalk.Order(os.DirFS(root), "docs/README.md", "Read in order")
	require.NoError(t, err)
	require.Equal(t, readme, order[0])
	require.Equal(t, "docs/operations.md", order[len(order)-1])
	require.NoError(t, atAnyHour(t, func() error {
		r := newPageReader(t, root, vaultserver.StartRaft)
		if method := os.Getenv("KUBERNETES_AUTH"); method != "" {
			require.NoError(t, r.own.registerPlugin(t.Context(), "auth", "kubernetes", method))
		}
		for _, name := range order {
			page := parsePage(t, root, name)
			if page.Commands() == 0 {
				continue
			}
			t.Logf("follow %s", name)
			if err := r.follow(page.WithoutSetup()); err != nil {
				return err
			}
		}
		r.assertNoSecretLeft()
		r.assertNoFileLeft()
		mounts, err := r.own.root.Sys().ListMountsWithContext(t.Context())
		require.NoError(t, err)
		for path, mount := range mounts {
			assert.NotContains(t, mount.Type, pluginName, "%s is left", path)
		}
		files, err := filepath.Glob(filepath.Join(r.own.server.PluginDir, "vault-plugin-secrets-*"))
		require.NoError(t, err)
		assert.Empty(t, files, "files of the plugin are left")
		return nil
	}))
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

// customer registers a customer with Kensho and Sitecore. It returns the environment variables with
// the credentials, and writes kensho.pem and the files of a Kubernetes cluster.
func customer(t *testing.T, sim *vendorsim.Sim, dir string) []string {
	t.Helper()
	const scribe, sitecore = "refresh-token-of-scribe-0123456789", "refresh-token-of-sitecore-0123456789"
	sim.AddRefreshToken("link-streaming", refreshToken)
	sim.AddRefreshToken("scribe", scribe)
	sim.AddClient(clientID, &privateKey().PublicKey, "")
	sim.AddAPIKey(apiKey)
	sim.AddPair(sitecore, 24*time.Hour, 7*24*time.Hour)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kensho.pem"), []byte(privateKeyPEM()), 0o600))
	startAPIServer(t).writeFiles(t, dir)
	return []string{
		"KENSHO_REFRESH_TOKEN=" + refreshToken,
		"KENSHO_CLIENT_ID=" + clientID,
		"KENSHO_ARCHIVE_CLIENT_ID=" + letters["kensho-archive.pub"],
		"KENSHO_ARCHIVE_NEXT_CLIENT_ID=" + letters["kensho-archive-next.pub"],
		"KENSHO_ACCESS_TOKEN=access-token-of-kensho-0123456789",
		"SCRIBE_REFRESH_TOKEN=" + scribe,
		"SITECORE_API_KEY=" + apiKey,
		"SITECORE_REFRESH_TOKEN=" + sitecore,
	}
}

// letters are the files of public keys that pages mail to Kensho, with the client IDs of its
// answers.
var letters = map[string]string{
	"kensho.pub":              clientID,
	"kensho-archive.pub":      "0oa3archive4",
	"kensho-archive-next.pub": "0oa5archive6",
}

// withMail registers the keys that pages have generated with the vendors, before each request.
func withMail(sim *vendorsim.Sim, dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, id := range letters {
			if letter, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				if key, err := jwt.ParseRSAPublicKeyFromPEM(letter); err == nil {
					sim.AddClient(id, key, "")
				}
			}
		}
		registerGenerated(sim, dir)
		sim.ServeHTTP(w, r)
	})
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

// copyRepository copies the files of the repository, including those that are not committed yet.
func copyRepository(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	require.NoError(t, err)
	for _, entry := range entries {
		source, target := filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())
		switch name := entry.Name(); {
		case name == ".git" || name == "bin" || name == "dist":
		case entry.IsDir():
			require.NoError(t, os.CopyFS(target, os.DirFS(source)))
		default:
			content, err := os.ReadFile(source)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(target, content, 0o600))
		}
	}
}
