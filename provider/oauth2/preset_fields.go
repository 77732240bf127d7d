package oauth2

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider"
)

// placeholder is a Param's name where its value goes.
var placeholder = regexp.MustCompile(`\{([a-z_]+)\}`)

// Fields are the fields of a credential that the preset fills in, for what the operator
// says of their account (preset_params). Its errors are of kind Invalid.
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

// values are those of the placeholders that the preset holds.
func (p Preset) values(given map[string]string) (map[string]string, error) {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.ContainsFunc(p.Params, func(param Param) bool { return param.Name == name }) {
			return nil, provider.Errorf(provider.Invalid, "preset_params: the preset %s takes no %s; it takes %s", p.Name, provider.List([]string{name}), p.takes())
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
		case param.Default == "" && p.holds(param.Name):
			return nil, provider.Errorf(provider.Invalid, "preset_params: %s is missing, which the preset %s needs: %s; give it as preset_params=%s=...", param.Name, p.Name, param.Description, param.Name)
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

// templates are the texts that may hold placeholders.
func (p Preset) templates() []string {
	return append(slices.Collect(maps.Values(p.TokenParams)), p.TokenURL, p.RevocationURL, p.AssertionAudience)
}

func (p Preset) holds(param string) bool {
	return slices.ContainsFunc(p.templates(), func(template string) bool { return strings.Contains(template, "{"+param+"}") })
}

func fill(template string, values map[string]string) string {
	return placeholder.ReplaceAllStringFunc(template, func(name string) string { return values[name[1:len(name)-1]] })
}

// choice is what of an operator's fields decides what a preset has to add to them.
type choice struct {
	Preset           string            `json:"preset"`
	PresetParams     map[string]string `json:"preset_params"`
	GrantType        string            `json:"grant_type"`
	RefreshToken     string            `json:"refresh_token"`
	PrivateKey       string            `json:"private_key"`
	ClientSecret     string            `json:"client_secret"`
	AssertionSubject string            `json:"assertion_subject"`
	TokenURL         string            `json:"token_url"`
	Issuer           string            `json:"issuer"`
	TokenParams      map[string]string `json:"token_params"`
}

// Expand adds to an operator's fields (a JSON object) what their preset says, if there
// is one. What they set themselves stays; of token_params, name by name. Its errors are
// of kind Invalid.
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
			return nil, provider.Errorf(provider.Invalid, "preset_params: go with a preset alone")
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
	fields, err := p.apt(c, grant).Fields(c.PresetParams)
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

// urlField is the field that decides an operator's token URL where that is a preset's; "" if
// it is not, or if nothing decides it.
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

// grant is the one that the operator chose, by its name, by a refresh token or by a client
// secret where the preset's first is for a key; or the preset's first.
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
		return "", provider.Errorf(provider.Invalid, "grant_type: the preset %s is for %s; give one of these, or give token_url in place of the preset", p.Name, strings.Join(p.GrantTypes, ", "))
	case grant == "jwt_bearer" && p.AssertionSubjectRequired && c.AssertionSubject == "":
		return "", provider.Errorf(provider.Invalid, "assertion_subject: is missing, which the preset %s needs: whom to act for", p.Name)
	}
	return grant, nil
}

// apt is the preset without what does not go with the operator's choice.
func (p Preset) apt(c choice, grant string) Preset {
	p.dropped = p.templates()
	if c.TokenURL != "" || c.Issuer != "" {
		// Nor may tokens of that server be sent to another, to be revoked.
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
