package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

const accessTokenType = "access_token"

// vendorDescription describes the response field vendor.
const vendorDescription = "Vendor of the credential."

func (b *backend) pathCreds() []*framework.Path {
	return []*framework.Path{b.pathNames("creds/", true), {
		Pattern:      "creds/" + apipath.NamePattern("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "generate", OperationSuffix: "credentials"},
		Fields:       readFields(),

		TakesArbitraryInput: true, // the fields that narrow a token
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:                    b.credsRead,
				Summary:                     "Read an access token with a lease.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: tokenFields()}},
				},
			},
		},
		HelpSynopsis:    "Read an access token of a role or a credential.",
		HelpDescription: withExample(credsHelpDescription, "vault read kensho/creds/prod"),
	}}
}

// readFields returns the fields of a token read.
func readFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name": {
			Type:         framework.TypeString,
			Description:  "Name of a role or a credential.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Name", Identifier: true},
		},
		"min_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "Minimum remaining lifetime of the token. If the cached token expires sooner, the engine exchanges it for a newer one where possible. The longer of this and the role's min_ttl applies. Default: none.",
			Query:        true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Minimum TTL"},
		},
		"scope": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Scopes of the token, a subset of the role's or the credential's. Other fields of the credential that narrow its tokens, such as audience, can be given as well. Default: all.",
			Query:        true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scope"},
		},
	}
}

// tokenFields returns the response fields of a token read.
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
			Description: "Authentication scheme of the token, which precedes it in http_header; empty if nothing does.",
			Required:    true,
		},
		"expire_time": {
			Type:        framework.TypeTime,
			Description: "When the token expires, by this server's clock, in UTC.",
			Required:    true,
		},
		"http_header": {
			Type:         framework.TypeString,
			Description:  "Header with the token, as the vendor's API takes it: curl -H \"$(vault read -field=http_header ...)\". Omitted if the API takes the token as a query parameter.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "HTTP header", Sensitive: true},
		},
		"query_parameter": {
			Type:         framework.TypeString,
			Description:  "Query parameter with the token, escaped, if the vendor's API takes it so.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Query parameter", Sensitive: true},
		},
		"other_http_headers": {
			Type:        framework.TypeKVPairs,
			Description: "Headers that the vendor's API needs besides, by name. Omitted if there are none.",
		},
		"scope": {
			Type:        framework.TypeStringSlice,
			Description: "Scopes of the token, if known.",
		},
		"vendor": {
			Type:        framework.TypeString,
			Description: vendorDescription,
			Required:    true,
		},
	}
}

// accessToken returns the leased secret. It cannot be renewed, as the vendor decides the lifetime of
// a token; another read returns the next one.
func (b *backend) accessToken() *framework.Secret {
	return &framework.Secret{
		Type:   accessTokenType,
		Fields: tokenFields(),
		Revoke: b.credsRevoke,
	}
}

func (b *backend) credsRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	// Vault would also cap the lease at the mount's maximum, but with a useless warning on each
	// read.
	result, err := b.read(ctx, req, d, limit{b.System().MaxLeaseTTL(), "the mount's maximum lease TTL", true})
	if err != nil {
		return failure(nameIn(d), err)
	}
	resp := b.Secret(accessTokenType).Response(tokenData(result.IssuedToken, 8), nil)
	resp.Secret.TTL = min(result.TTL, result.longest)
	internal := resp.Secret.InternalData
	internal["name"] = nameIn(d)
	if result.lease != "" {
		internal["config"], internal["lease"] = result.config, result.lease
	}
	addWarnings(resp, result.Warnings)
	return resp, nil
}

// nameIn returns the name in the path. It avoids FieldData.Get, whose conversion is a measurable cost
// of a cached read.
func nameIn(d *framework.FieldData) string {
	name, _ := d.Raw["name"].(string)
	return name
}

// A limit is the maximum time for which a reader may use the result of one read.
type limit struct {
	ttl      time.Duration
	by       string // what sets the limit
	hasLease bool   // whether the response has a lease
}

// A readResult is the result of reading the token of a name.
type readResult struct {
	*broker.IssuedToken
	config  string        // the name of the credential
	lease   string        // the storage key of a dedicated token; "" for a shared one
	longest time.Duration // the limit, which applies whatever the token's lifetime
}

// read reads the token of a name and counts the read. A read does not count as failed if the request
// was invalid or the reader canceled it.
func (b *backend) read(ctx context.Context, req *logical.Request, d *framework.FieldData, most limit) (readResult, error) {
	got, err := b.readUncounted(ctx, req, d, most)
	switch {
	case err == nil:
		b.metrics.Read(got.Outcome)
	case !errors.Is(ctx.Err(), context.Canceled) && !isRequestError(err):
		b.metrics.ReadFailed()
	}
	return got, err
}

// isRequestError reports whether a read failed because of its request: an unknown name, bad input, a reader
// without the identity that the role needs, or more tokens than the role or the credential allows.
func isRequestError(err error) bool {
	var coded logical.HTTPCodedError
	isRefused := errors.As(err, &coded) && (coded.Code() == http.StatusTooManyRequests || coded.Code() == http.StatusForbidden)
	return isRefused || errors.Is(err, errUnknown) || isInvalid(err)
}

