package definition

import (
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Provider exchanges the credentials of a vendor that a definition describes. It implements
// provider.Provider.
type Provider struct {
	*Definition
	schemas func() map[string]*framework.FieldSchema

	all     sync.Once
	withAll map[string]*framework.FieldSchema
}

// WithCommon returns what build returns, the fields and those that every credential has. It calls build once, so
// that the fields of a definition take memory only as long as the definition does.
func (p *Provider) WithCommon(build func() map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	p.all.Do(func() { p.withAll = build() })
	return p.withAll
}

var _ provider.Provider = (*Provider)(nil)

// NewProvider returns the provider of a parsed definition.
func NewProvider(d *Definition) *Provider {
	return &Provider{Definition: d, schemas: sync.OnceValue(d.schemas)}
}

// Name returns the name of the vendor.
func (p *Provider) Name() string { return p.Definition.Name }

// Summary returns the title.
func (p *Provider) Summary() string { return p.Title }

// About returns what the definition says of the vendor.
func (p *Provider) About() provider.About {
	return provider.About{Notes: p.Notes, Docs: p.Docs, Evidence: p.Evidence, GrantTypes: p.GrantTypes()}
}

// Fields returns the fields, and grant_type if there is a choice.
func (p *Provider) Fields() map[string]*framework.FieldSchema { return maps.Clone(p.schemas()) }

// RoleFields implements provider.Narrowable.
func (p *Provider) RoleFields() map[string]provider.RoleField {
	fields := map[string]provider.RoleField{}
	for name, f := range p.fields {
		if f.Narrows {
			fields[name] = provider.RoleField{}
		}
	}
	return fields
}

// Example returns the fields of the first grant.
func (p *Provider) Example() string {
	g := p.compiled[0]
	var arguments []string
	for _, name := range sortedKeys(p.fields) {
		f := p.fields[name]
		if !f.Required && !contains(g.given.Needs, name) || f.Default != "" {
			continue
		}
		arguments = append(arguments, name+"="+f.example())
	}
	if len(arguments) == 0 {
		return "description=..."
	}
	return strings.Join(arguments, " ")
}

func (f *field) example() string {
	switch {
	case f.Type == "private_key":
		return "@key.pem"
	case f.Type == "certificate":
		return "@certificate.pem"
	case f.Example != "":
		return f.Example
	case len(f.Allowed) > 0:
		return f.Allowed[0]
	}
	return "..."
}

// schemas returns the fields for Vault.
func (d *Definition) schemas() map[string]*framework.FieldSchema {
	schemas := map[string]*framework.FieldSchema{}
	for name, f := range d.fields {
		schemas[name] = f.schema()
	}
	if scope := schemas["scope"]; scope != nil && len(d.Scope.Default) > 0 {
		scope.Description += " Default: " + strings.Join(d.Scope.Default, ", ") + "."
	}
	for name, f := range d.fields {
		if grants := d.GrantsNeeding(name); !f.Required && len(grants) > 0 && len(d.compiled) > 1 {
			schemas[name].Description += fmt.Sprintf(" Needed for grant_type=%s.", strings.Join(grants, ", "))
		}
	}
	if len(d.compiled) > 1 {
		schemas["grant_type"] = &framework.FieldSchema{
			Type:          framework.TypeString,
			Description:   "The grant type. Default: the first of these whose fields are set.",
			AllowedValues: provider.Allowed(d.GrantTypes()),
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Grant type"},
		}
	}
	return schemas
}

// Text returns the definition as it was written.
func (d *Definition) Text() []byte { return d.text }

// AddAPI adds to data how the vendor's API takes a token of a grant type ("" for one without an api of its
// own), with templates in place of the fields' values.
func (d *Definition) AddAPI(data map[string]any, grantType string) {
	given := d.API
	for _, g := range d.Grants {
		if g.GrantType == grantType && g.API != nil {
			given = *g.API
		}
	}
	api := provider.API{Header: given.Header, Scheme: given.Scheme, Query: given.Query, Headers: given.Headers}
	api.AddTo(data, &provider.Token{TokenType: "Bearer", AccessToken: "<access_token>"})
	if api.Query != "" {
		data["query_parameter"] = api.Query + "=<access_token>" // not escaped
	}
}

// GrantsWithAPI returns the grant types whose tokens the API takes in a way of their own.
func (d *Definition) GrantsWithAPI() []string {
	var grants []string
	for _, g := range d.Grants {
		if g.API != nil {
			grants = append(grants, g.GrantType)
		}
	}
	return grants
}

// GrantTypes returns the grant types, in the order of the definition.
func (d *Definition) GrantTypes() []string {
	types := make([]string, len(d.compiled))
	for i, g := range d.compiled {
		types[i] = g.given.GrantType
	}
	return types
}

// GrantsNeeding returns the grant types that need a field.
func (d *Definition) GrantsNeeding(field string) []string {
	var grants []string
	for _, g := range d.compiled {
		if contains(g.given.Needs, field) {
			grants = append(grants, g.given.GrantType)
		}
	}
	return grants
}
