package oauth2

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider"
)

// placeholder matches the name of a Param in a template.
var placeholder = regexp.MustCompile(`\{([a-z_]+)\}`)

// Fields returns the fields of a credential that the preset sets, with the values of its
// parameters (preset_params) filled in. Its errors are of kind Invalid.
func (p Preset) Fields(params map[string]string) (map[string]any, error) {
	values, err := p.values(params)
	if err != nil {
		return nil, err
	}
	fields := map[string]any{"grant_type": p.GrantTypes[0]}
	for field, template := range map[string]string{
		"auth_style":         p.AuthStyle,
		"token_url":          p.TokenURL,
		"revocation_url":     p.RevocationURL,
		"assertion_audience": p.AssertionAudience,
	} {
		if template != "" {
			fields[field] = fill(template, values)
		}
	}
	if len(p.TokenParams) > 0 {
		filled := map[string]string{}
		for name, template := range p.TokenParams {
			filled[name] = fill(template, values)
		}
		fields["token_params"] = filled
	}
	if len(p.Scope) > 0 {
		fields["scope"] = slices.Clone(p.Scope)
	}
	if len(p.TransientErrors) > 0 {
		fields["transient_errors"] = slices.Clone(p.TransientErrors)
	}
	for field, period := range map[string]Period{"default_ttl": p.DefaultTTL, "idle_expiry": p.IdleExpiry} {
		if period != 0 {
			fields[field] = provider.Seconds(period)
		}
	}
	for field, quirk := range map[string]bool{"scope_in_assertion": p.ScopeInAssertion, "single_token": p.SingleToken} {
		if quirk {
			fields[field] = true
		}
	}
	return fields, nil
}

// values returns the values of the preset's parameters.
func (p Preset) values(given map[string]string) (map[string]string, error) {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.ContainsFunc(p.Params, func(param Param) bool { return param.Name == name }) {
			return nil, provider.Errorf(provider.Invalid, "preset_params: unknown parameter %s of the preset %s (allowed: %s)", provider.List([]string{name}), p.Name, p.takes())
		}
	}
	values := map[string]string{}
	for _, param := range p.Params {
		value, isGiven := given[param.Name]
		switch {
		case isGiven:
			var err error
			if value, err = p.value(param, value); err != nil {
				return nil, err
			}
		case param.Default == "" && p.hasPlaceholder(param.Name):
			return nil, provider.Errorf(provider.Invalid, "preset_params: the preset %s needs %s: %s; set preset_params=%s=...", p.Name, param.Name, param.Description, param.Name)
		default:
			value = param.Default
		}
		values[param.Name] = value
	}
	return values, nil
}

func (p Preset) takes() string {
	if len(p.Params) == 0 {
		return "none"
	}
	names := make([]string, len(p.Params))
	for i, param := range p.Params {
		names[i] = param.Name
	}
	return strings.Join(names, ", ")
}

// templates returns the texts that may contain placeholders.
func (p Preset) templates() []string {
	return append(slices.Collect(maps.Values(p.TokenParams)), p.TokenURL, p.RevocationURL, p.AssertionAudience)
}

func (p Preset) hasPlaceholder(param string) bool {
	return slices.ContainsFunc(p.templates(), func(template string) bool { return strings.Contains(template, "{"+param+"}") })
}

func fill(template string, values map[string]string) string {
	return placeholder.ReplaceAllStringFunc(template, func(name string) string { return values[name[1:len(name)-1]] })
}

// choice has the operator's fields that determine what a preset adds to them.
type choice struct {
	Preset           string            `json:"preset"`
	PresetParams     map[string]string `json:"preset_params"`
	GrantType        string            `json:"grant_type"`
	AuthStyle        string            `json:"auth_style"`
	Scope            []string          `json:"scope"`
	RefreshToken     string            `json:"refresh_token"`
	PrivateKey       string            `json:"private_key"`
	ClientSecret     string            `json:"client_secret"`
	AssertionSubject string            `json:"assertion_subject"`
	TokenURL         string            `json:"token_url"`
	Issuer           string            `json:"issuer"`
	TokenParams      map[string]string `json:"token_params"`
}

