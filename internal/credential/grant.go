package credential

import (
	"strings"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// grantField names the grant. Without it, the grant follows from the fields that are set.
const grantField = "grant_type"

// checkGrant refuses a write that changes the grant of a stored credential without naming it. An
// operator who may only change a refresh token could otherwise clear it, and readers would get
// the tokens of the application itself, which may have more rights than a user's. A write that
// gives a secret and clears none says enough: its writer has what the new grant exchanges.
func (st *Store) checkGrant(before *stored, next *broker.Credential, w Write) error {
	if w.Fields[grantField] != nil || fieldsOf(before.vendor)[grantField] == nil {
		return nil
	}
	cleared, given := w.secrets(before)
	if len(cleared) == 0 && len(given) > 0 {
		return nil
	}
	grant := grantOf(next)
	old, err := st.open(before)
	switch {
	case err != nil && len(cleared) == 0, err == nil && grantOf(old) == grant:
		return nil
	case len(cleared) == 0:
		return provider.Errorf(provider.Invalid, "%s: is missing, as this write changes the grant to %s; if that is what you want, give %s=%s with it", grantField, grant, grantField, grant)
	}
	return provider.Errorf(provider.Invalid, "%s: cannot be cleared alone, as that changes the grant to %s; if that is what you want, give %s=%s with it", strings.Join(cleared, ", "), grant, grantField, grant)
}

// secrets returns the secret fields that the write to a stored credential clears, and those that
// it gives.
func (w Write) secrets(before *stored) (cleared, given []string) {
	for _, field := range sortedKeys(w.Fields) {
		switch {
		case !IsSecret(fieldsOf(before.vendor)[field]):
		case w.Fields[field] != nil:
			given = append(given, field)
		case before.Fields[field] != nil:
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
