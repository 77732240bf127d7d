package oauth2

import (
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// checkPreset returns an error if an operator's fields cannot work at the vendor of their
// preset, which would reject them without naming the field. Its errors are of kind Invalid.
func (c *config) checkPreset() error {
	if c.Preset == "" {
		return nil
	}
	p, err := PresetNamed(c.Preset)
	if err != nil {
		return err
	}
	if err := p.checkAuthentication(*c); err != nil {
		return err
	}
	return p.checkScope(*c)
}

// checkAuthentication checks that a preset whose clients authenticate with a secret gets one.
// An operator's auth_style takes precedence.
func (p Preset) checkAuthentication(c config) error {
	switch {
	case !slices.Contains(exchange.SecretStyles, p.AuthStyle) || c.AuthStyle != "":
		return nil
	case c.PrivateKey != "":
		return provider.Errorf(provider.Invalid, "private_key: does not apply to the preset %s, which supports only a client_secret; set that instead", p.Name)
	case c.ClientSecret == "":
		return provider.Errorf(provider.Invalid, "client_secret: must be set, as the preset %s needs it", p.Name)
	}
	return nil
}

// checkScope checks the operator's scopes against ScopeSuffix, unless they go to another server.
func (p Preset) checkScope(c config) error {
	if p.ScopeSuffix == "" || c.TokenURL != "" || c.Issuer != "" {
		return nil
	}
	example := strings.Join(p.Scope, " ")
	for _, scope := range c.Scope {
		if !strings.HasSuffix(scope, p.ScopeSuffix) {
			return provider.Errorf(provider.Invalid, "scope: invalid scope %s for the preset %s; give the identifier of one API followed by %s, such as %s, and grant the permissions at the vendor",
				provider.Quote(scope), p.Name, p.ScopeSuffix, example)
		}
	}
	if len(c.Scope) > 1 {
		return provider.Errorf(provider.Invalid, "scope: the preset %s allows one scope, as a token is for one API; store a credential for each API", p.Name)
	}
	return nil
}
