package dist

import (
	"archive/tar"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// architectures returns the architectures of the images: those of the release's Linux platforms.
func architectures() (all []string) {
	for _, platform := range platforms {
		if arch, isLinux := strings.CutPrefix(platform, "linux_"); isLinux {
			all = append(all, arch)
		}
	}
	return all
}

// images returns the images of an OCI layout, by architecture.
func images(t *testing.T, dir string) map[string]v1.Image {
	t.Helper()
	top, err := layout.ImageIndexFromPath(dir)
	require.NoError(t, err)
	manifest, err := top.IndexManifest()
	require.NoError(t, err)
	require.Len(t, manifest.Manifests, 1, "the layout has one image index")
	require.Equal(t, version, manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"])
	index, err := top.ImageIndex(manifest.Manifests[0].Digest)
	require.NoError(t, err)
	require.NoError(t, validate.Index(index))
	manifest, err = index.IndexManifest()
	require.NoError(t, err)
	all := map[string]v1.Image{}
	for _, descriptor := range manifest.Manifests {
		assert.Equal(t, "linux", descriptor.Platform.OS)
		image, err := index.Image(descriptor.Digest)
		require.NoError(t, err)
		all[descriptor.Platform.Architecture] = image
	}
	return all
}

// fileSystem returns the files of an image by path, as OpenBao reads them, with their checksums in
// PAXRecords.
func fileSystem(t *testing.T, image v1.Image) map[string]*tar.Header {
	t.Helper()
	files := map[string]*tar.Header{}
	stream := mutate.Extract(image)
	defer stream.Close()
	for archive := tar.NewReader(stream); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		}
		require.NoError(t, err)
		if header.Typeflag == tar.TypeReg {
			content, err := io.ReadAll(archive)
			require.NoError(t, err)
			header.PAXRecords = map[string]string{"sum": sum(content)}
			files[strings.TrimPrefix(header.Name, "/")] = header
		}
	}
}

// As OpenBao's internal/helper/pluginutil/oci does: up to 2.5 it takes the file in the image's root
// with the name binary_name, and from 2.6 on the entrypoint without its slash. Its sha256sum is that
// of the binary.
func TestOpenBaoFindsTheBinaryInTheLayout(t *testing.T) {
	all := images(t, filepath.Join(first, "oci"))
	require.Len(t, all, len(architectures()))
	for _, arch := range architectures() {
		config, err := all[arch].ConfigFile()
		require.NoError(t, err)
		assert.Equal(t, "linux/"+arch, config.OS+"/"+config.Architecture)
		name := strings.TrimPrefix(filepath.Clean(config.Config.Entrypoint[0]), "/")
		assert.Equal(t, plugin, name)

		file := fileSystem(t, all[arch])[name]
		require.NotNil(t, file, "no %s in the root of the image", name)
		assert.Contains(t, string(content(t, release("binaries.sha256"))),
			file.PAXRecords["sum"]+"  linux_"+arch+"/"+plugin+"\n")
	}
}

// The release has the layout as an archive, which skopeo and podman read directly.
func TestLayoutArchiveMatchesTheLayout(t *testing.T) {
	dir := t.TempDir()
	output, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-xf", release("oci.tar")).CombinedOutput()
	require.NoError(t, err, string(output))
	output, err = exec.CommandContext(t.Context(), "diff", "-r", dir, filepath.Join(first, "oci")).CombinedOutput()
	require.NoError(t, err, string(output))
}

// Vault's containerized plugins use the image of the Dockerfile. It has the same files, entrypoint
// and user as the layout's images.
func TestDockerfileBuildsTheImageOfTheLayout(t *testing.T) {
	all := images(t, filepath.Join(first, "oci"))
	for _, arch := range architectures() {
		t.Run(arch, func(t *testing.T) {
			built := build(t, arch)
			expected, err := all[arch].ConfigFile()
			require.NoError(t, err)
			config, err := built.ConfigFile()
			require.NoError(t, err)
			assert.Equal(t, expected.OS+"/"+expected.Architecture, config.OS+"/"+config.Architecture)
			assert.Equal(t, "65532:65532", config.Config.User)
			assert.Equal(t, expected.Config.User, config.Config.User)
			assert.Equal(t, expected.Config.Entrypoint, config.Config.Entrypoint)
			assert.Empty(t, config.Config.Cmd)
			delete(config.Config.Labels, "io.buildah.version")
			assert.Equal(t, expected.Config.Labels, config.Config.Labels)

			files := fileSystem(t, built)
			assert.Len(t, files, 3)
			for name, file := range fileSystem(t, all[arch]) {
				require.Contains(t, files, name)
				assert.Equal(t, file.PAXRecords["sum"], files[name].PAXRecords["sum"], name)
				assert.Equal(t, file.FileInfo().Mode(), files[name].FileInfo().Mode(), name)
			}
		})
	}
}

// build builds the Dockerfile with buildah, which needs no daemon. Nothing is pulled, because the
// image is built from scratch.
func build(t *testing.T, arch string) v1.Image {
	t.Helper()
	storage, dir := t.TempDir(), filepath.Join(t.TempDir(), "image")
	buildah := func(args ...string) {
		args = append([]string{"--root", filepath.Join(storage, "root"), "--runroot", filepath.Join(storage, "run"), "--storage-driver", "vfs"}, args...)
		output, err := exec.CommandContext(t.Context(), "buildah", args...).CombinedOutput()
		require.NoError(t, err, string(output))
	}
	buildah("build", "--isolation", "chroot", "--platform", "linux/"+arch, "--build-arg", "VERSION="+version,
		"--file", filepath.Join(root, "Dockerfile"), "--tag", "tokenbroker", filepath.Join(first, "bin"))
	buildah("push", "tokenbroker", "oci:"+dir)

	index, err := layout.ImageIndexFromPath(dir)
	require.NoError(t, err)
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	image, err := index.Image(manifest.Manifests[0].Digest)
	require.NoError(t, err)
	return image
}
