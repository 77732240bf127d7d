package dist

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSBOMListsEachModuleAndItsLicence(t *testing.T) {
	for _, platform := range platforms {
		t.Run(platform, func(t *testing.T) {
			var bom cyclonedx.BOM
			file := bytes.NewReader(content(t, release(platform+".cdx.json")))
			require.NoError(t, cyclonedx.NewBOMDecoder(file, cyclonedx.BOMFileFormatJSON).Decode(&bom))

			for _, tool := range *bom.Metadata.Tools.Tools {
				assert.Empty(t, tool.Hashes, "the hash of a tool differs between machines")
			}
			assert.Equal(t, plugin, bom.Metadata.Component.Name)
			assert.Equal(t, version, bom.Metadata.Component.Version)
			var properties []string
			for _, property := range *bom.Metadata.Properties {
				properties = append(properties, property.Name+"="+property.Value)
			}
			assert.Contains(t, properties, "cdx:gomod:binary:hash:SHA-256="+sum(unpack(t, platform)[binary(platform)]))

			var named []string
			licences := string(unpack(t, platform)["THIRD_PARTY_LICENSES"])
			for _, component := range *bom.Components {
				if component.Name == "std" {
					assert.Contains(t, licences, "\nGo "+component.Version+", LICENSE\n", "the licence of Go is missing")
					continue
				}
				assert.Regexp(t, "(?mi)^"+regexp.QuoteMeta(component.Name+" "+component.Version)+", (licen[cs]e|copying)", licences,
					"the licence of a linked module is missing")
				named = append(named, component.Name+" "+component.Version)
				assert.NotEmpty(t, component.PackageURL, component.Name)
			}
			assert.ElementsMatch(t, modules(t, platform), named)
		})
	}
}

// modules returns the modules that the plugin is built from on a platform, with their versions.
func modules(t *testing.T, platform string) []string {
	t.Helper()
	system, arch, _ := strings.Cut(platform, "_")
	list := exec.CommandContext(t.Context(), "go", "list", "-deps",
		"-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", "./cmd/"+plugin)
	list.Dir = root
	list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch)
	output, err := list.Output()
	require.NoError(t, err)
	known := map[string]bool{}
	var modules []string
	for line := range strings.Lines(string(output)) {
		if module := strings.TrimSpace(line); module != "" && !known[module] {
			known[module] = true
			modules = append(modules, module)
		}
	}
	return modules
}
