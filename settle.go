package tokenbroker

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

// isOfSettings reports whether a write gives only fields that decide neither who exchanges
// what, where, nor how long a token is believed. A vendor need not be asked about them.
// verify=true asks it all the same.
func isOfSettings(d *framework.FieldData) bool {
	notes, given := noteFields(), false
	for field, value := range d.Raw {
		switch {
		case field == "name":
		case field == "verify":
			if value != nil && d.Get(field).(bool) {
				return false
			}
		case notes[field] != nil || field == "request_timeout" || field == "keepalive_interval":
			given = true
		default:
			return false
		}
	}
	return given
}

// settle stores an entry that differs from the stored one only in such fields. It keeps the
// generation, and so what is known of the credential. Without an error of storage it
// returns broker.ErrSettled.
func (c *configEntry) settle(ctx context.Context, s logical.Storage, providerName, name string, stored *configEntry) error {
	c.Generation, c.WriteTime = stored.Generation, stored.WriteTime
	c.Verified, c.SentTo = stored.Verified, stored.SentTo
	if err := putConfig(ctx, s, providerName, name, c); err != nil {
		return err
	}
	return broker.ErrSettled
}
