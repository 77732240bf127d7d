package dist

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const pluginFolder = "usr/lib/vault/plugins"

// packageOf returns the name of the Debian package of a version, which is lower case.
func packageOf(version string) string { return plugin + "-" + strings.ToLower(version) }

// output runs a command in the root of the repository and returns what it prints.
func output(t *testing.T, environ []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), environ...)
	var failure bytes.Buffer
	cmd.Stderr = &failure
	printed, err := cmd.Output()
	require.NoError(t, err, failure.String())
	return string(printed)
}

// members returns the entries of an uncompressed archive by name, and the content of its files.
func members(t *testing.T, archive string) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, contents := map[string]*tar.Header{}, map[string][]byte{}
	for reader := tar.NewReader(strings.NewReader(archive)); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		require.NoError(t, err)
		name := strings.Trim(strings.TrimPrefix(header.Name, "."), "/")
		headers[name] = header
		if header.Typeflag == tar.TypeReg {
			contents[name], err = io.ReadAll(reader)
			require.NoError(t, err)
		}
	}
}

// A package has the files of the archive and the SBOM, and its name and version sort as Debian's do.
func TestPackageHasTheFilesOfTheArchiveAndTheSBOM(t *testing.T) {
	epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	require.NoError(t, err)
	for _, arch := range architectures() {
		t.Run(arch, func(t *testing.T) {
			platform := "linux_" + arch
			deb := release(platform + ".deb")
			for field, expected := range map[string]string{
				"Package": packageOf(version), "Architecture": arch, "Depends": "",
				// Debian sorts 1.0.0~rc.1 before 1.0.0.
				"Version": strings.Replace(strings.TrimPrefix(version, "v"), "-", "~", 1),
			} {
				assert.Equal(t, expected, strings.TrimSpace(output(t, nil, "dpkg-deb", "--field", deb, field)), field)
			}
			control, _ := members(t, output(t, nil, "dpkg-deb", "--ctrl-tarfile", deb))
			for name := range control {
				assert.Contains(t, []string{"", "control", "md5sums"}, name, "the package runs a script")
			}

			headers, contents := members(t, output(t, nil, "dpkg-deb", "--fsys-tarfile", deb))
			doc := "usr/share/doc/" + packageOf(version) + "/"
			installed := pluginFolder + "/" + plugin + "-" + version
			archive := unpack(t, platform)
			expected := map[string]string{
				installed:                    sum(archive[plugin]),
				doc + "LICENSE":              sum(archive["LICENSE"]),
				doc + "README.md":            sum(archive["README.md"]),
				doc + "THIRD_PARTY_LICENSES": sum(archive["THIRD_PARTY_LICENSES"]),
				doc + "sbom.cdx.json":        sum(content(t, release(platform+".cdx.json"))),
				doc + "copyright":            sum(content(t, filepath.Join(root, "tools/dist/copyright"))),
			}
			sums := map[string]string{}
			for name := range contents {
				sums[name] = sum(contents[name])
			}
			assert.Equal(t, expected, sums)
			for name, header := range headers {
				mode := fs.FileMode(0o644)
				if header.Typeflag == tar.TypeDir || name == installed {
					mode = 0o755
				}
				assert.Equal(t, mode, header.FileInfo().Mode().Perm(), name)
				assert.Equal(t, "root:root", header.Uname+":"+header.Gname, name)
				assert.True(t, time.Unix(epoch, 0).Equal(header.ModTime), "%s is of %s", name, header.ModTime)
			}
		})
	}
}

// A mount is pinned to a version, so its file must stay until the operator removes it.
func TestPackagesOfTwoVersionsAreInstalledSideBySide(t *testing.T) {
	nfpm, err := filepath.Abs(filepath.Join(root, "bin/nfpm"))
	require.NoError(t, err)
	const former = "v9.8.6"
	for _, arch := range architectures() {
		t.Run(arch, func(t *testing.T) {
			formerDeb := filepath.Join(t.TempDir(), "former.deb")
			output(t, []string{"NFPM=" + nfpm, "VERSION=" + former, "GOARCH=" + arch}, "tools/dist/deb.sh",
				filepath.Join(first, "bin/linux_"+arch), release("linux_"+arch+".cdx.json"), formerDeb)

			machine := newMachine(t)
			machine.dpkg("--install", formerDeb)
			machine.dpkg("--install", release("linux_"+arch+".deb"))
			assert.ElementsMatch(t, []string{plugin + "-" + former, plugin + "-" + version}, machine.plugins())
			assert.Empty(t, machine.dpkg("--verify"))

			machine.dpkg("--remove", packageOf(former))
			assert.Equal(t, []string{plugin + "-" + version}, machine.plugins())
			assert.Empty(t, machine.dpkg("--verify"))
			machine.dpkg("--purge", packageOf(former), packageOf(version))
			left, err := filepath.Glob(filepath.Join(machine.root, "*"))
			require.NoError(t, err)
			assert.Equal(t, []string{filepath.Join(machine.root, "var")}, left, "a file or folder is left")
			assert.NotContains(t, string(content(t, filepath.Join(machine.root, "var/lib/dpkg/status"))), plugin)
		})
	}
}

// A machine is a folder in which dpkg installs packages, without root's rights.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) machine {
	t.Helper()
	m := machine{t, t.TempDir()}
	for _, folder := range []string{"info", "updates"} {
		require.NoError(t, os.MkdirAll(filepath.Join(m.root, "var/lib/dpkg", folder), 0o700))
	}
	require.NoError(t, os.WriteFile(filepath.Join(m.root, "var/lib/dpkg/status"), nil, 0o600))
	return m
}

// dpkg installs a package of any architecture, with its documentation, which images of containers leave out.
func (m machine) dpkg(args ...string) string {
	m.t.Helper()
	args = append([]string{"dpkg", "--root=" + m.root, "--force-not-root", "--force-architecture", "--log=/dev/null", "--path-include=/usr/share/doc/*"}, args...)
	return output(m.t, []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin"}, "fakeroot", args...)
}

// plugins returns the files of the folder for Vault's plugins.
func (m machine) plugins() (names []string) {
	m.t.Helper()
	entries, err := os.ReadDir(filepath.Join(m.root, pluginFolder))
	require.NoError(m.t, err)
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
