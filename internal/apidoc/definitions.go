package apidoc

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"

	"vault-plugin-secrets-tokenbroker/provider/definition"
)

//go:embed definitions.md.tmpl
var definitionsPage string

// WriteDefinitions writes the reference of definitions to w. The members are those of the JSON Schema, in
// its order.
func WriteDefinitions(w io.Writer) error {
	var root schema
	if err := json.Unmarshal(definition.Schema(), &root); err != nil {
		return err
	}
	functions := template.FuncMap{
		"members":  func(path ...string) (string, error) { return root.members(path) },
		"standard": standardFields,
		"reserved": func() string { return "`" + strings.Join(definition.ReservedFields(), "`, `") + "`" },
	}
	page, err := template.New("definitions.md").Funcs(functions).Parse(definitionsPage)
	if err != nil {
		return err
	}
	return page.Execute(w, nil)
}

// standardFields returns a table of the fields that need no description.
func standardFields() string {
	var table strings.Builder
	fields := definition.StandardFields()
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range fields {
			if !yield(name) {
				return
			}
		}
	}) {
		kind := fields[name].Type
		if kind == "" {
			kind = "string"
		}
		if fields[name].Secret {
			kind += ", secret"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", name, kind, text(fields[name].Description))
	}
	return table.String()
}

// A schema is the part of a JSON Schema that the reference shows.
type schema struct {
	Ref         string            `json:"$ref"`
	Type        string            `json:"type"`
	Description string            `json:"description"`
	Enum        []string          `json:"enum"`
	Items       *schema           `json:"items"`
	AnyOf       []schema          `json:"anyOf"`
	Values      json.RawMessage   `json:"additionalProperties"`
	Properties  members           `json:"properties"`
	Required    []string          `json:"required"`
	Defs        map[string]schema `json:"$defs"`
}

// A member of an object is a name with its schema.
type member struct {
	name string
	schema
}

// members are the members of an object in their order.
type members []member

// UnmarshalJSON decodes an object.
func (m *members) UnmarshalJSON(raw []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if _, err := decoder.Token(); err != nil { // the brace
		return err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		next := member{name: name.(string)}
		if err := decoder.Decode(&next.schema); err != nil {
			return err
		}
		*m = append(*m, next)
	}
	return nil
}

// members returns a table of the members of an object: of the whole definition, of one of the $defs, or
// of a member of the definition.
func (s *schema) members(path []string) (string, error) {
	object := *s
	for _, name := range path {
		next, found := s.Defs[name]
		if i := slices.IndexFunc(s.Properties, func(m member) bool { return m.name == name }); !found && i >= 0 {
			next, found = s.Properties[i].schema, true
		}
		if !found {
			return "", fmt.Errorf("the schema has no %s", name)
		}
		object = next
	}
	var table strings.Builder
	table.WriteString("| member | type | description |\n| --- | --- | --- |\n")
	for _, m := range object.Properties {
		description := m.Description
		if slices.Contains(object.Required, m.name) {
			description = strings.TrimSuffix(description, ".") + ". Required."
		}
		if description == "" {
			return "", fmt.Errorf("%s has no description", m.name)
		}
		kind := s.kind(m.schema)
		if len(m.Properties) > 0 {
			kind = "[object](#" + headings[m.name] + ")"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", m.name, kind, text(description))
	}
	return table.String(), nil
}

// kind returns the type of a value.
func (s *schema) kind(of schema) string {
	name := strings.TrimPrefix(of.Ref, "#/$defs/")
	var values schema
	switch {
	case of.Ref != "" && s.Defs[name].Type == "object":
		return "[object](#" + headings[name] + ")"
	case of.Ref != "":
		return s.kind(s.Defs[name])
	case len(of.Enum) > 0:
		return "`" + strings.Join(of.Enum, "`, `") + "`"
	case of.Type == "array" && of.Items != nil && of.Items.Ref != "":
		return "array of [objects](#" + headings[strings.TrimPrefix(of.Items.Ref, "#/$defs/")] + ")"
	case of.Type == "array":
		return "array of strings"
	case of.Type == "object" && json.Unmarshal(of.Values, &values) == nil && values.Ref != "":
		return "object of [objects](#" + headings[strings.TrimPrefix(values.Ref, "#/$defs/")] + ")"
	case of.Type == "object" && values.Type != "":
		return "object of strings"
	case len(of.AnyOf) > 0:
		var kinds []string
		for _, one := range of.AnyOf {
			kinds = append(kinds, s.kind(one))
		}
		return strings.Join(kinds, " or ")
	case of.Type == "":
		return "any"
	}
	return of.Type
}

// headings are the headings of the page by the names of the $defs, and of members that are objects.
var headings = map[string]string{
	"authorization": "consent", "revocation": "revocation", "token": "rules-of-tokens", "refresh_token": "rules-of-refresh-tokens", "scope": "rules-of-scopes",
	"field": "fields", "grant": "grants", "request": "requests", "step": "steps", "answer": "answers", "granted": "what-was-granted", "assertion": "assertions", "api": "how-the-api-takes-a-token",
}
