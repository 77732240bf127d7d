package tokenbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A role is a narrower view of a credential.
type role struct {
	storage.Format

	// Config is the credential's name, and Scope what its tokens are to be for; empty
	// is the credential's own scope.
	Config string   `json:"config"`
	Scope  []string `json:"scope,omitempty"`

	// TTL is the longest lease, in seconds, and MinTTL what a reader is to have at
	// least; zero is no limit.
	TTL    provider.Seconds `json:"ttl,omitempty"`
	MinTTL provider.Seconds `json:"min_ttl,omitempty"`

	// Dedicated is whether each read has a token of its own, which dies with its lease,
	// and MaxLeases how many may be leased at once; zero is no limit. MaxExchanges is how
	// many may be exchanged within the lifetime of one; zero is the default.
	Dedicated    bool `json:"dedicated,omitempty"`
	MaxLeases    int  `json:"max_leases,omitempty"`
	MaxExchanges int  `json:"max_exchanges,omitempty"`

	// Leases is the part of the storage keys of the tokens that count against MaxLeases: those
	// that were leased since the role was created, or since an operator had them forgotten.
	Leases string `json:"leases,omitempty"`

	scope string // as the broker has it
}

// amendRole returns the role that a write makes of the stored one, if there is one.
func amendRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*role, error) {
	name := d.Get("name").(string)
	stored, err := getRole(ctx, req.Storage, name)
	switch {
	case err != nil:
		return nil, err
	case stored == nil && req.Operation == logical.PatchOperation:
		return nil, &credential.NotFoundError{Path: rolesPrefix + name, What: "role"}
	}
	if err := credential.CheckConflict(operationOf(req), rolesPrefix+name, stored != nil); err != nil {
		return nil, err
	}
	next := role{}
	if stored != nil {
		next = *stored
	}
	fields, err := givenFields(d)
	if err != nil {
		return nil, err
	}
	if err := checkSpace("scope", d.Raw["scope"]); err != nil {
		return nil, provider.Errorf(provider.Invalid, "%s", err)
	}
	next.update(fields)
	if forget, _ := d.Get("forget_leases").(bool); forget || next.Dedicated && next.Leases == "" {
		if next.Leases, err = uuid.GenerateUUID(); err != nil {
			return nil, err
		}
	}
	return next.loaded(), next.check(d)
}

// update sets the fields that a write gives; nil clears one.
func (r *role) update(fields map[string]any) {
	number := func(value any) int64 {
		n, _ := value.(json.Number)
		i, _ := n.Int64()
		return i
	}
	for field, value := range fields {
		switch field {
		case "config":
			r.Config, _ = value.(string)
		case "scope":
			r.Scope = nil
			list, _ := value.([]any)
			for _, word := range list {
				r.Scope = append(r.Scope, word.(string))
			}
		case "ttl":
			r.TTL = provider.Seconds(number(value))
		case "min_ttl":
			r.MinTTL = provider.Seconds(number(value))
		case "dedicated":
			r.Dedicated, _ = value.(bool)
		case "max_leases":
			r.MaxLeases = int(number(value))
		case "max_exchanges":
			r.MaxExchanges = int(number(value))
		}
	}
}

// exchanges are how many tokens of a dedicated role may be exchanged within the lifetime of
// one. Agent reads again after 85 to 95 % of a lease, and a deployment replaces all readers.
func (r *role) exchanges() int {
	switch {
	case r.MaxExchanges > 0:
		return r.MaxExchanges
	case r.MaxLeases > 0:
		return max(minExchanges, exchangesPerLease*r.MaxLeases)
	}
	return defaultExchanges
}

const (
	minExchanges      = 10
	exchangesPerLease = 4
	defaultExchanges  = 100
)

// check refuses what contradicts itself.
func (r *role) check(d *framework.FieldData) error {
	if r.Config == "" {
		return provider.Errorf(provider.Invalid, "config: is missing; give the name of a credential")
	}
	if r.TTL > 0 && r.MinTTL > r.TTL {
		return provider.Errorf(provider.Invalid, "min_ttl: %s is more than the role's ttl of %s, which no lease is longer than", r.MinTTL.Duration(), r.TTL.Duration())
	}
	switch {
	case r.MaxLeases < 0:
		return provider.Errorf(provider.Invalid, "max_leases: must not be negative")
	case r.MaxLeases > 0 && !r.Dedicated:
		return provider.Errorf(provider.Invalid, "max_leases: goes with dedicated=true alone, as other leases cost the vendor nothing")
	case r.MaxExchanges < 0:
		return provider.Errorf(provider.Invalid, "max_exchanges: must not be negative")
	case r.MaxExchanges > 0 && !r.Dedicated:
		return provider.Errorf(provider.Invalid, "max_exchanges: needs dedicated=true, as the readers of other roles share exchanges")
	case d.Raw["forget_leases"] != nil && !r.Dedicated:
		return provider.Errorf(provider.Invalid, "forget_leases: needs dedicated=true, as other leases are not counted")
	}
	return nil
}

