package provider

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Types of tokens (RFC 8693 §3).
const (
	tokenTypePrefix = "urn:ietf:params:oauth:token-type:"

	AccessTokenType = tokenTypePrefix + "access_token"
)

// knownTokenTypes are the types of RFC 8693 §3, without their common prefix.
var knownTokenTypes = []string{"access_token", "refresh_token", "id_token", "saml1", "saml2", "jwt"}

// A Delegator is a credential with which a caller's token can be exchanged for a token of the vendor
// (RFC 8693, or a request of the vendor's own).
type Delegator interface {
	// Delegation returns how a caller's token is exchanged; nil if the vendor does not exchange any.
	Delegation() Delegation
}

// DelegationOf returns how a credential exchanges a caller's token; nil if it does not.
func DelegationOf(c Credential) Delegation {
	if delegator, is := c.(Delegator); is {
		return delegator.Delegation()
	}
	return nil
}

// OnlyDelegates reports whether a credential has no token of its own.
func OnlyDelegates(c Credential) bool {
	delegation := DelegationOf(c)
	return delegation != nil && delegation.IsOnly()
}

// A Delegation exchanges callers' tokens. It is safe for concurrent use.
type Delegation interface {
	// IsOnly reports whether the credential has no token of its own, so that Exchange always fails.
	IsOnly() bool

	// Delegate exchanges the caller's token. last is the grant that the previous exchange returned. If the
	// answer has a Grant, only its AuthStyle counts. Errors are of type *Error and contain no secret. They
	// are of kind Invalid, without a request, if the vendor takes a parameter of the request in no way.
	Delegate(ctx context.Context, r DelegateRequest, last Grant) (*Answer, error)
}

// A DelegateRequest is what a caller asks for. Only SubjectToken is required.
type DelegateRequest struct {
	SubjectToken     string
	SubjectTokenType string // "" for AccessTokenType
	ActorToken       string
	ActorTokenType   string // "" for AccessTokenType, if there is an ActorToken

	Audience []string
	Resource []string

	// Scope is a subset of the credential's scopes; none for all of them.
	Scope []string

	RequestedTokenType string // "" for the vendor's default
}

// Secrets returns the tokens of the request.
func (r DelegateRequest) Secrets() []string { return []string{r.SubjectToken, r.ActorToken} }

// maxParameter and maxParameters bound a parameter of a DelegateRequest, in bytes, and the length of a list.
const (
	maxParameter  = 2 << 10
	maxParameters = 20
)

// Check returns the request with the full names of the token types, or an error of kind Invalid that does not
// quote a token.
func (r DelegateRequest) Check() (DelegateRequest, error) {
	if r.SubjectToken == "" {
		return r, Errorf(Invalid, "subject_token: must be set: the token to exchange")
	}
	if r.ActorToken == "" && r.ActorTokenType != "" {
		return r, Errorf(Invalid, "actor_token_type: applies only with an actor_token")
	}
	for _, token := range []struct{ field, value string }{{"subject_token", r.SubjectToken}, {"actor_token", r.ActorToken}} {
		if len(token.value) > maxToken {
			return r, Errorf(Invalid, "%s: too long: %d bytes (at most %d)", token.field, len(token.value), maxToken)
		}
		if err := CheckSecret(token.field, token.value); err != nil {
			return r, err
		}
	}
	for _, one := range []struct {
		field string
		value *string
	}{{"subject_token_type", &r.SubjectTokenType}, {"actor_token_type", &r.ActorTokenType}, {"requested_token_type", &r.RequestedTokenType}} {
		var err error
		if *one.value, err = fullTokenType(one.field, *one.value); err != nil {
			return r, err
		}
	}
	for _, list := range []struct {
		field  string
		values []string
	}{{"audience", r.Audience}, {"resource", r.Resource}, {"scope", r.Scope}} {
		if err := checkParameters(list.field, list.values); err != nil {
			return r, err
		}
	}
	for _, resource := range r.Resource {
		if !absoluteURI.MatchString(resource) {
			return r, Errorf(Invalid, "resource: %s is not an absolute URI without a fragment (RFC 8693 §2.1)", Quote(resource))
		}
	}
	return r, CheckScope("scope", r.Scope)
}

func checkParameters(field string, values []string) error {
	if len(values) > maxParameters {
		return Errorf(Invalid, "%s: %d elements are too many (at most %d)", field, len(values), maxParameters)
	}
	for _, value := range values {
		switch {
		case len(value) > maxParameter:
			return Errorf(Invalid, "%s: an element is too long: %d bytes (at most %d)", field, len(value), maxParameter)
		case !isPrintable(value):
			return Errorf(Invalid, "%s: contains a line break or a control character", field)
		}
	}
	return nil
}

// fullTokenType returns the URI of a token type. A type of RFC 8693 can be given without its prefix.
func fullTokenType(field, given string) (string, error) {
	switch {
	case slices.Contains(knownTokenTypes, given):
		return tokenTypePrefix + given, nil
	case given == "" || len(given) <= maxTokenType && absoluteURI.MatchString(given):
		return given, nil
	}
	return "", Errorf(Invalid, "%s: %s is not the URI of a token type, nor one of %s (RFC 8693 §3)", field, Quote(given), strings.Join(knownTokenTypes, ", "))
}

// absoluteURI matches an absolute URI without a fragment (RFC 3986 §4.3).
var absoluteURI = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]+$`)

func isPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// JWTExpiry returns the exp claim of a token; the zero time if it has none, or is not a JWT. It does not verify
// the signature.
func JWTExpiry(token string) time.Time {
	exp, _ := jwtExpiry(token)
	return exp
}
