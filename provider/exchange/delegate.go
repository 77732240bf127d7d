package exchange

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"vault-plugin-secrets-tokenbroker/provider"
)

// TokenExchange is the grant_type of RFC 8693.
const TokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange"

// A Delegated describes how a caller's token is exchanged for a token of the vendor.
type Delegated struct {
	// Request has the placeholders of DelegatedNames. Its URL is "" for the token endpoint.
	Request Request
	Reading Reading

	// IsOnly is whether the client has no token of its own, and so no Client.Request.
	IsOnly bool
}

// DelegatedNames are the placeholders of a caller's request, besides {scope}.
var DelegatedNames = []string{
	"subject_token", "subject_token_type", "actor_token", "actor_token_type", "audience", "resource", "requested_token_type",
}

// RFC8693 returns the request of RFC 8693 with further parameters, and how its answer is read. isOnly is whether
// the client has no token of its own. Clients without further parameters share the result.
func RFC8693(params map[string]Template, isOnly bool) *Delegated {
	switch {
	case len(params) == 0 && isOnly:
		return sharedOnly()
	case len(params) == 0:
		return shared()
	}
	form := maps.Clone(rfc8693())
	maps.Copy(form, params)
	return &Delegated{Request: Request{Form: form}, Reading: oauthWithType, IsOnly: isOnly}
}

var (
	shared = sync.OnceValue(func() *Delegated { return &Delegated{Request: Request{Form: rfc8693()}, Reading: oauthWithType} })

	sharedOnly = sync.OnceValue(func() *Delegated {
		only := *shared()
		only.IsOnly = true
		return &only
	})
)

var rfc8693 = sync.OnceValue(func() map[string]Template {
	form := map[string]Template{"grant_type": Literal(TokenExchange), "scope": Placeholder("scope")}
	for _, name := range DelegatedNames {
		form[name] = Placeholder(name)
	}
	return form
})

// oauthWithType reads the answer of RFC 8693 §2.2.1.
var oauthWithType = func() Reading {
	reading := OAuth
	reading.Extra = map[string]string{IssuedTokenType: "/" + IssuedTokenType}
	return reading
}()

// IssuedTokenType is the member of an answer with the type of the issued token (RFC 8693 §2.2.1), and its name in
// Answer.Extra.
const IssuedTokenType = "issued_token_type"

// Repeated is a value that is a parameter of a form or a query for each of its elements.
type Repeated []string

// Delegation implements provider.Delegator.
func (c *Client) Delegation() provider.Delegation {
	if c.Delegated == nil {
		return nil
	}
	return delegation{c}
}

type delegation struct{ c *Client }

// IsOnly implements provider.Delegation.
func (d delegation) IsOnly() bool { return d.c.Delegated.IsOnly }

// Delegate implements provider.Delegation. The request is sent once, since a vendor may accept a subject token
// only once.
func (d delegation) Delegate(ctx context.Context, r provider.DelegateRequest, last provider.Grant) (*provider.Answer, error) {
	given := d.c.Delegated
	if err := checkTaken(given.Request, r, d.c.Values); err != nil {
		return nil, err
	}
	if err := provider.CheckNarrower("scope", r.Scope, d.c.Scopes); err != nil {
		return nil, err
	}
	c := *d.c
	c.Authorization, c.Again, c.Before, c.Delegated = nil, nil, nil, nil
	c.Refresh, c.InvalidatesPrevious, c.isCode, c.isDelegated = "", false, true, true
	c.Request, c.Reading = given.Request, given.Reading
	if given.Request.URL != "" {
		c.Server = &Server{Endpoints: Endpoints{Token: given.Request.URL}, Field: c.Server.Field}
	}
	if len(r.Scope) > 0 {
		c.known, c.Scopes = slices.Concat(c.known, c.Scopes), r.Scope
	}
	c.Secrets = slices.Concat(c.Secrets, r.Secrets())
	c.Values = maps.Clone(c.Values)
	if c.Values == nil {
		c.Values = Values{}
	}
	for name, value := range delegatedValues(r) {
		if c.Values[name] == nil { // otherwise a field of the operator's has the name
			c.Values[name] = value
		}
	}
	answer, err := c.Exchange(ctx, provider.Grant{AuthStyle: last.AuthStyle})
	if err != nil {
		return nil, err
	}
	if answer.AccessToken != "" && slices.Contains(r.Secrets(), answer.AccessToken) {
		return nil, provider.Errorf(provider.InvalidResponse, "the vendor returned the caller's own token instead of a new one")
	}
	return answer, nil
}

// delegatedValues returns the values of the placeholders of a caller's request.
func delegatedValues(r provider.DelegateRequest) Values {
	values := Values{
		"subject_token": r.SubjectToken, "subject_token_type": cmp.Or(r.SubjectTokenType, provider.AccessTokenType),
		"actor_token": r.ActorToken, "actor_token_type": r.ActorTokenType, "requested_token_type": r.RequestedTokenType,
		"audience": Repeated(r.Audience), "resource": Repeated(r.Resource),
	}
	if r.ActorToken != "" && r.ActorTokenType == "" {
		values["actor_token_type"] = provider.AccessTokenType
	}
	return values
}

// checkTaken returns an error if a caller gives a parameter that the request does not have, or that the operator
// has set. The vendor would grant what the caller has not asked for.
func checkTaken(request Request, r provider.DelegateRequest, set Values) error {
	names := request.Names()
	for _, one := range []struct {
		field   string
		isGiven bool
	}{
		{"subject_token_type", r.SubjectTokenType != ""}, {"actor_token", r.ActorToken != ""},
		{"audience", len(r.Audience) > 0}, {"resource", len(r.Resource) > 0}, {"scope", len(r.Scope) > 0},
		{"requested_token_type", r.RequestedTokenType != ""},
	} {
		isSet := one.field != "scope" && set[one.field] != nil
		if one.isGiven && (isSet || !slices.Contains(names, one.field)) {
			return provider.Errorf(provider.Invalid, "%s: cannot be given: the vendor's exchange does not take it, or the credential sets it", one.field)
		}
	}
	return nil
}