// readUncounted reads the token of a name, or a dedicated one if the role has dedicated set.
func (b *backend) readUncounted(ctx context.Context, req *logical.Request, d *framework.FieldData, most limit) (readResult, error) {
	name := nameIn(d)
	r, err := b.roleFor(ctx, req.Storage, name)
	if err != nil {
		return readResult{}, err
	}
	if ttl := r.TTL.Duration(); ttl > 0 && ttl < most.ttl {
		most.ttl, most.by = ttl, "the role's ttl"
	}
	minTTL := r.MinTTL.Duration()
	if given, ok := d.GetOk("min_ttl"); ok {
		minTTL = max(minTTL, time.Duration(given.(int))*time.Second)
	}
	// The reader cannot use a token for longer than the limit, so do not ask the vendor for more.
	request := broker.ReadRequest{Scope: r.scope, MinTTL: min(minTTL, most.ttl)}
	got := readResult{config: r.Config, longest: most.ttl}
	var narrowing provider.Narrowing
	if len(d.Raw) > 1 || r.isTemplated {
		n, err := b.readNarrowing(ctx, req, d, r)
		if err != nil {
			return readResult{}, err
		}
		narrowing, request.Scope = n, n.Key()
		request.IsChosen = request.Scope != r.scope
	}
	switch {
	case r.isTemplated && !r.Dedicated:
		got.IssuedToken, err = b.readVariant(ctx, req.Storage, r.Config, narrowing, request)
		err = limitError(name, err)
	case !r.Dedicated:
		got.IssuedToken, err = b.broker.Read(ctx, req.Storage, r.Config, request)
		err = limitError(name, err)
	case most.hasLease:
		got.IssuedToken, got.lease, err = b.broker.Dedicate(ctx, req.Storage, r.Config, request, broker.Dedication{
			Role: name, Series: r.Leases, MaxLeases: r.MaxLeases, MaxExchanges: r.exchanges(),
		})
		err = limitError(name, err)
	default:
		err = provider.Errorf(provider.Invalid, "%s is a dedicated role, whose tokens need a lease; read creds/%s instead", apipath.Role(name), name)
	}
	if err != nil {
		if isInvalid(err) && r.scope != "" && !r.Dedicated {
			err = provider.Errorf(provider.Invalid, "%s: %s", apipath.Role(name), err)
		}
		return readResult{}, err
	}
	if minTTL > most.ttl {
		cut := *got.IssuedToken // copied, as readers share it
		cut.Warnings = append(slices.Clone(cut.Warnings), fmt.Sprintf("min_ttl is %s, but %s is %s", minTTL, most.by, most.ttl))
		got.IssuedToken = &cut
	}
	return got, nil
}

// limitError returns err as a 429 if a dedicated role has reached a limit, else err itself.
func limitError(role string, err error) error {
	var leases *broker.TooManyLeasesError
	var exchanges *broker.TooManyExchangesError
	var variants *broker.TooManyVariantsError
	switch {
	case errors.As(err, &leases):
		return logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("%s has reached its max_leases of %d; revoke a lease or wait for one to end; after vault lease revoke -force, write forget_leases=true to the role", apipath.Role(role), leases.Max))
	case errors.As(err, &exchanges):
		return logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("%s: %s; the next exchange is possible at %s; reuse the lease instead of reading again, or raise max_exchanges", apipath.Role(role), exchanges, broker.FormatNext(exchanges.Next)))
	case errors.As(err, &variants):
		return logical.CodedError(http.StatusTooManyRequests, variants.Error())
	case errors.Is(err, broker.ErrTooManyWaiting):
		return logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("%s: %s; retry later", apipath.Role(role), err))
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

// tokenData returns the response fields of a token, in a map with room for the given number of fields.
func tokenData(r *broker.IssuedToken, room int) map[string]any {
	data := make(map[string]any, room)
	data["access_token"] = r.AccessToken
	data["token_type"] = r.API.TokenType(&r.Token)
	data["expire_time"] = broker.FormatTime(r.ExpireTime)
	data["vendor"] = r.Vendor
	r.API.AddTo(data, &r.Token)
	for name, value := range r.Extra {
		data[name] = value
	}
	if len(r.Scope) > 0 {
		data["scope"] = r.Scope
	}
	return data
}

// credsRevoke revokes a dedicated token, or that of a caller of exchange/. It does nothing for a shared token, which other readers
// still use: Vault revokes a lease whenever its reader's Vault token ends.
func (b *backend) credsRevoke(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	lease, isDedicated := req.Secret.InternalData["lease"].(string)
	delegated, isDelegated := req.Secret.InternalData["delegated"].(string)
	if !isDedicated && !isDelegated {
		return nil, nil
	}
	// The framework does not forward revocations. The active node must revoke the token and
	// delete its entry.
	if !b.WriteSafeReplicationState() {
		return nil, logical.ErrReadOnly
	}
	config, _ := req.Secret.InternalData["config"].(string)
	if isDelegated {
		return nil, b.broker.RevokeDelegated(ctx, req.Storage, config, delegated)
	}
	return nil, b.broker.RevokeLease(ctx, req.Storage, config, lease)
}

const credsHelpDescription = `
The engine returns the cached access token while it is valid, and exchanges the
credential for a new one otherwise. The lease ends before the token expires and cannot
be renewed; read again instead.

If the cached token expires before min_ttl, the engine first exchanges the credential
for a newer one. If the vendor issues no token that is valid for so long, the response
has the longest-lived token and a warning.

Revoking a lease does not revoke the token at the vendor, as other readers share it.
The exception is a dedicated role, where each read gets its own token.
`
