package dist

import (
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/modfile"
	"gopkg.in/yaml.v3"
)

// tracked returns the files of the repository, including those that are not committed yet.
func tracked(t *testing.T) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "git", "ls-files", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	output, err := list.Output()
	require.NoError(t, err)
	return strings.Fields(string(output))
}

// update is Dependabot's configuration for some folders.
type update struct {
	Ecosystem     string `yaml:"package-ecosystem"`
	Directory     string
	Directories   []string
	Allow, Ignore []dependency
}

type dependency struct {
	Name string `yaml:"dependency-name"`
	Type string `yaml:"dependency-type"`
}

// dependabot returns Dependabot's configurations by ecosystem and folder.
func dependabot(t *testing.T) map[string]update {
	t.Helper()
	var config struct{ Updates []update }
	require.NoError(t, yaml.Unmarshal(content(t, filepath.Join(root, ".github/dependabot.yml")), &config))
	all := map[string]update{}
	for _, update := range config.Updates {
		for _, directory := range append(update.Directories, update.Directory) {
			if directory != "" {
				key := update.Ecosystem + " " + directory
				assert.NotContains(t, all, key, "a folder is listed twice")
				all[key] = update
			}
		}
	}
	return all
}

// Without an entry for its folder, a new module would never be updated.
func TestDependabotWatchesEachFolderWithDependencies(t *testing.T) {
	watched := slices.Collect(maps.Keys(dependabot(t)))

	ecosystems := map[string]string{"go.mod": "gomod", "package.json": "npm", "Dockerfile": "docker"}
	expected := []string{"github-actions /"}
	for _, file := range tracked(t) {
		if ecosystem := ecosystems[path.Base(file)]; ecosystem != "" {
			expected = append(expected, ecosystem+" "+path.Join("/", path.Dir(file)))
		}
	}
	assert.ElementsMatch(t, expected, watched)
}

// Tools are indirect requirements in go.mod, which Dependabot updates only if its configuration
// allows them by name.
func TestDependabotAllowsEachTool(t *testing.T) {
	updates, tools := dependabot(t), 0
	for _, file := range tracked(t) {
		if path.Base(file) != "go.mod" {
			continue
		}
		mod, err := modfile.Parse(file, content(t, filepath.Join(root, file)), nil)
		require.NoError(t, err)
		for _, tool := range mod.Tool {
			tools++
			var module string
			for _, required := range mod.Require {
				if strings.HasPrefix(tool.Path+"/", required.Mod.Path+"/") && len(required.Mod.Path) > len(module) {
					module = required.Mod.Path
				}
			}
			update := updates["gomod /"+path.Dir(file)]
			assert.True(t, slices.Contains(update.Allow, dependency{module, "all"}) || slices.Contains(update.Ignore, dependency{Name: module}),
				"%s: Dependabot does not update %s", file, module)
		}
	}
	assert.NotZero(t, tools)
}

// Workflows call targets of the Makefile, so that everyone can run the same steps.
func TestWorkflowsCallMakefileTargets(t *testing.T) {
	makefile := string(content(t, filepath.Join(root, "Makefile")))
	workflows, err := filepath.Glob(filepath.Join(root, ".github/workflows/*.yml"))
	require.NoError(t, err)
	require.NotEmpty(t, workflows)
	for _, workflow := range workflows {
		calls := regexp.MustCompile(`(?m)\bmake ((?:[a-z-]+ ?)+)`).FindAllStringSubmatch(string(content(t, workflow)), -1)
		assert.NotEmpty(t, calls, workflow)
		for _, call := range calls {
			for _, target := range strings.Fields(call[1]) {
				assert.Regexp(t, `(?m)^`+target+`:`, makefile, workflow)
			}
		}
	}
}

// The only job that may write to the repository runs no code of it and nothing that was built.
func TestOnlyPublishingJobsMayWrite(t *testing.T) {
	type job struct {
		Permissions map[string]string
		Environment string
		Needs       any // a job, or a list of them
		Steps       []struct{ Uses, Run string }
	}
	var workflow struct {
		Permissions map[string]string
		Jobs        map[string]job
	}
	require.NoError(t, yaml.Unmarshal(content(t, filepath.Join(root, ".github/workflows/release.yml")), &workflow))
	assert.Equal(t, map[string]string{"contents": "read"}, workflow.Permissions)
	for name, job := range workflow.Jobs {
		if name != "publish" {
			assert.Empty(t, job.Permissions, name)
			continue
		}
		assert.Equal(t, "release", job.Environment)
		for _, step := range job.Steps {
			assert.NotContains(t, step.Uses, "checkout")
			assert.NotRegexp(t, `\bmake\b|\./|tools/`, step.Run)
		}
	}
	assert.Equal(t, "dist", workflow.Jobs["publish"].Needs)
	assert.Equal(t, []any{"test", "faults"}, workflow.Jobs["dist"].Needs)
	assert.Empty(t, workflow.Jobs["test"].Needs)
}

