package examples

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"
)

// definitions are the custom resource definitions in the operators' modules. The Go types define
// the fields, and the definitions their allowed values.
var definitions = map[string]string{
	"github.com/hashicorp/vault-secrets-operator":  "chart/crds/*.yaml",
	"github.com/external-secrets/external-secrets": "config/crds/bases/*.yaml",
}

// definition is the part of a CustomResourceDefinition that the test needs.
type definition struct {
	Spec struct {
		Group    string
		Names    struct{ Kind string }
		Versions []struct {
			Name   string
			Schema struct{ OpenAPIV3Schema json.RawMessage }
		}
	}
}

func TestManifestsMeetTheirSchemas(t *testing.T) {
	schemas := map[schema.GroupVersionKind]*spec.Schema{}
	for module, pattern := range definitions {
		addSchemas(t, schemas, module, pattern)
	}
	checked := 0
	for _, m := range manifests(t) {
		kind := m.object.GetObjectKind().GroupVersionKind()
		if !strings.Contains(kind.Group, ".") || strings.HasSuffix(kind.Group, ".k8s.io") {
			continue // Kubernetes' own
		}
		require.Contains(t, schemas, kind)
		var custom map[string]any
		require.NoError(t, yaml.Unmarshal(m.text, &custom))
		result := validate.NewSchemaValidator(schemas[kind], nil, "", strfmt.Default).Validate(custom)
		require.NoError(t, result.AsError(), "%s:\n%s", m.file, m.text)
		checked++
	}
	require.Positive(t, checked)
}

func addSchemas(t *testing.T, schemas map[schema.GroupVersionKind]*spec.Schema, module, pattern string) {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), pattern))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var d definition
		require.NoError(t, yaml.Unmarshal(text, &d))
		for _, version := range d.Spec.Versions {
			s := &spec.Schema{}
			require.NoError(t, json.Unmarshal(version.Schema.OpenAPIV3Schema, s))
			schemas[schema.GroupVersionKind{Group: d.Spec.Group, Version: version.Name, Kind: d.Spec.Names.Kind}] = s
		}
	}
}
