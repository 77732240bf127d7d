package examples

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl"
	"github.com/stretchr/testify/require"
	core "k8s.io/api/core/v1"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"
)

const server = root + "/examples/kubernetes/server"

// chartValues are the values of Vault's chart that its schema leaves open, as far as the examples
// use them.
type chartValues struct {
	Server struct {
		Image               struct{ Repository, Tag string }
		ExtraInitContainers []core.Container
		Volumes             []core.Volume
		VolumeMounts        []core.VolumeMount
		HA                  struct{ Raft struct{ Config string } }
	}
}

// helmValues returns the values of files in examples/kubernetes/server, merged as Helm does: a map
// is merged key by key, and everything else is replaced.
func helmValues(t *testing.T, files ...string) map[string]any {
	t.Helper()
	merged := map[string]any{}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(server, file))
		require.NoError(t, err)
		var values map[string]any
		require.NoError(t, yaml.UnmarshalStrict(text, &values), file)
		merge(merged, values)
	}
	return merged
}

func merge(into, from map[string]any) {
	for key, value := range from {
		old, wasMap := into[key].(map[string]any)
		inner, isMap := value.(map[string]any)
		if wasMap && isMap {
			merge(old, inner)
		} else {
			into[key] = value
		}
	}
}

// parsed returns the values of the files by type, and fails the test on a field that Kubernetes
// does not have.
func parsed(t *testing.T, files ...string) chartValues {
	t.Helper()
	merged := helmValues(t, files...)
	text, err := yaml.Marshal(merged)
	require.NoError(t, err)
	var values chartValues
	require.NoError(t, yaml.Unmarshal(text, &values))
	for _, name := range []string{"extraInitContainers", "volumes", "volumeMounts"} {
		part, given := merged["server"].(map[string]any)[name]
		if !given {
			continue
		}
		text, err := yaml.Marshal(part)
		require.NoError(t, err)
		into := map[string]any{
			"extraInitContainers": &[]core.Container{}, "volumes": &[]core.Volume{}, "volumeMounts": &[]core.VolumeMount{},
		}[name]
		require.NoError(t, yaml.UnmarshalStrict(text, into), name)
	}
	return values
}

// The schema allows unknown keys, which Helm ignores. The test does not allow them.
func TestHelmValuesMeetTheSchemaOfTheChart(t *testing.T) {
	text, err := os.ReadFile("testdata/vault-helm/values.schema.json")
	require.NoError(t, err)
	s := &spec.Schema{}
	require.NoError(t, json.Unmarshal(text, s))
	closeObjects(s)
	for _, files := range [][]string{{"values.yaml"}, {"values-download.yaml"}, {"values.yaml", "values-download.yaml"}} {
		result := validate.NewSchemaValidator(s, nil, "", strfmt.Default).Validate(helmValues(t, files...))
		require.NoError(t, result.AsError(), files)
	}
}

// closeObjects forbids unknown keys in each object that has known ones.
func closeObjects(s *spec.Schema) {
	if len(s.Properties) == 0 {
		return
	}
	s.AdditionalProperties = &spec.SchemaOrBool{Allows: false}
	for _, name := range slices.Collect(maps.Keys(s.Properties)) {
		property := s.Properties[name]
		closeObjects(&property)
		s.Properties[name] = property
	}
}