// A file that the workflow leaves out would be missing from the release, or have no attestation.
func TestEachFileIsPublishedWithProvenance(t *testing.T) {
	var workflow struct {
		Jobs map[string]struct {
			Steps []struct {
				Uses, Run string
				With      map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(content(t, filepath.Join(root, ".github/workflows/release.yml")), &workflow))
	var uploaded, published []string
	attested := false
	for _, step := range workflow.Jobs["dist"].Steps {
		if strings.HasPrefix(step.Uses, "actions/upload-artifact@") {
			uploaded = strings.Fields(step.With["path"])
		}
	}
	for _, step := range workflow.Jobs["publish"].Steps {
		if strings.HasPrefix(step.Uses, "actions/attest-build-provenance@") {
			attested = step.With["subject-checksums"] == "dist/SHA256SUMS"
		}
		if strings.HasPrefix(step.Run, "cp ") {
			assert.Contains(t, step.Run, "_provenance.sigstore.json", "the attestation is not a file of the release")
		}
		if strings.Contains(step.Run, "gh release create") {
			published = strings.Fields(step.Run)
		}
	}
	assert.True(t, attested, "the subjects of the attestation are not those of SHA256SUMS")

	subjects := string(content(t, filepath.Join(first, "SHA256SUMS")))
	entries, err := os.ReadDir(first)
	require.NoError(t, err)
	for _, entry := range entries {
		if entry.IsDir() {
			continue
		}
		matches := func(pattern string) bool {
			matched, err := path.Match(pattern, "dist/"+entry.Name())
			return err == nil && matched
		}
		assert.True(t, slices.ContainsFunc(uploaded, matches), "%s is not uploaded", entry.Name())
		assert.True(t, slices.ContainsFunc(published, matches), "%s is not published", entry.Name())
		if entry.Name() != "SHA256SUMS" {
			assert.Contains(t, subjects, "  "+entry.Name()+"\n", "%s is not a subject", entry.Name())
		}
	}
}

// CONTRIBUTING.md has the packages of `make packages` as a line to copy.
func TestContributingListsEachPackage(t *testing.T) {
	packages := regexp.MustCompile(`(?m)^PACKAGES := (.*)$`).FindSubmatch(content(t, filepath.Join(root, "Makefile")))
	require.NotNil(t, packages)
	line := regexp.MustCompile(`(?m)^apt-get install --no-install-recommends (.*)$`).FindSubmatch(content(t, filepath.Join(root, "CONTRIBUTING.md")))
	require.NotNil(t, line)
	assert.ElementsMatch(t, append(strings.Fields(string(packages[1])), "libc6-dev"), strings.Fields(string(line[1])))
}

// notes runs the script that extracts a release's text from the changelog.
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

func TestReleaseNeedsADatedChangelogEntry(t *testing.T) {
	changelog := "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- Two.\n\nSee [Two](docs/two.md).\n\n" +
		"## [0.1.0] - 2026-11-26\n\n- One.\n\n[0.1.0]: https://example.com\n"
	text, err := notes(t, "v0.2.0", changelog)
	require.NoError(t, err)
	assert.Equal(t, "\n### Added\n\n- Two.\n\nSee [Two](docs/two.md).\n\n", text)
	text, err = notes(t, "v0.1.0", changelog)
	require.NoError(t, err)
	assert.Equal(t, "\n- One.\n\n", text)

	for _, version := range []string{"v0.3.0", "v0.2", "0.2.0", "v0.2.0-rc.1"} {
		_, err = notes(t, version, changelog)
		require.Error(t, err, version)
	}
	_, err = notes(t, "v0.1.0", "# Changelog\n\n## [0.1.0] - unreleased\n\n- One.\n")
	require.Error(t, err, "an entry without a date is not released")
}
