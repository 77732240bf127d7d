package tokenbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/internal/subject"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A role is a narrower view of a credential.
type role struct {
	storage.Format

	// Config is the name of the credential. Scope is the scope of the role's tokens; if empty, the
	// credential's own.
	Config string   `json:"config"`
	Scope  []string `json:"scope,omitempty"`

	// Fields are the values of fields of the credential for the role's tokens. A text may be a template of
	// the reader's identity. AllowedParams are the fields that readers may set, within that.
	Fields        map[string]any `json:"fields,omitempty"`
	AllowedParams []string       `json:"allowed_params,omitempty"`

	// TTL is the maximum lease and MinTTL the minimum remaining lifetime of a token, in seconds.
	// Zero means no limit.
	TTL    provider.Seconds `json:"ttl,omitempty"`
	MinTTL provider.Seconds `json:"min_ttl,omitempty"`

	// Dedicated is whether each read gets its own token, which is revoked with its lease.
	// MaxLeases is the maximum number of tokens leased at once; zero means no limit. MaxExchanges
	// is the maximum number of exchanges within the lifetime of one token; zero means the default.
	Dedicated    bool `json:"dedicated,omitempty"`
	MaxLeases    int  `json:"max_leases,omitempty"`
	MaxExchanges int  `json:"max_exchanges,omitempty"`

	// Bounds are what the role requires of a caller's token at exchange/.
	Bounds subject.Bounds `json:"bounds,omitzero"`

	// Leases is the part of the storage key that the tokens counting against MaxLeases share. It
	// changes when an operator writes forget_leases.
	Leases string `json:"leases,omitempty"`

	scope       string // the key of Scope and Fields, for the broker
	isTemplated bool   // whether a value of Fields is a template
}

// updatedRole returns the role after a write. It does not store it.
func (b *backend) updatedRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*role, error) {
	name := d.Get("name").(string)
	stored, err := getRole(ctx, req.Storage, name)
	switch {
	case err != nil:
		return nil, err
	case stored == nil && req.Operation == logical.PatchOperation:
		return nil, &credential.NotFoundError{Path: apipath.Role(name), What: "role"}
	}
	if err := credential.CheckConflict(operationOf(req), apipath.Role(name), stored != nil); err != nil {
		return nil, err
	}
	next := role{}
	if stored != nil {
		next = *stored
	}
	all, err := b.roleSchema(ctx, req, &next)
	if err != nil {
		return nil, err
	}
	d = &framework.FieldData{Raw: d.Raw, Schema: all}
	fields, err := givenFields(d)
	if err != nil {
		return nil, err
	}
	for field := range fields { // a policy may pin each
		if err := checkSpace(field, d.Raw[field]); err != nil {
			return nil, provider.Errorf(provider.Invalid, "%s", err)
		}
	}
	next.update(fields, operationOf(req))
	if forget, _ := d.Get("forget_leases").(bool); forget || next.Dedicated && next.Leases == "" {
		if next.Leases, err = uuid.GenerateUUID(); err != nil {
			return nil, err
		}
	}
	return next.loaded(), next.check(d)
}

// update sets the given fields; nil clears a field.
func (r *role) update(fields map[string]any, op credential.Operation) {
	r.Fields = maps.Clone(r.Fields)
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
			r.Scope = textsOf(value)
		case "allowed_params":
			r.AllowedParams = textsOf(value)
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
		case "forget_leases":
		case "bound_issuer", "bound_audiences", "bound_jwks_url":
			r.setBound(field, value)
		default:
			r.setField(field, value, op)
		}
	}
}

// exchanges returns the maximum number of exchanges of a dedicated role within the lifetime of one
// token. The default allows for Vault Agent, which reads again after 85 to 95 % of a lease, and for
// a deployment that replaces all readers.
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

// check returns an error for fields that contradict each other.
func (r *role) check(d *framework.FieldData) error {
	if r.Config == "" {
		return provider.Errorf(provider.Invalid, "config: must be the name of a credential")
	}
	if r.TTL > 0 && r.MinTTL > r.TTL {
		return provider.Errorf(provider.Invalid, "min_ttl: must be at most the role's ttl of %s", r.TTL.Duration())
	}
	if err := r.Bounds.Check(); err != nil {
		return err
	}
	switch {
	case r.MaxLeases < 0:
		return provider.Errorf(provider.Invalid, "max_leases: must not be negative")
	case r.MaxLeases > 0 && !r.Dedicated:
		return provider.Errorf(provider.Invalid, "max_leases: requires dedicated=true")
	case r.MaxExchanges < 0:
		return provider.Errorf(provider.Invalid, "max_exchanges: must not be negative")
	case r.MaxExchanges > 0 && !r.Dedicated:
		return provider.Errorf(provider.Invalid, "max_exchanges: requires dedicated=true")
	case d.Raw["forget_leases"] != nil && !r.Dedicated:
		return provider.Errorf(provider.Invalid, "forget_leases: requires dedicated=true")
	}
	return nil
}