// Vault finds the plugin where the image or the init container puts it, and each file that the
// configuration names is in a mounted volume.
func TestHelmValuesPutThePluginWhereVaultLooksForIt(t *testing.T) {
	dockerfile, err := os.ReadFile(filepath.Join(server, "Dockerfile"))
	require.NoError(t, err)
	copied := regexp.MustCompile(`(?m)^COPY .* (/\S+)/$`).FindStringSubmatch(string(dockerfile))
	require.NotNil(t, copied)
	for _, files := range [][]string{{"values.yaml"}, {"values.yaml", "values-download.yaml"}} {
		values := parsed(t, files...)
		var config struct {
			PluginDirectory string `hcl:"plugin_directory"`
			DisableMlock    bool   `hcl:"disable_mlock"`
		}
		require.NoError(t, hcl.Decode(&config, values.Server.HA.Raft.Config))
		require.Equal(t, copied[1], config.PluginDirectory)
		require.True(t, config.DisableMlock)

		volumes, mounts := map[string]bool{}, map[string]string{}
		for _, volume := range values.Server.Volumes {
			volumes[volume.Name] = true
		}
		for _, mount := range values.Server.VolumeMounts {
			require.True(t, volumes[mount.Name], "%s: no volume %q", files, mount.Name)
			require.True(t, mount.ReadOnly, "%s: %s", files, mount.Name)
			mounts[mount.MountPath] = mount.Name
		}
		for _, match := range regexp.MustCompile(`file\s*= "([^"]+)"`).FindAllStringSubmatch(values.Server.HA.Raft.Config, -1) {
			require.Contains(t, mounts, path.Dir(match[1]), files)
		}
		if len(values.Server.ExtraInitContainers) == 0 {
			require.NotContains(t, mounts, config.PluginDirectory, "the volume would hide the files of the image")
			continue
		}
		require.Len(t, values.Server.ExtraInitContainers, 1)
		require.Len(t, values.Server.ExtraInitContainers[0].VolumeMounts, 1)
		require.Equal(t, mounts[config.PluginDirectory], values.Server.ExtraInitContainers[0].VolumeMounts[0].Name)
		require.Equal(t, values.Server.Image.Repository+":"+values.Server.Image.Tag, values.Server.ExtraInitContainers[0].Image)
	}
}

// The init container's script installs the plugin if its sum is right, and fails otherwise.
func TestInitContainerInstallsOnlyThePluginWithTheSum(t *testing.T) {
	const binary = "the plugin"
	sum := sha256.Sum256([]byte(binary))
	for _, given := range []struct {
		name, sum string
		installed bool
	}{
		{"right", hex.EncodeToString(sum[:]), true},
		{"wrong", strings.Repeat("0", 64), false},
	} {
		t.Run(given.name, func(t *testing.T) {
			dir := t.TempDir()
			archive(t, filepath.Join(dir, "archive.tar.gz"), binary)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "wget"), []byte("#!/bin/sh\n[ \"$1\" = -O ] && cp \"$ARCHIVE\" \"$2\"\n"), 0o700))
			require.NoError(t, os.Mkdir(filepath.Join(dir, "plugins"), 0o700))

			container := parsed(t, "values.yaml", "values-download.yaml").Server.ExtraInitContainers[0]
			script := strings.NewReplacer(
				"/tmp/", dir+"/", "/plugins/", dir+"/plugins/", strings.Repeat("0", 64), given.sum,
			).Replace(container.Args[0])
			cmd := exec.CommandContext(t.Context(), container.Command[0], append(container.Command[1:], script)...)
			cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "ARCHIVE=" + filepath.Join(dir, "archive.tar.gz")}
			output, err := cmd.CombinedOutput()
			file, statErr := os.Stat(filepath.Join(dir, "plugins/vault-plugin-secrets-tokenbroker-v0.1.0"))
			if !given.installed {
				require.Error(t, err, string(output))
				require.ErrorIs(t, statErr, os.ErrNotExist)
				return
			}
			require.NoError(t, err, string(output))
			require.NoError(t, statErr)
			require.Equal(t, os.FileMode(0o755), file.Mode())
		})
	}
}

// archive writes an archive like that of a release.
func archive(t *testing.T, file, binary string) {
	t.Helper()
	f, err := os.Create(file)
	require.NoError(t, err)
	zip := gzip.NewWriter(f)
	w := tar.NewWriter(zip)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "vault-plugin-secrets-tokenbroker", Mode: 0o644, Size: int64(len(binary))}))
	_, err = w.Write([]byte(binary))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, zip.Close())
	require.NoError(t, f.Close())
}
