package credential

import (
	"encoding/json"
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// withRoleFields returns a function that opens the credential with other values of fields that a role can
// set; nil if its vendor has none. given are the fields of the credential, and to is where it sends its
// secrets: a role cannot add to that. (Guarantee 13.)
func (c *storedCredential) withRoleFields(given map[string]any, settings provider.Settings, to Destinations, caCert string) broker.FieldsFunc {
	allowed := provider.RoleFieldsOf(c.vendor)
	if len(allowed) == 0 {
		return nil
	}
	return func(fields map[string]any) (provider.Credential, error) {
		all := maps.Clone(given)
		for _, name := range sortedKeys(fields) {
			field, isAllowed := allowed[name]
			if !isAllowed {
				return nil, provider.Errorf(provider.Invalid, "%s: a role of %s cannot set it (allowed: %s)", name, c.vendor.Name(), strings.Join(sortedKeys(allowed), ", "))
			}
			value, err := field.Narrowed(name, fields[name], given[name])
			if err != nil {
				return nil, err
			}
			all[name] = value
		}
		raw, err := json.Marshal(all)
		if err != nil {
			return nil, err
		}
		own := settings
		own.Fields = raw
		vendor, err := c.vendor.Open(own)
		if err != nil {
			return nil, c.keypairError(err)
		}
		if added := destinationsOf(vendor, caCert).beyond(to); len(added) > 0 {
			return nil, provider.Errorf(provider.Invalid, "%s: would send the credential's secrets to a new destination: %.300s", strings.Join(sortedKeys(fields), ", "), added)
		}
		return vendor, c.key.checkSubjects(c, vendor)
	}
}

// RoleSchemas returns the fields of a vendor's credentials that a role can set.
func RoleSchemas(p provider.Provider) map[string]*framework.FieldSchema {
	schemas := map[string]*framework.FieldSchema{}
	for name := range provider.RoleFieldsOf(p) {
		if schema := FieldSchemas(p)[name]; schema != nil {
			schemas[name] = schema
		}
	}
	return schemas
}

// roleFields returns the values of the fields that a role can set.
func roleFields(p provider.Provider, given map[string]any) map[string]any {
	fields := map[string]any{}
	for name := range provider.RoleFieldsOf(p) {
		if value := given[name]; value != nil {
			fields[name] = value
		}
	}
	return fields
}
