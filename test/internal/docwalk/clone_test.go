package docwalk

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// secretFiles finds the files that the examples and pages write, or read secrets from.
var secretFiles = []struct {
	in   string // a glob pattern
	file *regexp.Regexp
}{
	{"examples/agent/*.hcl", regexp.MustCompile(`(?m)^\s*(?:role_id_file_path|secret_id_file_path|destination|address)\s*=\s*"([^"]+)"`)},
	{"examples/agent/*.sh", regexp.MustCompile(`(?m) >(\S+)$`)},
	{"examples/prometheus/*.yml", regexp.MustCompile(`credentials_file: (\S+)`)},
	{"docs/*.md", regexp.MustCompile(`(?m)^(?:\$| ).*[^>]> ?([a-z][\w./-]+)\)?$`)},
	{"docs/*.md", regexp.MustCompile(`\b(?:private_key|token_reviewer_jwt)=@(\S+)`)},
	{"docs/*.md", regexp.MustCompile(`\bjq -r \.private_key (\S+)`)},
	{"docs/*.md", regexp.MustCompile(`-keyout (\S+)`)},
	{"docs/*.md", regexp.MustCompile(`snapshot save (\S+)`)},
}

// A user who follows the pages in a clone and then runs `git add .` adds no secret.
func TestSecretFilesThatThePagesWriteAreIgnored(t *testing.T) {
	t.Chdir("../../..")
	clone := t.TempDir()
	git := func(args ...string) error {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", clone, "-c", "core.excludesFile=" + os.DevNull}, args...)...)
		output, err := cmd.CombinedOutput()
		if len(output) > 0 {
			t.Log(string(output))
		}
		return err
	}
	require.NoError(t, git("init", "--quiet"))
	rules, err := os.ReadFile(".gitignore")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(clone, ".gitignore"), rules, 0o600))

	var found []string
	for _, l := range secretFiles {
		pages, err := filepath.Glob(l.in)
		require.NoError(t, err)
		require.NotEmpty(t, pages, l.in)
		matched := false
		for _, page := range pages {
			text, err := os.ReadFile(page)
			require.NoError(t, err)
			for _, match := range l.file.FindAllStringSubmatch(string(text), -1) {
				file := strings.Trim(match[1], "\"`")
				if strings.HasPrefix(page, "examples/") { // relative to the example
					file = filepath.Join(filepath.Dir(page), file)
				}
				if !slices.Contains([]string{".pub", ".crt", ".jwk"}, filepath.Ext(file)) { // those are public
					found = append(found, file)
				}
				matched = true
			}
		}
		assert.True(t, matched, "%s finds nothing in %s", l.file, l.in)
	}
	for _, file := range slices.Compact(slices.Sorted(slices.Values(found))) {
		require.NoError(t, git("check-ignore", "--quiet", file), "git add would add %s", file)
	}
	for _, file := range []string{
		"examples/agent/role-id", "examples/agent/secret-id", "examples/agent/kensho-token", "examples/agent/proxy.sock",
		"examples/prometheus/vault-token", "kensho.pem", "salesforce.pem", "reviewer.jwt", "vault.snap", "key.json", "key-next.json",
	} {
		assert.Contains(t, found, file)
	}
	require.Error(t, git("check-ignore", "--quiet", "examples/agent/file.hcl"))
}
