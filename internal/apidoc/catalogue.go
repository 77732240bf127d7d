package apidoc

import (
	_ "embed"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"

	"vault-plugin-secrets-tokenbroker/provider/definition"
)

//go:embed vendors.md.tmpl
var cataloguePage string

// WriteCatalogue writes a page with the vendors of the catalogue to w, in the given order.
func WriteCatalogue(w io.Writer, vendors []*definition.Provider) error {
	functions := template.FuncMap{
		"text": text, "join": strings.Join, "inc": func(i int) int { return i + 1 }, "needed": needed, "optional": optional, "api": api, "rotated": rotated,
	}
	return template.Must(template.New("vendors.md").Funcs(functions).Parse(cataloguePage)).Execute(w, vendors)
}

// api returns how a vendor's API takes a token; "" if as Authorization: Bearer.
func api(p *definition.Provider) string {
	all := apiOf(p, "")
	for _, grant := range p.GrantsWithAPI() {
		other := strings.Join(apiOf(p, grant), ", ")
		if other == "" {
			other = "`" + usualHeader + "`"
		}
		all = append(all, "for `grant_type="+grant+"` "+other)
	}
	return strings.Join(all, ", ")
}

const usualHeader = "Authorization: Bearer <access_token>"

// apiOf returns how a vendor's API takes a token of a grant type, if not in the usual header.
func apiOf(p *definition.Provider, grantType string) []string {
	data := map[string]any{}
	p.AddAPI(data, grantType)
	var all []string
	others, _ := data["other_http_headers"].(map[string]string)
	if header, isHeader := data["http_header"].(string); isHeader && (header != usualHeader || len(others) > 0) {
		all = append(all, "`"+header+"`")
	}
	if query, isQuery := data["query_parameter"].(string); isQuery {
		all = append(all, "`?"+query+"`")
	}
	for _, name := range slices.Sorted(maps.Keys(others)) {
		all = append(all, "`"+name+": "+others[name]+"`")
	}
	return all
}

// needed returns the fields that a grant of a vendor needs, separated by commas.
func needed(p *definition.Provider, g definition.Grant) string {
	var names []string
	for name, field := range p.Definition.Fields {
		if field.Default == "" && (field.Required || slices.Contains(g.Needs, name)) {
			names = append(names, "`"+name+"`")
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// optional returns the fields that no grant of a vendor needs, separated by commas.
func optional(p *definition.Provider) string {
	var names []string
	for name, field := range p.Definition.Fields {
		isNeeded := slices.ContainsFunc(p.Grants, func(g definition.Grant) bool { return slices.Contains(g.Needs, name) })
		if !isNeeded && !field.Required || field.Default != "" {
			names = append(names, "`"+name+"`")
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// rotated returns the secrets that the engine can replace at a vendor, separated by commas.
func rotated(p *definition.Provider) string {
	var names []string
	for _, name := range p.RotatedSecrets() {
		names = append(names, "`"+name+"`")
	}
	return strings.Join(names, ", ")
}
