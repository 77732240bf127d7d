package credential

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/internal/schedule"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

// MaxDuration is the longest duration that a field may hold. It keeps arithmetic from overflowing.
const MaxDuration = 10 * 365 * 24 * time.Hour

const (
	defaultMaxVariants = 1000
	maxMaxVariants     = 1000000

	defaultRequestTimeout = 10 * time.Second
	maxRequestTimeout     = time.Minute
)

// fieldsWithoutExchange are the fields that affect neither an exchange nor the lifetime of its token.
var fieldsWithoutExchange = append([]string{"description", "expires", "request_timeout", "keepalive_interval", "max_variants"}, rotationFields...)

// newFieldSchemas returns the fields of a vendor's credentials.
func newFieldSchemas(p provider.Provider) map[string]*framework.FieldSchema {
	fields := p.Fields()
	maps.Copy(fields, CommonSchemas())
	if fields["private_key"] != nil { // a vendor that takes a key can use a generated one
		maps.Copy(fields, keySchemas())
	}
	if fields["client_id"] != nil {
		fields[clientField] = clientSchema()
	}
	return fields
}

// CommonSchemas returns the fields that the credentials of all vendors have.
func CommonSchemas() map[string]*framework.FieldSchema {
	fields := schedule.FieldSchemas("the secret at the vendor, where the vendor has an API for it")
	fields[graceField] = &framework.FieldSchema{
		Type:         framework.TypeDurationSecond,
		Description:  "How long the former secret stays valid at the vendor after a rotation, at least 1h. Default: 24h, or half of rotation_period if that is less.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Rotation grace"},
	}
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"description": {
			Type:         framework.TypeString,
			Description:  "Purpose and owner of the credential, at most 500 characters. Config and status reads return it; do not put secrets here.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Description"},
		},
		"expires": {
			Type:         framework.TypeString,
			Description:  "When the secret expires at the vendor, if known: a date (2027-05-01, the start of that day in UTC) or an RFC 3339 time. Default: for a refresh token whose vendor documents a lifetime, that lifetime after its last write, or after the consent that yielded it. Status, metrics, an event and an alert warn before it. Update it together with the secret. A consent removes a date that is less than 14 days away or has passed, as it is that of the former refresh token.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Expires"},
		},
		"request_timeout": {
			Type:         framework.TypeDurationSecond,
			Description:  "Timeout of one request to the vendor, from 1s to 1m.",
			Default:      int(defaultRequestTimeout.Seconds()),
			DisplayAttrs: &framework.DisplayAttributes{Name: "Request timeout"},
		},
		"ca_cert": {
			Type:         framework.TypeString,
			Description:  "Certificate authorities to trust instead of the system's, in PEM, for a private CA or a proxy that inspects TLS.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "file"},
		},
		"proxy_url": {
			Type:         framework.TypeString,
			Description:  "Proxy for the requests to the vendor, such as http://proxy.example.com:3128. Default: that of the server's environment (HTTPS_PROXY).",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Proxy URL"},
		},
		"default_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "Token lifetime to assume if neither the vendor, the token nor a documented rule of the vendor states one, or if the stated value is not a lifetime, such as 0.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Default TTL"},
		},
		"max_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "Maximum token lifetime, even if the vendor states a longer one. Set it for a vendor whose tokens expire earlier than stated. Default: no limit.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Maximum TTL"},
		},
		"max_variants": {
			Type:         framework.TypeInt,
			Description:  "Maximum number of narrower tokens that are cached at a time: one for each scope, audience or other value that roles and readers ask for, and for each reader where a role depends on the reader. A value that a role itself has is never refused for it.",
			Default:      defaultMaxVariants,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Maximum variants"},
		},
		"keepalive_interval": {
			Type:         framework.TypeDurationSecond,
			Description:  "How often to exchange a credential that expires when unused, even without reads. Default: 24h, or half the time to that expiry if that is less. 0 disables it.",
			Default:      int(defaultKeepalive.Seconds()),
			DisplayAttrs: &framework.DisplayAttributes{Name: "Keepalive interval"},
		},
	})
	return fields
}

// keySchemas returns the fields of a credential that can use a generated key pair.
func keySchemas() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"private_key_source": {
			Type:          framework.TypeString,
			Description:   "Source of the private key, instead of private_key. The only value is generated: use the generated key pair that keypair names, whose private key never leaves Vault.",
			AllowedValues: []any{generated},
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Private key source"},
		},
		"keypair": {
			Type:         framework.TypeString,
			Description:  "Name of the generated key pair. Needs private_key_source=generated. Default: the credential's name.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Key pair"},
		},
	}
}

// fieldSchemas caches the result of FieldSchemas by vendor whose exchange is code. Every load
// of a credential needs it. The schemas of paths are cached apart: they have fields that are not
// stored, and other descriptions.
var fieldSchemas sync.Map

// FieldSchemas returns the fields of a vendor's credentials. Callers must not change them.
func FieldSchemas(p provider.Provider) map[string]*framework.FieldSchema {
	if defined, isDefined := p.(*definition.Provider); isDefined {
		return defined.WithCommon(func() map[string]*framework.FieldSchema { return newFieldSchemas(p) })
	}
	if fields, ok := fieldSchemas.Load(p); ok {
		return fields.(map[string]*framework.FieldSchema)
	}
	fields, _ := fieldSchemas.LoadOrStore(p, newFieldSchemas(p))
	return fields.(map[string]*framework.FieldSchema)
}

// IsSecret reports whether a field is write-only.
func IsSecret(schema *framework.FieldSchema) bool {
	return schema != nil && schema.DisplayAttrs != nil && schema.DisplayAttrs.Sensitive
}

// secretsOf returns the values of the secret fields of a credential.
func secretsOf(p provider.Provider, fields map[string]any) []string {
	var secrets []string
	for name, schema := range FieldSchemas(p) {
		if secret, ok := fields[name].(string); ok && IsSecret(schema) {
			secrets = append(secrets, secret)
		}
	}
	return secrets
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
