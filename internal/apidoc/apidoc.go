// Package apidoc generates the API reference of an engine from its path definitions, so that
// the reference cannot differ from the engine.
package apidoc

import (
	_ "embed"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"

	"vault-plugin-secrets-tokenbroker/internal/apipath"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

//go:embed api.md.tmpl
var layout string

// A page is the section of the reference for one path.
type page struct {
	Path        string
	Synopsis    string
	Description string
	Operations  []operation
	Parameters  []field
	Response    []field
	Examples    []example
}

type operation struct {
	Method       string
	Capabilities string
	Summary      string
}

type field struct {
	Name        string
	Properties  string
	Description string
}

// operations are the operations in the order of the reference. A create and an update are the
// same request; Vault checks a different capability depending on whether the entry exists.
var operations = []struct {
	kind         logical.Operation
	method       string
	capabilities string
}{
	{logical.ListOperation, "LIST", "list"},
	{logical.CreateOperation, "POST", "create, update"},
	{logical.UpdateOperation, "POST", "update"},
	{logical.PatchOperation, "PATCH", "patch"},
	{logical.ReadOperation, "GET", "read"},
	{logical.DeleteOperation, "DELETE", "delete"},
}

// Write writes the reference of paths to w as Markdown, in the order of paths. answers has the
// answer to each of their Commands, by its text.
func Write(w io.Writer, paths []*framework.Path, answers map[string]string) error {
	pages := make([]page, len(paths))
	for i, path := range paths {
		pages[i] = describe(path)
		var err error
		if pages[i].Examples, err = examplesOf(path, answers); err != nil {
			return err
		}
	}
	return template.Must(template.New("api.md").Funcs(template.FuncMap{"text": text}).Parse(layout)).Execute(w, pages)
}

// text escapes the characters that Markdown takes for HTML or for the end of a table cell.
func text(s string) string { return strings.NewReplacer("<", `\<`, "|", `\|`).Replace(s) }

func describe(path *framework.Path) page {
	description, _, _ := strings.Cut(path.HelpDescription, exampleHeading)
	p := page{
		Path:        Name(path),
		Synopsis:    path.HelpSynopsis,
		Description: strings.TrimSpace(description),
		Parameters:  fields(path.Fields, inRequest),
	}
	for _, o := range operations {
		handler := path.Operations[o.kind]
		if handler == nil || o.kind == logical.UpdateOperation && path.Operations[logical.CreateOperation] != nil {
			continue
		}
		p.Operations = append(p.Operations, operation{o.method, o.capabilities, handler.Properties().Summary})
		for _, response := range handler.Properties().Responses[200] {
			p.Response = append(p.Response, fields(without(response.Fields, p.Response), inResponse)...)
		}
	}
	return p
}

// without returns schemas without the fields that are already listed, because several
// operations of a path may return the same fields.
func without(schemas map[string]*framework.FieldSchema, there []field) map[string]*framework.FieldSchema {
	rest := maps.Clone(schemas)
	for _, f := range there {
		delete(rest, f.Name)
	}
	return rest
}

// Name returns the path as the documentation writes it, such as creds/<name>.
func Name(path *framework.Path) string {
	name := strings.NewReplacer(apipath.NamePattern("name"), "<name>", apipath.HostPattern("host"), "<host>", framework.GenericNameRegex("vendor"), "<vendor>", `\.`, ".").Replace(path.Pattern)
	return strings.TrimSuffix(strings.TrimSuffix(name, "$"), "?")
}

// A fieldUse is where fields are used.
type fieldUse int

const (
	inRequest fieldUse = iota
	inResponse
)

func fields(schemas map[string]*framework.FieldSchema, use fieldUse) []field {
	var list []field
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		list = append(list, field{
			Name:        name,
			Properties:  properties(schemas[name], use),
			Description: schemas[name].Description,
		})
	}
	return list
}

// properties returns the type of a field and what restricts it. The description has the default.
func properties(schema *framework.FieldSchema, use fieldUse) string {
	all := []string{kind(schema.Type)}
	if schema.Required && use == inRequest {
		all = append(all, "required")
	}
	if schema.Query {
		all = append(all, "query parameter")
	}
	if schema.DisplayAttrs != nil && schema.DisplayAttrs.Sensitive && use == inRequest {
		all = append(all, "secret, write-only")
	}
	return strings.Join(all, ", ")
}

func kind(t framework.FieldType) string {
	switch t {
	case framework.TypeNameString:
		return "name"
	case framework.TypeCommaStringSlice, framework.TypeStringSlice:
		return "list"
	case framework.TypeDurationSecond:
		return "duration"
	case framework.TypeInt, framework.TypeInt64:
		return "number"
	case framework.TypeKVPairs:
		return "map"
	case framework.TypeTime:
		return "time"
	default:
		return t.String()
	}
}