// Expand returns an operator's fields (a JSON object) with those of their preset, if there is
// one. Fields that the operator set take precedence; token_params are merged by name. Its
// errors are of kind Invalid.
func Expand(own json.RawMessage) (json.RawMessage, error) {
	var c choice
	var set map[string]any
	if err := provider.DecodeFields(own, &c); err != nil {
		return nil, err
	}
	if err := provider.DecodeFields(own, &set); err != nil {
		return nil, err
	}
	if c.Preset == "" {
		if len(c.PresetParams) > 0 {
			return nil, provider.Errorf(provider.Invalid, "preset_params: applies only with a preset; set preset, or omit it")
		}
		return own, nil
	}
	p, err := PresetNamed(c.Preset)
	if err != nil {
		return nil, err
	}
	grant, err := p.grant(c)
	if err != nil {
		return nil, err
	}
	fields, err := p.narrowed(c, grant).Fields(c.PresetParams)
	if err != nil {
		return nil, err
	}
	fields["grant_type"] = grant
	if params, isFilled := fields["token_params"].(map[string]string); isFilled {
		maps.Copy(params, c.TokenParams)
		delete(set, "token_params")
	}
	maps.Copy(fields, set)
	return json.Marshal(fields)
}

// urlField returns the field that an operator's token URL depends on if it is a preset's; ""
// if it is not, or if it is the same for all customers.
func urlField(own json.RawMessage) string {
	var c choice
	if provider.DecodeFields(own, &c) != nil || c.TokenURL != "" || c.Issuer != "" {
		return ""
	}
	if p, err := PresetNamed(c.Preset); err != nil || len(p.Params) == 0 {
		return ""
	}
	return "preset_params"
}

// grant returns the grant_type of an operator's fields: the one that is set, or the one that a
// refresh token or a client secret implies, or the preset's default. Its error, of kind
// Invalid, states that the preset does not support the grant or that it needs a subject.
func (p Preset) grant(c choice) (string, error) {
	grant := p.GrantTypes[0]
	switch {
	case c.GrantType != "":
		grant = c.GrantType
	case c.RefreshToken != "" && slices.Contains(p.GrantTypes, "refresh_token"):
		grant = "refresh_token"
	case c.ClientSecret != "" && c.PrivateKey == "" && c.AssertionSubject == "" && slices.Contains(p.GrantTypes, "client_credentials"):
		grant = "client_credentials"
	}
	switch {
	case !slices.Contains(p.GrantTypes, grant):
		return "", provider.Errorf(provider.Invalid, "grant_type: the preset %s supports only %s; use one of these, or set token_url instead of the preset", p.Name, strings.Join(p.GrantTypes, ", "))
	case grant == "jwt_bearer" && p.AssertionSubjectRequired && c.AssertionSubject == "":
		instead := ""
		if slices.Contains(p.GrantTypes, "client_credentials") {
			instead = "; or set client_secret instead of a private_key"
		}
		return "", provider.Errorf(provider.Invalid, "assertion_subject: must be set to the user to act for, as the preset %s needs it%s", p.Name, instead)
	}
	return grant, nil
}

// narrowed returns the preset without the settings that do not apply to the operator's fields.
func (p Preset) narrowed(c choice, grant string) Preset {
	p.dropped = p.templates()
	if c.TokenURL != "" || c.Issuer != "" {
		// Another server's tokens must not be sent to the preset's revocation endpoint.
		p.TokenURL, p.RevocationURL = "", ""
	}
	if grant != "refresh_token" {
		p.IdleExpiry = 0
	}
	if grant != "jwt_bearer" {
		p.ScopeInAssertion = false
		if c.PrivateKey == "" {
			p.AssertionAudience = ""
		}
	}
	return p
}
