package docwalk

import (
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// exampleFiles returns the files below examples/ that belong to the repository.
func exampleFiles(t *testing.T) []string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "git", "-C", "../../..", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "examples").Output()
	require.NoError(t, err)
	files := strings.Split(strings.TrimSuffix(string(output), "\x00"), "\x00")
	require.Greater(t, len(files), 20)
	return files
}

// Each folder of examples has a README.md that links to each file of the folder and to a page.
func TestEachExampleFolderHasAReadmeThatNamesItsFiles(t *testing.T) {
	readmes := map[string]string{}
	for _, file := range exampleFiles(t) {
		dir := path.Dir(file)
		if _, read := readmes[dir]; !read {
			text, err := os.ReadFile(path.Join("../../..", dir, "README.md"))
			require.NoError(t, err)
			readmes[dir] = string(text)
			assert.Regexp(t, `\]\((?:\.\./)+docs/\S+\.md`, readmes[dir], "%s/README.md links to no page", dir)
		}
		if name := path.Base(file); name != "README.md" {
			assert.Contains(t, readmes[dir], "]("+name+")", "%s/README.md does not name %s", dir, name)
		}
	}
	for dir := range readmes {
		if parent := path.Dir(dir); parent != "." {
			link := "](" + path.Base(dir) + ")"
			assert.Contains(t, readmes[parent], link, "%s/README.md does not name %s", parent, dir)
		}
	}
}
