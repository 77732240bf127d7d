//go:build e2e

package site

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Hugo would empty the folder.
func TestABuildRefusesAFolderWithOtherFiles(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "letter.txt"), []byte("dear"), 0o600))
	build := exec.CommandContext(t.Context(), "bash", "tools/site/build.sh", folder)
	build.Dir = root
	output, err := build.CombinedOutput()
	require.Error(t, err)
	assert.Equal(t, "site: "+folder+" is not empty and was not written by `make site`: remove it, or set SITE=<folder>\n", string(output))
	assert.FileExists(t, filepath.Join(folder, "letter.txt"))
}
