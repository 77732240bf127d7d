package tokenbroker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

func (b *backend) pathExchange() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "exchange/" + apipath.NamePattern("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "exchange", OperationSuffix: "token"},
		Fields:       exchangeFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                    b.exchangeWrite,
				Summary:                     "Exchange the caller's own token for an access token of the vendor, with a lease.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: exchangedFields()}},
				},
			},
		},
		HelpSynopsis:    "Exchange the caller's own token for an access token of the vendor (RFC 8693).",
		HelpDescription: withExample(exchangeHelpDescription, "vault write oauth2/exchange/prod subject_token=... audience=ledger"),
	}}
}

func exchangeFields() map[string]*framework.FieldSchema {
	text := func(name, description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeString, Description: description, DisplayAttrs: &framework.DisplayAttributes{Name: name}}
	}
	list := func(name, description string) *framework.FieldSchema {
		schema := text(name, description)
		schema.Type = framework.TypeCommaStringSlice
		return schema
	}
	fields := map[string]*framework.FieldSchema{
		"name":                 readFields()["name"],
		"subject_token":        text("Subject token", "The token to exchange. It is neither stored nor logged."),
		"subject_token_type":   text("Subject token type", "Type of subject_token: a URI, or access_token, refresh_token, id_token, saml1, saml2 or jwt (RFC 8693 §3). Default: access_token."),
		"actor_token":          text("Actor token", "The token of the party that acts for the subject. It is neither stored nor logged."),
		"actor_token_type":     text("Actor token type", "Type of actor_token, as subject_token_type. Default: access_token."),
		"requested_token_type": text("Requested token type", "Type of the token to issue, as subject_token_type. Default: the vendor's."),
		"audience":             list("Audience", "Names of the services for which the token is, as the vendor knows them."),
		"resource":             list("Resource", "URIs of the services for which the token is."),
		"scope":                list("Scope", "Scopes of the token, a subset of the role's or the credential's. Default: all of them."),
	}
	fields["subject_token"].Required = true
	for _, secret := range []string{"subject_token", "actor_token"} {
		fields[secret].DisplayAttrs.Sensitive = true
	}
	return fields
}

// exchangedFields returns the response fields of an exchange.
func exchangedFields() map[string]*framework.FieldSchema {
	fields := tokenFields()
	fields["issued_token_type"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Type of the token (RFC 8693 §3), if the vendor states it."}
	return fields
}

func (b *backend) exchangeWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := nameIn(d)
	got, err := b.exchange(ctx, req, d)
	switch {
	case err == nil:
		b.metrics.Read(got.Outcome)
	case !errors.Is(ctx.Err(), context.Canceled) && !isRequestError(err) && !isCallersError(err):
		b.metrics.ReadFailed()
	}
	if err != nil {
		return failure(name, err)
	}
	resp := b.Secret(accessTokenType).Response(tokenData(got.IssuedToken, 8), nil)
	if strings.EqualFold(got.TokenType, "N_A") { // the token is not an access token (RFC 8693 §2.2.1)
		delete(resp.Data, "http_header")
	}
	resp.Secret.TTL = min(got.TTL, got.longest)
	resp.Secret.InternalData["name"] = name
	if got.lease != "" {
		resp.Secret.InternalData["config"], resp.Secret.InternalData["delegated"] = got.config, got.lease
	}
	addWarnings(resp, got.Warnings)
	return resp, nil
}

// exchange exchanges the caller's token for one of a name.
func (b *backend) exchange(ctx context.Context, req *logical.Request, d *framework.FieldData) (readResult, error) {
	name := nameIn(d)
	request, err := delegateRequest(d)
	if err != nil {
		return readResult{}, err
	}
	r, err := b.roleFor(ctx, req.Storage, name)
	if err != nil {
		return readResult{}, err
	}
	if r.Dedicated {
		return readResult{}, provider.Errorf(provider.Invalid, "%s is a dedicated role; use another one, as each caller gets a token of its own here anyway", apipath.Role(name))
	}
	if request.Scope, err = r.narrowed(name, request.Scope); err != nil {
		return readResult{}, err
	}
	delegation := broker.Delegation{Request: request}
	if err := b.narrowDelegation(ctx, req, r, &delegation); err != nil {
		return readResult{}, err
	}
	if r.Bounds.Issuer != "" {
		delegation.Verify = func(ctx context.Context, c *broker.Credential) error {
			return b.subjects.Verify(ctx, c.HTTP, r.Bounds, request.SubjectToken)
		}
	}
	got := readResult{config: r.Config, longest: b.System().MaxLeaseTTL()}
	if ttl := r.TTL.Duration(); ttl > 0 {
		got.longest = min(got.longest, ttl)
	}
	got.IssuedToken, got.lease, err = b.broker.Delegate(ctx, req.Storage, r.Config, delegation)
	return got, err
}

