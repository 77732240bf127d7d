package examples

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-config-inspect/tfconfig"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tables of the module's page are those that its files describe. If they differ, the failure
// prints what belongs there.
func TestThePageOfTheTerraformModuleListsItsVariablesAndOutputs(t *testing.T) {
	dir := filepath.Join(root, "examples/terraform/modules/tokenbroker")
	module, diagnostics := tfconfig.LoadModule(dir)
	require.NoError(t, diagnostics.Err())
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	require.NoError(t, err)
	assert.Contains(t, string(readme), variableTable(t, module))
	assert.Contains(t, string(readme), outputTable(t, module))
}

// Users see the descriptions of variables and outputs when Terraform asks for a value.
func TestEachTerraformVariableAndOutputHasADescriptionAndAType(t *testing.T) {
	for _, folder := range []string{"", "read-a-token", "modules/tokenbroker"} {
		module, diagnostics := tfconfig.LoadModule(filepath.Join(root, "examples/terraform", folder))
		require.NoError(t, diagnostics.Err())
		require.NotEmpty(t, module.Variables)
		for name, variable := range module.Variables {
			assert.NotEmpty(t, variable.Description, name)
			assert.NotEmpty(t, variable.Type, name)
		}
		for name, output := range module.Outputs {
			assert.NotEmpty(t, output.Description, name)
		}
	}
}

// variableTable returns the variables in Markdown: those without a default first, then by name.
func variableTable(t *testing.T, module *tfconfig.Module) string {
	t.Helper()
	var required, optional []string
	for _, name := range slices.Sorted(maps.Keys(module.Variables)) {
		variable := module.Variables[name]
		kind := strings.Join(strings.Fields(variable.Type), " ")
		if variable.Required {
			required = append(required, fmt.Sprintf("| `%s` | `%s` | required | %s |", name, kind, variable.Description))
			continue
		}
		value, err := json.Marshal(variable.Default)
		require.NoError(t, err)
		optional = append(optional, fmt.Sprintf("| `%s` | `%s` | `%s` | %s |", name, kind, value, variable.Description))
	}
	lines := append([]string{"| variable | type | default | description |", "| --- | --- | --- | --- |"}, required...)
	return strings.Join(append(lines, optional...), "\n") + "\n"
}

func outputTable(t *testing.T, module *tfconfig.Module) string {
	t.Helper()
	lines := []string{"| output | description |", "| --- | --- |"}
	for _, name := range slices.Sorted(maps.Keys(module.Outputs)) {
		lines = append(lines, fmt.Sprintf("| `%s` | %s |", name, module.Outputs[name].Description))
	}
	return strings.Join(lines, "\n") + "\n"
}

// A secret among the settings would be in the state.
func TestTheTerraformModuleRefusesEachSecretFieldOfTheCatalogueAmongTheSettings(t *testing.T) {
	names := map[string]bool{}
	code, err := os.ReadFile(filepath.Join(root, "provider/definition/definition.go"))
	require.NoError(t, err)
	for _, field := range regexp.MustCompile(`(?m)^\t"(\w+)": .*Secret: true}`).FindAllStringSubmatch(string(code), -1) {
		names[field[1]] = true
	}
	require.True(t, names["password"], "the standard fields")
	files, err := filepath.Glob(filepath.Join(root, "provider/catalogue/vendors/*.json"))
	require.NoError(t, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		var vendor struct {
			Fields map[string]struct{ Secret bool }
		}
		require.NoError(t, json.Unmarshal(content, &vendor), file)
		for name, field := range vendor.Fields {
			if field.Secret {
				names[name] = true
			}
		}
	}
	variables, err := os.ReadFile(filepath.Join(root, "examples/terraform/modules/tokenbroker/variables.tf"))
	require.NoError(t, err)
	for name := range names {
		assert.Contains(t, string(variables), fmt.Sprintf("%q", name))
	}
}
