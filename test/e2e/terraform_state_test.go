//go:build e2e

package e2e

import (
	"archive/zip"
	"io"
	"io/fs"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTerraformUsesATokenThatIsInNoStateOrPlan(t *testing.T) {
	tf, api := newReader(t)
	tf.run(0, "fmt", "-check", "-diff")
	tf.run(0, "init")
	tf.run(0, "validate")
	assert.Contains(t, tf.apply(0), "1 added")
	tokens, refused := api.sent()
	assert.Len(t, tokens, 1)
	assert.Zero(t, refused)
	tf.assertNoChanges()
	tf.set("api_url", tf.env["TF_VAR_api_url"]+"/reports")
	assert.Contains(t, tf.apply(0), "1 added, 0 changed, 1 destroyed")
	tokens, refused = api.sent()
	assert.Equal(t, []int{2}, slices.Collect(maps.Values(tokens)), "both calls are with the one token")
	assert.Zero(t, refused)
	tf.assertNowhere(slices.Collect(maps.Keys(tokens)))
	assert.Contains(t, tf.run(0, "destroy", "-auto-approve"), "1 destroyed")
	tf.assertNowhere(slices.Collect(maps.Keys(tokens)))
}

// Shows that the search of the test above can find a token.
func TestTheSearchFindsATokenThatADataSourceReads(t *testing.T) {
	tf, api := newReader(t)
	tf.edit("main.tf", `ephemeral "vault_generic_secret"`, `data "vault_generic_secret"`)
	tf.edit("main.tf", "ephemeral.vault_generic_secret", "data.vault_generic_secret")
	tf.run(0, "init")
	tf.apply(0)
	tokens, _ := api.sent()
	require.Len(t, tokens, 1)
	for token := range tokens {
		assert.Equal(t, []string{savedPlan + "/tfstate", "terraform.tfstate"}, tf.holders(token))
	}
}

// Shows that the search can find a key, and what the module avoids.
func TestTheSearchFindsAKeyThatIsAmongTheSettings(t *testing.T) {
	tf := newExample(t, unmounted(t))
	for _, file := range []string{"variables.tf", "modules/tokenbroker/variables.tf"} {
		tf.edit(file, "  ephemeral   = true\n", "")
	}
	tf.edit("modules/tokenbroker/main.tf", "jsonencode(var.settings)", "jsonencode(merge(var.settings, var.secret))")
	tf.run(0, "init")
	tf.apply(0)
	for _, line := range keyLines(privateKeyPEM()) {
		assert.Equal(t, []string{savedPlan + "/tfplan", "terraform.tfstate"}, tf.holders(line))
	}
	tf.run(0, "destroy", "-auto-approve")
}

// newReader returns a runner of the configuration that reads a token, with a token of Vault that
// can read nothing else, and the API that the configuration calls.
func newReader(t *testing.T) (*terraform, *vendorAPI) {
	t.Helper()
	m := enable(t, "terraform")
	m.write("config/kensho/batch", m.keyPair())
	m.write("roles/reports", map[string]any{"config": "batch"})
	api := &vendorAPI{sim: m.sim, tokens: map[string]int{}}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	tf := newTerraform(t, m, "read-a-token", `path "terraform/token/reports" { capabilities = ["read"] }`)
	tf.set("token_path", "terraform/token/reports")
	tf.set("api_url", server.URL)
	return tf, api
}

// assertNowhere asserts that neither the output nor a file of the configuration has a secret. It
// requires a state, its backup and a saved plan.
func (tf *terraform) assertNowhere(secrets []string) {
	tf.t.Helper()
	require.NotEmpty(tf.t, secrets)
	files := tf.files()
	for _, name := range []string{"terraform.tfstate", "terraform.tfstate.backup", savedPlan + "/tfplan", savedPlan + "/tfstate"} {
		require.Contains(tf.t, files, name)
	}
	for _, secret := range secrets {
		require.NotEmpty(tf.t, secret)
		assert.Empty(tf.t, tf.holders(secret), "a secret in a file")
		assert.NotContains(tf.t, tf.printed.String(), secret, "a secret in Terraform's output")
	}
}

// holders returns the names of the files that contain a text.
func (tf *terraform) holders(text string) []string {
	tf.t.Helper()
	var names []string
	for name, content := range tf.files() {
		if strings.Contains(content, text) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// files returns the files of the configuration, and those within a saved plan, by name.
func (tf *terraform) files() map[string]string {
	tf.t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(tf.dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() { // a folder, or a link to a provider
			return err
		}
		content, err := os.ReadFile(filepath.Join(tf.dir, name))
		files[name] = string(content)
		return err
	})
	require.NoError(tf.t, err)
	if _, saved := files[savedPlan]; saved {
		archive, err := zip.OpenReader(filepath.Join(tf.dir, savedPlan))
		require.NoError(tf.t, err)
		defer func() { assert.NoError(tf.t, archive.Close()) }()
		for _, member := range archive.File {
			reader, err := member.Open()
			require.NoError(tf.t, err)
			content, err := io.ReadAll(reader)
			require.NoError(tf.t, err)
			files[savedPlan+"/"+member.Name] = string(content)
		}
	}
	return files
}