// delegateRequest returns what the caller asks for.
func delegateRequest(d *framework.FieldData) (provider.DelegateRequest, error) {
	text := func(field string) string {
		given, _ := d.Get(field).(string)
		return strings.TrimSpace(given) // a file often ends with a line break
	}
	var failed error
	list := func(field string) []string {
		if err := checkSpace(field, d.Raw[field]); err != nil {
			failed = provider.Errorf(provider.Invalid, "%s", err)
			return nil
		}
		given, _ := d.Get(field).([]string)
		var all []string
		elements, _ := storedList(field, given).([]any)
		for _, element := range elements {
			all = append(all, element.(string))
		}
		return all
	}
	request := provider.DelegateRequest{
		SubjectToken: text("subject_token"), SubjectTokenType: text("subject_token_type"),
		ActorToken: text("actor_token"), ActorTokenType: text("actor_token_type"),
		Audience: list("audience"), Resource: list("resource"), Scope: list("scope"),
		RequestedTokenType: text("requested_token_type"),
	}
	if failed != nil {
		return request, failed
	}
	return request.Check()
}

// narrowed returns the scope of a caller's token: what the caller asks for within the role, or all that the role has.
func (r *role) narrowed(name string, asked []string) ([]string, error) {
	if len(r.Scope) == 0 {
		return asked, nil
	}
	for _, scope := range asked {
		if !slices.Contains(r.Scope, scope) {
			return nil, provider.Errorf(provider.Invalid, "scope: %s is not a scope of %s (%s)", provider.Quote(scope), apipath.Role(name), provider.List(r.Scope))
		}
	}
	if len(asked) == 0 {
		return slices.Clone(r.Scope), nil
	}
	return asked, nil
}

const exchangeHelpDescription = `
A caller gives a token of its own, such as that of the user for whom it works, and gets
a token of the vendor for the same subject. The engine adds what the caller must not
have: the client's secret or key.

The vendor decides whether it exchanges the token. A role can require in addition that
the token is a JWT of one issuer (bound_issuer) and for one audience (bound_audiences);
the engine then verifies it before it sends anything.

The same request yields the same token until that, or one of the caller's tokens, is
about to expire. The lease cannot be renewed. When the last lease of a token ends, the
engine revokes the token at the vendor, if the vendor can do that.
`

// setBound sets a field of the role that bounds callers' tokens; nil clears it.
func (r *role) setBound(field string, value any) {
	text, _ := value.(string)
	switch field {
	case "bound_issuer":
		r.Bounds.Issuer = text
	case "bound_jwks_url":
		r.Bounds.KeysURL = text
	case "bound_audiences":
		r.Bounds.Audiences = nil
		list, _ := value.([]any)
		for _, audience := range list {
			r.Bounds.Audiences = append(r.Bounds.Audiences, audience.(string))
		}
	}
}

// addBoundFields adds the fields of a role that bound callers' tokens.
func addBoundFields(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"bound_issuer": {
			Type:         framework.TypeString,
			Description:  "Issuer (iss) that a subject_token at exchange/<name> must have. The engine verifies the token, a JWT, with the keys of the issuer before it sends anything. Default: the engine verifies nothing.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Bound issuer"},
		},
		"bound_audiences": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Audiences (aud), one of which the subject_token must have. Needs bound_issuer. Default: any.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Bound audiences"},
		},
		"bound_jwks_url": {
			Type:         framework.TypeString,
			Description:  "URL of the issuer's keys (JWKS). Needs bound_issuer. Default: that of the issuer's metadata (OpenID Connect Discovery).",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Bound JWKS URL"},
		},
	})
	return fields
}

// narrowDelegation narrows an exchange to what the role has, with its templates filled for the caller. A caller's
// audience and resource must be within those of the role or the credential, if there are any; otherwise the
// vendor decides.
func (b *backend) narrowDelegation(ctx context.Context, req *logical.Request, r *role, d *broker.Delegation) (err error) {
	d.Fields, d.IsPersonal = maps.Clone(r.Fields), r.isTemplated
	if r.isTemplated {
		if d.Fields, err = b.filled(req.EntityID, r.Fields); err != nil {
			return err
		}
	}
	for field, asked := range map[string]*[]string{"audience": &d.Request.Audience, "resource": &d.Request.Resource} {
		if len(*asked) == 0 {
			continue
		}
		whole, whose := d.Fields[field], "the role"
		if whole == nil {
			c, err := b.store.Credential(ctx, req.Storage, r.Config)
			if err != nil {
				return err
			}
			if c != nil {
				whole, whose = c.RoleFields[field], "the credential"
			}
		}
		if whole == nil {
			continue
		}
		if err := provider.CheckWithin(field, listOf(*asked), whole, whose); err != nil {
			return err
		}
		if d.Fields == nil {
			d.Fields = map[string]any{}
		}
		d.Fields[field], *asked = listOf(*asked), nil
	}
	return nil
}
