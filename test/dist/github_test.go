package dist

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// tracked are the files of the repository, those that are not committed yet among them.
func tracked(t *testing.T) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "git", "ls-files", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	output, err := list.Output()
	require.NoError(t, err)
	return strings.Fields(string(output))
}

// A new module would stay as it is for ever.
func TestDependabotWatchesEachFolderThatPinsSomething(t *testing.T) {
	var config struct {
		Updates []struct {
			Ecosystem   string `yaml:"package-ecosystem"`
			Directory   string
			Directories []string
		}
	}
	require.NoError(t, yaml.Unmarshal(content(t, filepath.Join(root, ".github/dependabot.yml")), &config))
	var watched []string
	for _, update := range config.Updates {
		for _, directory := range append(update.Directories, update.Directory) {
			if directory != "" {
				watched = append(watched, update.Ecosystem+" "+directory)
			}
		}
	}

	ecosystems := map[string]string{"go.mod": "gomod", "package.json": "npm", "Dockerfile": "docker"}
	wanted := []string{"github-actions /"}
	for _, file := range tracked(t) {
		if ecosystem := ecosystems[path.Base(file)]; ecosystem != "" {
			wanted = append(wanted, ecosystem+" "+path.Join("/", path.Dir(file)))
		}
	}
	assert.ElementsMatch(t, wanted, watched)
}

// What a workflow runs can be run here too.
func TestWorkflowsCallTargetsOfTheMakefile(t *testing.T) {
	makefile := string(content(t, filepath.Join(root, "Makefile")))
	workflows, err := filepath.Glob(filepath.Join(root, ".github/workflows/*.yml"))
	require.NoError(t, err)
	require.NotEmpty(t, workflows)
	for _, workflow := range workflows {
		calls := regexp.MustCompile(`\bmake ([a-z-]+)`).FindAllStringSubmatch(string(content(t, workflow)), -1)
		assert.NotEmpty(t, calls, workflow)
		for _, call := range calls {
			assert.Regexp(t, `(?m)^`+call[1]+`:`, makefile, workflow)
		}
	}
}

// notes runs what the release workflow takes a release's text from.
func notes(t *testing.T, version, changelog string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "tools/dist"), os.DirFS(filepath.Join(root, "tools/dist"))))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "CHANGELOG.md"), []byte(changelog), 0o600))
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "tools/dist/notes.sh"))
	cmd.Env = append(os.Environ(), "VERSION="+version)
	output, err := cmd.Output()
	return string(output), err
}

func TestOnlyWhatTheChangelogTellsOfIsReleased(t *testing.T) {
	changelog := "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- Two.\n\n" +
		"## [0.1.0] - 2026-11-26\n\n- One.\n\n[0.1.0]: https://example.com\n"
	text, err := notes(t, "v0.2.0", changelog)
	require.NoError(t, err)
	assert.Equal(t, "\n### Added\n\n- Two.\n\n", text)
	text, err = notes(t, "v0.1.0", changelog)
	require.NoError(t, err)
	assert.Equal(t, "\n- One.\n\n", text)

	for _, version := range []string{"v0.3.0", "v0.2", "0.2.0", "v0.2.0-rc.1"} {
		_, err = notes(t, version, changelog)
		require.Error(t, err, version)
	}
	_, err = notes(t, "v0.1.0", "# Changelog\n\n## [0.1.0] - unreleased\n\n- One.\n")
	require.Error(t, err, "it has no date yet")
}
