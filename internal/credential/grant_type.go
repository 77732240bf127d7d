package credential

import (
	"strings"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// grantTypeField selects the grant type. If it is not set, the other fields determine the grant type.
const grantTypeField = "grant_type"

// checkGrantType returns an error if a write changes the grant type of a stored credential without
// setting grant_type. Otherwise an operator whose policy only allows writes to refresh_token could
// clear it, and readers would get the application's own tokens, which may have more rights than a
// user's. A write that gives a secret and clears none is allowed, as its writer holds the secret of
// the new grant type. opened is nil if the stored credential cannot be opened.
func (w WriteRequest) checkGrantType(stored *storedCredential, opened, next *broker.Credential) error {
	if w.Fields[grantTypeField] != nil || FieldSchemas(stored.vendor)[grantTypeField] == nil {
		return nil
	}
	cleared, given := w.secrets(stored)
	if len(cleared) == 0 && len(given) > 0 {
		return nil
	}
	grantType := grantTypeOf(next)
	switch {
	case opened == nil && len(cleared) == 0, opened != nil && grantTypeOf(opened) == grantType:
		return nil
	case len(cleared) == 0:
		return provider.Errorf(provider.Invalid, "%s: must be set, as this write changes the grant type to %s; to confirm, add %s=%s", grantTypeField, grantType, grantTypeField, grantType)
	}
	return provider.Errorf(provider.Invalid, "%s: clearing this changes the grant type to %s; to confirm, add %s=%s", strings.Join(cleared, ", "), grantType, grantTypeField, grantType)
}

// secrets returns the names of the secret fields that a write to a stored credential clears, and of
// those that it gives.
func (w WriteRequest) secrets(stored *storedCredential) (cleared, given []string) {
	for _, field := range sortedKeys(w.Fields) {
		switch {
		case !IsSecret(FieldSchemas(stored.vendor)[field]):
		case w.Fields[field] != nil:
			given = append(given, field)
		case stored.Fields[field] != nil:
			cleared = append(cleared, field)
		}
	}
	return cleared, given
}

func grantTypeOf(c *broker.Credential) string {
	if g, ok := c.Vendor.(provider.Granter); ok {
		return g.GrantTypeName()
	}
	return ""
}