// checkRole refuses a role that nobody could read.
func (b *backend) checkRole(ctx context.Context, s logical.Storage, name string, r *role) error {
	switch vendor, err := b.store.VendorOf(ctx, s, name); {
	case err != nil:
		return err
	case vendor != "":
		return provider.Errorf(provider.Invalid, "name: %q is the name of %s; a role needs one of its own", name, credential.Path(vendor, name))
	}
	c, err := b.store.Credential(ctx, s, r.Config)
	if err != nil {
		return err
	}
	if c == nil {
		return provider.Errorf(provider.Invalid, "config: %s is no credential; write it to config/<provider>/%s first", provider.Quote(r.Config), provider.List([]string{r.Config}))
	}
	if err := r.narrows(c); err != nil || !r.Dedicated {
		return err
	}
	err = b.broker.Revocable(ctx, s, r.Config)
	var invalid *provider.Error
	if errors.As(err, &invalid) {
		return provider.Errorf(invalid.Kind, "dedicated: %s", invalid.Reason)
	}
	return err
}

// narrows refuses a scope that the credential does not have.
func (r *role) narrows(c *broker.Credential) error {
	if len(r.Scope) == 0 {
		return nil
	}
	_, err := c.Vendor.Narrow(r.Scope)
	return err
}

// Check is for storage.Get.
func (r *role) Check() error {
	if r.Config == "" || min(r.TTL, r.MinTTL) < 0 || min(r.MaxLeases, r.MaxExchanges) < 0 || strings.Contains(r.Leases, "/") {
		return errors.New("a role that cannot be")
	}
	return nil
}

func getRole(ctx context.Context, s logical.Storage, name string) (*role, error) {
	r, err := storage.Get[role](ctx, s, storage.RoleKey(name), "delete the role and write it again")
	if err != nil || r == nil {
		return nil, err
	}
	return r.loaded(), nil
}

// loaded completes a role that was decoded.
func (r *role) loaded() *role {
	r.scope = provider.JoinScope(r.Scope)
	return r
}

// rolesOf are the roles that use a credential, by name.
func rolesOf(ctx context.Context, s logical.Storage, config string) (map[string]*role, error) {
	names, err := storage.List(ctx, s, storage.RoleKey(""))
	if err != nil {
		return nil, err
	}
	roles := map[string]*role{}
	for _, name := range names {
		r, err := getRole(ctx, s, name)
		if err != nil && !storage.IsDamaged(err) { // one that is can be read by nobody, and uses nothing
			return nil, err
		}
		if r != nil && r.Config == config {
			roles[name] = r
		}
	}
	return roles, nil
}

// checkUnused refuses to take a credential away from roles.
func checkUnused(ctx context.Context, s logical.Storage, vendor, name string) error {
	roles, err := rolesOf(ctx, s, name)
	var newer *storage.NewerFormatError
	switch {
	case errors.As(err, &newer):
		return credential.MayUse(newer, credential.Path(vendor, name))
	case err != nil || len(roles) == 0:
		return err
	}
	return provider.Errorf(provider.Invalid, "%s is used by roles: delete %s first, or give them another config",
		credential.Path(vendor, name), paths(roles))
}

// outgrown warns of the roles that a credential does not do for any more: it has not their
// scope, or cannot revoke their tokens.
func (b *backend) outgrown(ctx context.Context, s logical.Storage, name string) []string {
	roles, err := rolesOf(ctx, s, name)
	if err != nil || len(roles) == 0 {
		return nil // what was written stands, and each role says so itself
	}
	c, err := b.store.Credential(ctx, s, name)
	if err != nil || c == nil {
		return nil
	}
	// It may call the vendor, which says nothing of a role if it is unavailable.
	revocable := sync.OnceValue(func() error { return b.broker.Revocable(ctx, s, name) })
	var warnings []string
	for _, roleName := range sortedKeys(roles) {
		err := roles[roleName].narrows(c)
		if err == nil && roles[roleName].Dedicated {
			err = revocable()
		}
		if isInvalid(err) {
			warnings = append(warnings, fmt.Sprintf("%s%s can no longer be read: %s", rolesPrefix, roleName, err))
		}
	}
	return warnings
}

// paths are where roles are written.
func paths(roles map[string]*role) string {
	return "roles/" + strings.Join(sortedKeys(roles), ", roles/")
}
