package definition

import (
	"cmp"
	"fmt"
	"slices"

	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// A Delegation says how a caller's token is exchanged for one of the vendor (RFC 8693).
type Delegation struct {
	// Request has placeholders for what the caller gives; nil for the request of RFC 8693.
	Request *Request `json:"request,omitempty"`

	// Answer says where the answer has what; nil for the places of RFC 8693.
	Answer *Answer `json:"answer,omitempty"`
}

// A delegated is a Delegation with its templates parsed.
type delegated struct {
	*request
	reading exchange.Reading
}

// delegation parses how the grant exchanges callers' tokens: in its own way, or in that of the definition if
// its client authenticates.
func (c *compiler) delegation() error {
	given, place := c.g.given.Delegation, "/delegation"
	if given == nil {
		if c.g.auth == exchange.None && len(c.g.given.Basic) == 0 {
			return nil
		}
		given, place = c.d.Delegation, ofDefinition+"/delegation"
	}
	if given == nil {
		return nil
	}
	asked := given.Request
	if asked == nil {
		asked = &Request{Form: rfc8693(c.d.fields["scope"] != nil)}
	}
	c.kept = exchange.DelegatedNames
	defer func() { c.kept = nil }()
	parsed, err := c.request(asked)
	if err != nil {
		return at(place+"/request", err)
	}
	if !slices.Contains(parsed.Names(), "subject_token") {
		return fmt.Errorf("%s/request: must have {subject_token}", place)
	}
	reading, err := delegatedReading(given.Answer, place+"/answer")
	if err != nil {
		return err
	}
	c.g.delegated = &delegated{parsed, *reading}
	return nil
}

// rfc8693 returns the form of RFC 8693.
func rfc8693(hasScope bool) map[string]string {
	form := map[string]string{"grant_type": exchange.TokenExchange}
	for _, name := range exchange.DelegatedNames {
		form[name] = "{" + name + "}"
	}
	if hasScope {
		form["scope"] = "{scope}"
	}
	return form
}

// delegatedReading returns how the answer to the exchange of a caller's token is read. By default, readers get
// the type of the token as well.
func delegatedReading(given *Answer, place string) (*exchange.Reading, error) {
	if given == nil {
		given = &Answer{Extra: map[string]string{exchange.IssuedTokenType: "/" + exchange.IssuedTokenType}}
	}
	return readingOf(given, place)
}

// addDelegation sets how callers' tokens are exchanged.
func (o *opening) addDelegation(c *exchange.Client) error {
	given := o.grant.delegated
	if given == nil {
		return nil
	}
	request := given.Request
	to, err := exchange.FillURL(given.url, o.values)
	if err != nil {
		return err
	}
	isOnly := o.grant.request == nil
	switch {
	case isOnly:
		c.Server.Token = to
	case to != c.Server.Token:
		request.URL = to
	}
	c.Delegated = &exchange.Delegated{Request: request, Reading: given.reading, IsOnly: isOnly}
	return nil
}

// scopeRules returns the rules for the scopes of the grant.
func (o *opening) scopeRules() *ScopeRules { return cmp.Or(o.grant.given.Scope, &o.d.Scope) }
