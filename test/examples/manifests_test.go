// Package examples checks the manifests of examples/kubernetes against the types and the schemas of
// their APIs. It is a module of its own, which keeps these dependencies out of the plugin's module:
// they are many, and the Vault Secrets Operator is under the Business Source License, which is fine
// for a test but not for a released binary.
package examples

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	externalsecrets "github.com/external-secrets/external-secrets/apis/externalsecrets/v1"
	generators "github.com/external-secrets/external-secrets/apis/generators/v1alpha1"
	operator "github.com/hashicorp/vault-secrets-operator/api/v1beta1"
	"github.com/stretchr/testify/require"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const root = "../.."

// manifest is one document of a file.
type manifest struct {
	file   string
	text   []byte
	object runtime.Object
}

// manifests returns all documents of examples/kubernetes, and the manifests of docs/from-kv.md. It
// fails the test on an unknown kind, an unknown field or a duplicate field.
func manifests(t *testing.T) []manifest {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		core.AddToScheme, apps.AddToScheme, networking.AddToScheme, rbac.AddToScheme,
		operator.AddToScheme, externalsecrets.AddToScheme, generators.AddToScheme,
	} {
		require.NoError(t, add(scheme))
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()

	var all []manifest
	add := func(file string, content []byte) {
		for _, text := range documents(t, content) {
			object, _, err := decoder.Decode(text, nil, nil)
			require.NoError(t, err, "%s:\n%s", file, text)
			all = append(all, manifest{file: file, text: text, object: object})
		}
	}
	files := manifestFiles(t)
	require.NotEmpty(t, files)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		add(file, content)
	}
	for _, excerpt := range yamlFence.FindAllStringSubmatch(page(t, "from-kv.md"), -1) {
		if lines := unindent(excerpt); strings.HasPrefix(lines[0], "apiVersion:") {
			add("from-kv.md", []byte(strings.Join(lines, "\n")))
		}
	}
	return all
}

// manifestFiles returns the files of examples/kubernetes that are manifests, and not values of a
// chart.
func manifestFiles(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*.yaml", "*/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(root, "examples/kubernetes", pattern))
		require.NoError(t, err)
		for _, file := range files {
			if !strings.HasPrefix(filepath.Base(file), "values") {
				all = append(all, file)
			}
		}
	}
	return all
}

func documents(t *testing.T, content []byte) [][]byte {
	t.Helper()
	var all [][]byte
	for reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content))); ; {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all = append(all, text)
	}
}

func TestManifestsMatchTheirTypes(t *testing.T) {
	kinds := map[string]int{}
	for _, m := range manifests(t) {
		kinds[m.object.GetObjectKind().GroupVersionKind().GroupKind().String()]++
	}
	for _, kind := range []string{
		"ServiceAccount", "Secret", "Deployment.apps", "ClusterRoleBinding.rbac.authorization.k8s.io", "NetworkPolicy.networking.k8s.io",
		"VaultConnection.secrets.hashicorp.com", "VaultAuth.secrets.hashicorp.com", "VaultDynamicSecret.secrets.hashicorp.com",
		"VaultDynamicSecret.generators.external-secrets.io", "ExternalSecret.external-secrets.io",
		"ClusterGenerator.generators.external-secrets.io", "ClusterExternalSecret.external-secrets.io",
		// The manifests before a move from KV, in docs/from-kv.md.
		"VaultStaticSecret.secrets.hashicorp.com", "SecretStore.external-secrets.io",
	} {
		require.Positive(t, kinds[kind], kind)
	}
}
