package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

const accessTokenType = "access_token"

func (b *backend) pathCreds() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "creds/" + framework.GenericNameRegex("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "generate", OperationSuffix: "credentials"},
		Fields:       readFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:                    b.credsRead,
				Summary:                     "Read an access token, leased for as long as it is good.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: tokenFields()}},
				},
			},
		},
		HelpSynopsis:    "Read an access token by the name of a role or of a credential.",
		HelpDescription: credsHelpDescription,
	}}
}

// readFields are what a reader of a token may say.
func readFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		// The pattern admits no other than names. As a TypeNameString, it would be checked
		// a second time, by a regular expression that the framework compiles at each look.
		"name": {
			Type:         framework.TypeString,
			Description:  "The name of a role or of a credential.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
		},
		"min_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long the token must be good for at least, or it is exchanged for a fresher one, if that can help. A role's own min_ttl holds where it is longer.",
			Query:        true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Minimum TTL"},
		},
	}
}

// tokenFields are what a reader gets.
func tokenFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"access_token": {
			Type:         framework.TypeString,
			Description:  "The access token.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Access token", Sensitive: true},
		},
		"token_type": {
			Type:        framework.TypeString,
			Description: `How to send the token; with "Bearer", as Authorization: Bearer <access_token>.`,
			Required:    true,
		},
		"expire_time": {
			Type:        framework.TypeTime,
			Description: "When the token dies, by this server's clock, in UTC. The lease ends a little before.",
			Required:    true,
		},
		"provider": {
			Type:        framework.TypeString,
			Description: "The provider of the credential.",
			Required:    true,
		},
		"scope": {
			Type:        framework.TypeStringSlice,
			Description: "The scopes of the token, where they are known.",
		},
	}
}

// accessToken is the leased secret. It cannot be renewed: a token's life is the
// vendor's to decide, and a reader that comes back gets the next one.
func (b *backend) accessToken() *framework.Secret {
	return &framework.Secret{
		Type:   accessTokenType,
		Fields: tokenFields(),
		Revoke: b.credsRevoke,
	}
}

func (b *backend) credsRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	// Vault would cut the lease to the mount's maximum too, with a warning on each
	// read that tells the reader nothing.
	reading, err := b.read(ctx, req, d, limit{b.System().MaxLeaseTTL(), "the mount's maximum lease TTL", true})
	if err != nil {
		return failure(nameIn(d), err)
	}
	resp := b.Secret(accessTokenType).Response(tokenData(reading.IssuedToken), nil)
	resp.Secret.TTL = min(reading.TTL, reading.longest)
	internal := resp.Secret.InternalData
	internal["name"] = nameIn(d)
	if reading.lease != "" {
		internal["config"], internal["lease"] = reading.config, reading.lease
	}
	addWarnings(resp, reading.Warnings)
	return resp, nil
}

// nameIn is the name that the path has. The framework's own way to it converts what is a
// string already, at a cost that each read would bear.
func nameIn(d *framework.FieldData) string {
	name, _ := d.Raw["name"].(string)
	return name
}

// A limit is how long a reader may go by one reading at the most, and by what; lends is
// whether there is a lease.
type limit struct {
	ttl   time.Duration
	by    string
	lends bool
}

// reading is what a name yields.
type reading struct {
	*broker.IssuedToken
	config  string        // the credential
	lease   string        // where a dedicated token is stored; "" for a shared one
	longest time.Duration // how long the reader may go by it at the most, whatever the token
}

// read reads the token that a name stands for, and has that counted. What the reader has
// asked for in error, or has not waited for, has not failed.
func (b *backend) read(ctx context.Context, req *logical.Request, d *framework.FieldData, most limit) (reading, error) {
	got, err := b.obtain(ctx, req, d, most)
	switch {
	case err == nil:
		b.metrics.Read(got.Outcome)
	case !errors.Is(ctx.Err(), context.Canceled) && !isReaders(err):
		b.metrics.ReadFailed()
	}
	return got, err
}

// isReaders is whether a read was refused for what its reader asked for: an unknown name, bad
// input, or more dedicated tokens than its role allows.
func isReaders(err error) bool {
	var coded logical.HTTPCodedError
	return errors.Is(err, errUnknown) || isInvalid(err) || errors.As(err, &coded) && coded.Code() == http.StatusTooManyRequests
}