// checkRole returns an error for a role that could not be read: its name is taken by a credential, or
// its credential does not exist, does not have its scope or cannot issue dedicated tokens.
func (b *backend) checkRole(ctx context.Context, s logical.Storage, name string, r *role) (warnings []string, err error) {
	switch vendor, err := b.store.VendorOf(ctx, s, name); {
	case err != nil:
		return nil, err
	case vendor != "":
		return nil, provider.Errorf(provider.Invalid, "name: %q is taken by %s; choose another name", name, apipath.Credential(vendor, name))
	}
	c, err := b.store.Credential(ctx, s, r.Config)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, provider.Errorf(provider.Invalid, "config: no credential named %s; create it at config/<vendor>/%s first", provider.Quote(r.Config), provider.List([]string{r.Config}))
	}
	narrowing, err := b.narrowingFields(ctx, s, r.Config)
	if err != nil {
		return nil, err
	}
	if err := r.checkParams(narrowing); err != nil {
		return nil, err
	}
	if err := r.checkNarrowing(c); err != nil || !r.Dedicated {
		return nil, err
	}
	if r.isTemplated {
		return nil, provider.Errorf(provider.Invalid, "dedicated: a role with a template by identity has a token for each reader already; omit dedicated")
	}
	revokes, err := b.broker.Dedicable(ctx, s, c)
	var invalid *provider.Error
	switch {
	case errors.As(err, &invalid):
		return nil, provider.Errorf(invalid.Kind, "dedicated: %s", invalid.Reason)
	case err != nil:
		return nil, err
	case !revokes:
		warnings = append(warnings, "the vendor cannot revoke tokens, or its revocation endpoint is unknown: a token stays valid until it expires, also if its lease ends before")
	}
	return warnings, nil
}

// Check implements storage.Entry.
func (r *role) Check() error {
	if r.Config == "" || min(r.TTL, r.MinTTL) < 0 || min(r.MaxLeases, r.MaxExchanges) < 0 || strings.Contains(r.Leases, "/") {
		return errors.New("role with invalid fields")
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

// loaded sets the fields that are not stored, and returns the role.
func (r *role) loaded() *role {
	r.scope, r.isTemplated = r.narrowing().Key(), hasTemplate(r.Fields)
	return r
}

// errUnknown means that a name is neither a role nor a credential.
var errUnknown = errors.New("no such role or credential")

// A roleCache caches the role of each name, so that a cached read does not access storage. The name
// of a credential maps to a role without restrictions. It is safe for concurrent use.
type roleCache struct {
	mu     sync.RWMutex
	writes uint64 // counts calls of forget, so that put does not store a stale role
	roles  map[string]*role
}

// get returns the cached role of a name, or nil, and the count of writes to pass to put.
func (c *roleCache) get(name string) (r *role, asOf uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.roles[name], c.writes
}

// put caches a loaded role, unless a name was forgotten since asOf.
func (c *roleCache) put(name string, r *role, asOf uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writes == asOf {
		c.roles[name] = r
	}
}

// forget removes a name, so that the next read loads it again.
func (c *roleCache) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	delete(c.roles, name)
}

// roleFor returns the role of a name. The name of a credential is a role without restrictions.
// Its error is errUnknown if there is neither.
func (b *backend) roleFor(ctx context.Context, s logical.Storage, name string) (*role, error) {
	r, asOf := b.roles.get(name)
	if r != nil {
		return r, nil
	}
	r, err := getRole(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		vendor, err := b.store.VendorOf(ctx, s, name)
		if err != nil {
			return nil, err
		}
		if vendor == "" {
			return nil, errUnknown
		}
		r = &role{Config: name}
	}
	b.roles.put(name, r, asOf)
	return r, nil
}

// rolesUsing returns the roles that use a credential, by name.
func rolesUsing(ctx context.Context, s logical.Storage, config string) (map[string]*role, error) {
	names, err := storage.List(ctx, s, storage.RoleKey(""))
	if err != nil {
		return nil, err
	}
	roles := map[string]*role{}
	for _, name := range names {
		r, err := getRole(ctx, s, name)
		if err != nil && !storage.IsDamaged(err) { // a damaged role cannot be read and uses no credential
			return nil, err
		}
		if r != nil && r.Config == config {
			roles[name] = r
		}
	}
	return roles, nil
}

// checkUnused returns an error if roles use the credential.
func checkUnused(ctx context.Context, s logical.Storage, vendor, name string) error {
	roles, err := rolesUsing(ctx, s, name)
	var newer *storage.NewerFormatError
	switch {
	case errors.As(err, &newer):
		return credential.MayUse(newer, apipath.Credential(vendor, name))
	case err != nil || len(roles) == 0:
		return err
	}
	return provider.Errorf(provider.Invalid, "%s is used by %s; first delete these roles or give them another config",
		apipath.Credential(vendor, name), rolePaths(roles))
}

// roleWarnings returns a warning for each role that its credential no longer supports, because it
// lacks the role's scope or cannot revoke dedicated tokens.
func (b *backend) roleWarnings(ctx context.Context, s logical.Storage, name string) []string {
	roles, err := rolesUsing(ctx, s, name)
	if err != nil || len(roles) == 0 {
		return nil // the write is done; a read of the role reports the problem
	}
	c, err := b.store.Credential(ctx, s, name)
	if err != nil || c == nil {
		return nil
	}
	// Dedicable may call the vendor, and does so once for all roles.
	dedicable := sync.OnceValue(func() error { _, err := b.broker.Dedicable(ctx, s, c); return err })
	var warnings []string
	for _, roleName := range sortedKeys(roles) {
		err := roles[roleName].checkNarrowing(c)
		if err == nil && roles[roleName].Dedicated {
			err = dedicable()
		}
		if isInvalid(err) {
			warnings = append(warnings, fmt.Sprintf("%s can no longer be read: %s", apipath.Role(roleName), err))
		}
	}
	return warnings
}

// rolePaths returns the paths of roles, separated by commas.
func rolePaths(roles map[string]*role) string {
	paths := sortedKeys(roles)
	for i, name := range paths {
		paths[i] = apipath.Role(name)
	}
	return strings.Join(paths, ", ")
}
