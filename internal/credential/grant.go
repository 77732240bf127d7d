package credential

import (
	"strings"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// grantField selects the grant explicitly. If it is not set, the other fields determine the grant.
const grantField = "grant_type"

// checkGrant returns an error if a write changes the grant of a stored credential without setting
// grant_type. Otherwise an operator whose policy only allows writes to refresh_token could clear it,
// and readers would get the application's own tokens, which may have more rights than a user's. A
// write that gives a secret and clears none is allowed, as its writer holds the secret of the new
// grant.
func (st *Store) checkGrant(before *storedCredential, next *broker.Credential, w Write) error {
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
		return provider.Errorf(provider.Invalid, "%s: must be set, as this write changes the grant to %s; to confirm, add %s=%s", grantField, grant, grantField, grant)
	}
	return provider.Errorf(provider.Invalid, "%s: clearing this changes the grant to %s; to confirm, add %s=%s", strings.Join(cleared, ", "), grant, grantField, grant)
}

// secrets returns the names of the secret fields that a write to a stored credential clears, and of
// those that it gives.
func (w Write) secrets(before *storedCredential) (cleared, given []string) {
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
		return g.GrantTypeName()
	}
	return ""
}