func (b *backend) obtain(ctx context.Context, req *logical.Request, d *framework.FieldData, most limit) (reading, error) {
	name := nameIn(d)
	r, err := b.role(ctx, req.Storage, name)
	if err != nil {
		return reading{}, err
	}
	if ttl := r.TTL.Duration(); ttl > 0 && ttl < most.ttl {
		most.ttl, most.by = ttl, "the role's ttl"
	}
	minTTL := r.MinTTL.Duration()
	if wanted, ok := d.GetOk("min_ttl"); ok {
		minTTL = max(minTTL, time.Duration(wanted.(int))*time.Second)
	}
	// No token makes a reading last longer than that.
	request := broker.ReadRequest{Scope: r.scope, MinTTL: min(minTTL, most.ttl)}
	got := reading{config: r.Config, longest: most.ttl}
	switch {
	case !r.Dedicated:
		got.IssuedToken, err = b.broker.Read(ctx, req.Storage, r.Config, request)
	case most.lends:
		got.IssuedToken, got.lease, err = b.broker.Dedicate(ctx, req.Storage, r.Config, request, broker.Dedication{
			Role: name, Series: r.Leases, MaxLeases: r.MaxLeases, MaxExchanges: r.exchanges(),
		})
		err = limited(name, err)
	default:
		err = provider.Errorf(provider.Invalid, "%s%s is dedicated, and a token of its own is leased: read creds/%s", rolesPrefix, name, name)
	}
	if err != nil {
		if isInvalid(err) && r.scope != "" && !r.Dedicated {
			err = provider.Errorf(provider.Invalid, "%s%s: %s", rolesPrefix, name, err)
		}
		return reading{}, err
	}
	if minTTL > most.ttl {
		cut := *got.IssuedToken // which others have too
		cut.Warnings = append(slices.Clone(cut.Warnings), fmt.Sprintf("min_ttl is %s, and %s is %s", minTTL, most.by, most.ttl))
		got.IssuedToken = &cut
	}
	return got, nil
}

// limited returns the error of a dedicated read whose role has as many tokens as it may.
func limited(role string, err error) error {
	var leases *broker.TooManyLeasesError
	var exchanges *broker.TooManyError
	switch {
	case errors.As(err, &leases):
		return logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("%s%s has its max_leases of %d: revoke one, or wait for one to end; after vault lease revoke -force, write forget_leases=true to the role", rolesPrefix, role, leases.Max))
	case errors.As(err, &exchanges):
		return logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("%s%s: %s: the next one may be at %s; keep the lease instead of reading again, or raise max_exchanges", rolesPrefix, role, exchanges, broker.FormatTime(roundUp(exchanges.Next))))
	case errors.Is(err, broker.ErrTooManyWaiting):
		return logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("%s%s: %s, and the vendor answers one at a time; try again later", rolesPrefix, role, err))
	}
	return err
}

func isInvalid(err error) bool {
	var e *provider.Error
	return errors.As(err, &e) && e.Kind == provider.Invalid
}

func addWarnings(resp *logical.Response, warnings []string) {
	for _, warning := range warnings {
		resp.AddWarning(warning)
	}
}

func tokenData(r *broker.IssuedToken) map[string]any {
	data := map[string]any{
		"access_token": r.AccessToken,
		"token_type":   r.TokenType,
		"expire_time":  broker.FormatTime(r.ExpireTime),
		"provider":     r.Provider,
	}
	if len(r.Scope) > 0 {
		data["scope"] = r.Scope
	}
	return data
}

// credsRevoke ends the lease alone, unless the token is dedicated to it. Other readers
// have leases on a shared one, and Vault revokes a lease whenever the reader's own Vault
// token ends.
func (b *backend) credsRevoke(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	lease, isDedicated := req.Secret.InternalData["lease"].(string)
	if !isDedicated {
		return nil, nil
	}
	// The framework forwards requests, not the end of a lease. The active node ends the
	// token and deletes its entry.
	if !b.WriteSafeReplicationState() {
		return nil, logical.ErrReadOnly
	}
	config, _ := req.Secret.InternalData["config"].(string)
	return nil, b.broker.RevokeLease(ctx, req.Storage, config, lease)
}

// errUnknown means that a name stands for nothing.
var errUnknown = errors.New("no such role or credential")

// names holds what names stand for, so that a read need not ask storage. A
// credential's name stands for a role that takes nothing away.
type names struct {
	mu     sync.RWMutex
	writes uint64 // counts what may have made something void that is being loaded
	roles  map[string]*role
}

func (n *names) get(name string) (r *role, asOf uint64) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.roles[name], n.writes
}

// put keeps a role that was loaded, unless something was written since.
func (n *names) put(name string, r *role, asOf uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.writes == asOf {
		n.roles[name] = r
	}
}

// forget drops a name, to be loaded again.
func (n *names) forget(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.writes++
	delete(n.roles, name)
}

// role is what a name stands for that somebody reads by.
func (b *backend) role(ctx context.Context, s logical.Storage, name string) (*role, error) {
	r, asOf := b.names.get(name)
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
	b.names.put(name, r, asOf)
	return r, nil
}

const credsHelpDescription = `
The access token comes from the cache while it is good, and from the vendor
otherwise. Its lease ends before it dies, and cannot be renewed: read again.

With min_ttl, a token that would end before is exchanged for a fresher one first. If
none lives so long, the best one comes with a warning that says what can be had.

Revoking the lease does not end the token at the vendor, since other readers may
hold the same one; only that of a dedicated role does, whose readers each have one of
their own.
`
