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

// Filled returns the preset with the values of its parameters (preset_params) filled in. Its
// errors are of kind Invalid.
func (p Preset) Filled(params map[string]string) (Preset, error) {
	values, err := p.values(params)
	if err != nil {
		return Preset{}, err
	}
	p.TokenURL, p.RevocationURL, p.AssertionAudience = fill(p.TokenURL, values), fill(p.RevocationURL, values), fill(p.AssertionAudience, values)
	p.TokenParams = maps.Clone(p.TokenParams)
	for name, template := range p.TokenParams {
		p.TokenParams[name] = fill(template, values)
	}
	return p, nil
}

// fields returns the fields of a credential that a filled preset sets.
func (p Preset) fields() config {
	return config{
		GrantType:         p.GrantTypes[0],
		AuthStyle:         p.AuthStyle,
		TokenURL:          p.TokenURL,
		RevocationURL:     p.RevocationURL,
		TokenParams:       p.TokenParams,
		Scope:             slices.Clone(p.Scope),
		AssertionAudience: p.AssertionAudience,
		ScopeInAssertion:  p.ScopeInAssertion,
		IdleExpiry:        provider.Seconds(p.IdleExpiry),
		SingleToken:       p.SingleToken,
		TransientErrors:   slices.Clone(p.TransientErrors),
		DefaultTTL:        provider.Seconds(p.DefaultTTL),
	}
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

// expand decodes an operator's fields. It returns them as they are, and with those of their
// preset, if there is one. Fields that the operator set take precedence; token_params are merged
// by name. Its errors are of kind Invalid.
func expand(fields json.RawMessage) (own, all config, err error) {
	if err := provider.DecodeFields(fields, &own); err != nil {
		return own, all, err
	}
	if own.Preset == "" {
		if len(own.PresetParams) > 0 {
			err = provider.Errorf(provider.Invalid, "preset_params: applies only with a preset; set preset, or omit it")
		}
		return own, own, err
	}
	p, err := PresetNamed(own.Preset)
	if err != nil {
		return own, all, err
	}
	grant, err := p.grant(own)
	if err != nil {
		return own, all, err
	}
	filled, err := p.narrowed(own, grant).Filled(own.PresetParams)
	if err != nil {
		return own, all, err
	}
	all = filled.fields()
	all.GrantType = grant
	return own, all, provider.DecodeFields(fields, &all) // a map is merged
}

// urlField returns the field that an operator's token URL depends on if it is a preset's; ""
// if it is not, or if it is the same for all customers.
func (c *config) urlField() string {
	if c.TokenURL != "" || c.Issuer != "" {
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
func (p Preset) grant(c config) (string, error) {
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
func (p Preset) narrowed(c config, grant string) Preset {
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
