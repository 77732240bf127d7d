package tokenbroker

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/definition"
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

// vendorHelp returns the help of the path of a vendor's credentials; nil if the path is none.
func (b *backend) vendorHelp(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	parts := strings.Split(strings.Trim(req.Path, "/"), "/")
	if len(parts) != 3 || parts[0] != "config" {
		return nil, nil
	}
	p := builtIn(parts[1])
	if p == nil && req.Storage != nil {
		own, err := b.store.OwnVendor(ctx, req.Storage, parts[1])
		if err != nil || own == nil {
			return nil, nil //nolint:nilerr // the help of the path for all vendors serves as well
		}
		p = own
	}
	if p == nil {
		return nil, nil
	}
	path := b.vendorPath(p)
	for name, schema := range path.Fields {
		if isRequired(p, name) {
			path.Fields[name] = described(schema, schema.Description+" Required.")
		}
	}
	own := &framework.Backend{Paths: describeValues([]*framework.Path{path})}
	return own.HandleRequest(ctx, req)
}

// isRequired reports whether a definition requires a field of its credentials.
func isRequired(p provider.Provider, name string) bool {
	defined, isDefined := p.(*definition.Provider)
	if !isDefined {
		return false
	}
	field := defined.Definition.Fields[name]
	canConsent := name == "refresh_token" && defined.Authorization != nil
	return field.Required && field.Default == "" && !canConsent
}

// notesOf returns what the operator must create at a vendor, and where the vendor says so.
func notesOf(p provider.Provider) string {
	about := p.About()
	if about.Notes == "" && len(about.Docs) == 0 {
		return ""
	}
	return strings.Join(append([]string{"\n" + about.Notes, ""}, about.Docs...), "\n") + "\n"
}

// mountOf returns the mount of a vendor in examples: of those whose exchange is code, one of its own.
func mountOf(p provider.Provider) string {
	if written[p.Name()] != nil {
		return p.Name()
	}
	return "api"
}
