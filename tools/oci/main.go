// Command oci writes the image that the Dockerfile describes as an OCI image layout, without
// a daemon or a registry. OpenBao extracts the plugin from the image, and users can push it
// to a registry of their own. The folder of each platform contains the binary and the
// licences:
//
//	oci -version v0.1.0 -created 1700000000 layout linux/amd64=folder ...
//
// The output is reproducible: the same files and flags give the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const plugin = "vault-plugin-secrets-tokenbroker"

func main() {
	version := flag.String("version", "", "`version` of the plugin, vX.Y.Z")
	created := flag.Int64("created", 0, "creation `time` of the image, in seconds since 1970")
	flag.Parse()
	if err := write(flag.Arg(0), *version, time.Unix(*created, 0).UTC(), flag.Args()[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// write writes an image index, named after the version, with one image per platform.
func write(dir, version string, created time.Time, platforms []string) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, argument := range platforms {
		platform, folder, _ := strings.Cut(argument, "=")
		parsed, err := v1.ParsePlatform(platform)
		if err != nil {
			return err
		}
		image, err := imageOf(parsed, folder, version, created)
		if err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: parsed}})
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return path.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": version}))
}

// imageOf returns the image that the Dockerfile describes. A test compares the two.
func imageOf(platform *v1.Platform, folder, version string, created time.Time) (v1.Image, error) {
	layer, err := layerOf(folder, created)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Created: v1.Time{Time: created},
		RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User:       "65532:65532",
			Entrypoint: []string{"/" + plugin},
			Labels: map[string]string{
				"org.opencontainers.image.title":       plugin,
				"org.opencontainers.image.description": "A Vault secrets engine that leases short-lived access tokens of API vendors",
				"org.opencontainers.image.licenses":    "MPL-2.0",
				"org.opencontainers.image.version":     version,
			},
		},
	})
	if err != nil {
		return nil, err
	}
	return mutate.Append(image, mutate.Addendum{
		Layer: layer, MediaType: types.OCILayer,
		History: v1.History{Created: v1.Time{Time: created}, CreatedBy: "make dist"},
	})
}

// layerOf returns a layer with the files in the root of the file system, where every release
// of OpenBao finds the binary.
func layerOf(folder string, modified time.Time) (v1.Layer, error) {
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	for _, file := range []struct {
		name string
		mode int64
	}{{"LICENSE", 0o644}, {"THIRD_PARTY_LICENSES", 0o644}, {plugin, 0o755}} {
		content, err := os.ReadFile(filepath.Join(folder, file.name))
		if err != nil {
			return nil, err
		}
		header := &tar.Header{Name: file.name, Mode: file.mode, Size: int64(len(content)), ModTime: modified, Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(content); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	})
}
