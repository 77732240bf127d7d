// Package dist tests the release files of two runs of `make dist`. The environment variables
// FIRST and SECOND name their folders, VERSION their version, and PLATFORMS their platforms;
// `make dist-test` sets them. The package is a module of its own, which keeps the dependencies for
// images and SBOMs out of the plugin's module.
package dist

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	root   = "../.."
	plugin = "vault-plugin-secrets-tokenbroker"
)

// platforms are the platforms of the release, as in the names of its files.
var platforms = strings.Fields(strings.ReplaceAll(os.Getenv("PLATFORMS"), "/", "_"))

var version, first, second = os.Getenv("VERSION"), os.Getenv("FIRST"), os.Getenv("SECOND")

func TestMain(m *testing.M) {
	if version == "" || first == "" || second == "" || len(platforms) == 0 {
		fmt.Fprintln(os.Stderr, "run these tests by `make dist-test`: VERSION, FIRST, SECOND or PLATFORMS is not set")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// release returns the path of a file of the first build.
func release(suffix string) string { return filepath.Join(first, plugin+"_"+version+"_"+suffix) }

func content(t *testing.T, name string) []byte {
	t.Helper()
	bytes, err := os.ReadFile(name)
	require.NoError(t, err)
	return bytes
}

func sum(content []byte) string { return fmt.Sprintf("%x", sha256.Sum256(content)) }

// binary returns the name of a platform's binary.
func binary(platform string) string {
	if strings.HasPrefix(platform, "windows") {
		return plugin + ".exe"
	}
	return plugin
}

func TestBuildIsReproducible(t *testing.T) {
	sums := func(dir string) map[string]string {
		files := map[string]string{}
		require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				files[name] = sum(content(t, filepath.Join(dir, name)))
			}
			return err
		}))
		return files
	}
	assert.Equal(t, sums(first), sums(second))
}

func TestChecksumsMatchTheFiles(t *testing.T) {
	check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "SHA256SUMS")
	check.Dir = first
	output, err := check.CombinedOutput()
	require.NoError(t, err, string(output))

	entries, err := os.ReadDir(first)
	require.NoError(t, err)
	for _, entry := range entries {
		if !entry.IsDir() && entry.Name() != "SHA256SUMS" {
			assert.Contains(t, string(output), entry.Name()+": OK\n", "a file of the release has no sum")
		}
	}
}

func TestArchiveHasTheBinaryTheLicencesAndTheReadme(t *testing.T) {
	for _, platform := range platforms {
		t.Run(platform, func(t *testing.T) {
			files := unpack(t, platform)
			require.Len(t, files, 4)
			for _, name := range []string{"LICENSE", "README.md"} {
				assert.Equal(t, sum(content(t, filepath.Join(root, name))), sum(files[name]), name)
			}
			assert.Contains(t, files, "THIRD_PARTY_LICENSES")

			info, err := buildinfo.Read(bytes.NewReader(files[binary(platform)]))
			require.NoError(t, err)
			settings := map[string]string{}
			for _, setting := range info.Settings {
				settings[setting.Key] = setting.Value
			}
			assert.Equal(t, platform, settings["GOOS"]+"_"+settings["GOARCH"])
			assert.Equal(t, "0", settings["CGO_ENABLED"], "the binary must run in an image without a C library")
			assert.Contains(t, settings, "-trimpath")
			assert.True(t, bytes.Contains(files[binary(platform)], []byte(version)), "the binary does not have the version")
			assert.Contains(t, string(content(t, release("binaries.sha256"))),
				sum(files[binary(platform)])+"  "+platform+"/"+binary(platform)+"\n")
		})
	}
}

// unpack returns the files of a platform's archive, and asserts that only the binary is executable.
func unpack(t *testing.T, platform string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	add := func(info fs.FileInfo, from io.Reader) {
		expected := fs.FileMode(0o644)
		if info.Name() == binary(platform) {
			expected = 0o755
		}
		assert.Equal(t, expected, info.Mode(), info.Name())
		bytes, err := io.ReadAll(from)
		require.NoError(t, err)
		files[info.Name()] = bytes
	}
	if strings.HasPrefix(platform, "windows") {
		archive, err := zip.OpenReader(release(platform + ".zip"))
		require.NoError(t, err)
		defer func() { require.NoError(t, archive.Close()) }()
		for _, file := range archive.File {
			from, err := file.Open()
			require.NoError(t, err)
			add(file.FileInfo(), from)
		}
		return files
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(content(t, release(platform+".tar.gz"))))
	require.NoError(t, err)
	for archive := tar.NewReader(unzipped); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		}
		require.NoError(t, err)
		assert.Equal(t, "0/0", fmt.Sprintf("%d/%d", header.Uid, header.Gid), header.Name)
		add(header.FileInfo(), archive)
	}
}
