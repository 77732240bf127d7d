package tokenbroker

import (
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// grantField names the grant. Without it the grant follows from the fields that are set.
const grantField = "grant_type"

// refuseRegranted refuses a write that changes the grant of a stored credential without a
// word of it. Whoever may only change a refresh token could otherwise clear it, and readers
// would get the tokens of the application itself, which may have more rights than a user's.
// A write that gives a secret and clears none says enough: its writer has what the new
// grant exchanges.
func (b *backend) refuseRegranted(p provider.Provider, name string, stored *configEntry, next *broker.Credential, d *framework.FieldData) error {
	named, _ := d.Raw[grantField].(string)
	if stored == nil || strings.TrimSpace(named) != "" || d.Schema[grantField] == nil {
		return nil
	}
	cleared, given := stored.secretsOf(d)
	if len(cleared) == 0 && len(given) > 0 {
		return nil
	}
	grant := grantOf(next)
	before, err := b.open(p, name, stored)
	switch {
	case err != nil && len(cleared) == 0, err == nil && grantOf(before) == grant:
		return nil
	case len(cleared) == 0:
		return provider.Errorf(provider.Invalid, "%s: is missing, as this write changes the grant to %s; if that is what you want, give %s=%s with it", grantField, grant, grantField, grant)
	}
	field := strings.Join(cleared, ", ")
	return provider.Errorf(provider.Invalid, "%s: cannot be cleared alone, as that changes the grant to %s; if that is what you want, give %s=%s with it", field, grant, grantField, grant)
}

// secretsOf are the secret fields that a write to a stored credential clears, and those that
// it gives.
func (c *configEntry) secretsOf(d *framework.FieldData) (cleared, given []string) {
	for _, field := range sortedKeys(d.Raw) {
		if schema := d.Schema[field]; schema == nil || !isSecret(schema) {
			continue
		}
		text, _ := d.Raw[field].(string)
		switch {
		case strings.TrimSpace(text) != "":
			given = append(given, field)
		case c.Fields[field] != nil:
			cleared = append(cleared, field)
		}
	}
	return cleared, given
}

func grantOf(c *broker.Credential) string {
	if g, ok := c.Vendor.(provider.Granter); ok {
		return g.GrantName()
	}
	return ""
}
