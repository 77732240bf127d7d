package credential

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/provider"
)

// MaxDuration is the longest duration of a field, so that no arithmetic overflows.
const MaxDuration = 10 * 365 * 24 * time.Hour

const (
	defaultRequestTimeout = 10 * time.Second
	maxRequestTimeout     = time.Minute
)

// settingFields are those that decide neither who exchanges what, nor where, nor how long a token
// is believed.
var settingFields = []string{"description", "expires", "request_timeout", "keepalive_interval"}

// Fields returns the fields of a vendor's credentials.
func Fields(p provider.Provider) map[string]*framework.FieldSchema {
	fields := p.Fields()
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"description": {
			Type:         framework.TypeString,
			Description:  "What the credential is for and who answers for it, in at most 500 characters. It is read back and shown in the status: not a place for secrets.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Description"},
		},
		"expires": {
			Type:         framework.TypeString,
			Description:  "When the secret expires at the vendor, if you know: a date (2027-05-01, the start of that day in UTC) or a time in RFC 3339. Status, metrics, an event and an alert warn before it. Give the new date together with a new secret.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Expires"},
		},
		"request_timeout": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long one request to the vendor may take, from 1s to 1m.",
			Default:      int(defaultRequestTimeout.Seconds()),
			DisplayAttrs: &framework.DisplayAttributes{Name: "Request timeout"},
		},
		"ca_cert": {
			Type:         framework.TypeString,
			Description:  "The authorities to trust instead of the system's, in PEM: for a proxy that inspects TLS, or a private CA.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "file"},
		},
		"default_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "The lifetime to assume of a token where the vendor, the token and the vendor's documented rule are all silent, or the vendor states what is not a lifetime, such as 0.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Default TTL"},
		},
		"max_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "The longest lifetime to believe of a token, whatever the vendor states: for a vendor whose tokens expire earlier than it says. Default: none.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Maximum TTL"},
		},
		"keepalive_interval": {
			Type:         framework.TypeDurationSecond,
			Description:  "How often to exchange a credential that expires from disuse, though nobody reads it: a day, or half the time after which it expires if that is less. 0 turns it off.",
			Default:      int(defaultKeepalive.Seconds()),
			DisplayAttrs: &framework.DisplayAttributes{Name: "Keepalive interval"},
		},
	})
	if fields["private_key"] != nil { // the vendor's package gets the key, wherever it is from
		maps.Copy(fields, map[string]*framework.FieldSchema{
			"private_key_source": {
				Type:          framework.TypeString,
				Description:   "Where the private key comes from, if it is not given as private_key: generated is a key pair of keypair/<name>, whose private half never leaves Vault.",
				AllowedValues: []any{generated},
				DisplayAttrs:  &framework.DisplayAttributes{Name: "Private key source"},
			},
			"keypair": {
				Type:         framework.TypeString,
				Description:  "The name of the generated key pair. Default: the credential's own.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Key pair"},
			},
		})
	}
	return fields
}

// schemas are the fields of each vendor's credentials, by the vendor's name. They are the same in
// every mount, and never changed.
var schemas sync.Map

// fieldsOf returns Fields, which must not be changed.
func fieldsOf(p provider.Provider) map[string]*framework.FieldSchema {
	if fields, ok := schemas.Load(p.Name()); ok {
		return fields.(map[string]*framework.FieldSchema)
	}
	fields, _ := schemas.LoadOrStore(p.Name(), Fields(p))
	return fields.(map[string]*framework.FieldSchema)
}

// IsSecret reports whether a field must not be read back.
func IsSecret(schema *framework.FieldSchema) bool {
	return schema != nil && schema.DisplayAttrs != nil && schema.DisplayAttrs.Sensitive
}

// secretsOf returns the secrets in the fields of a credential.
func secretsOf(p provider.Provider, fields map[string]any) []string {
	var secrets []string
	for name, schema := range fieldsOf(p) {
		if secret, ok := fields[name].(string); ok && IsSecret(schema) {
			secrets = append(secrets, secret)
		}
	}
	return secrets
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
