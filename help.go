package tokenbroker

import (
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
)

// exampleHeading separates the description of a path from its example commands in the help.
// internal/apidoc, which parses the help, has the same constant.
const exampleHeading = "\n\nExample:\n\n"

// withExample returns the help text of a path: its description, and commands to try.
func withExample(description string, commands ...string) string {
	return strings.TrimSpace(description) + exampleHeading + "    $ " + strings.Join(commands, "\n    $ ")
}

// describeValues adds the allowed values and the default of each field to its description, as
// path-help shows nothing else of the schema.
func describeValues(paths []*framework.Path) []*framework.Path {
	for _, path := range paths {
		for name, schema := range path.Fields {
			path.Fields[name] = described(schema, valuesDescription(schema))
		}
	}
	return paths
}

func valuesDescription(schema *framework.FieldSchema) string {
	text := schema.Description
	if len(schema.AllowedValues) > 0 {
		values := make([]string, len(schema.AllowedValues))
		for i, value := range schema.AllowedValues {
			values[i] = fmt.Sprint(value)
		}
		text += " Allowed: " + strings.Join(values, ", ") + "."
	}
	if schema.Default != nil && !strings.Contains(text, "Default:") {
		value := fmt.Sprint(schema.Default)
		if schema.Type == framework.TypeDurationSecond {
			value += "s"
		}
		text += " Default: " + value + "."
	}
	return text
}
