package broker

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Credential is a stored credential, ready for an exchange.
type Credential struct {
	Name string

	// Path is the credential's path, such as config/kensho/prod.
	Path       string
	VendorName string

	// Generation identifies this write of the credential.
	Generation string

	// WriteTime is when the operator last wrote one of the secrets.
	WriteTime time.Time

	// Expires is when the secret expires at the vendor, according to the operator or to the
	// vendor's rule; zero if unknown.
	// Description is the operator's, too.
	Expires     time.Time
	Description string

	// TTL holds the operator's limits for the lifetime of a token.
	TTL provider.TTL

	// Keepalive is the longest time without an exchange for a credential that expires from disuse;
	// zero if there is no limit.
	Keepalive time.Duration

	// Secrets are the secrets that the operator stored.
	Secrets []string

	// Vendor performs the exchange.
	Vendor provider.Credential

	// WithFields returns the credential with other values of fields that a role can set; nil if there are no
	// such fields. RoleFields are the credential's own values of them.
	WithFields FieldsFunc
	RoleFields map[string]any

	// MaxVariants is the maximum number of narrower tokens at a time. UsesRefreshToken is whether all of
	// them come from one refresh token.
	MaxVariants      int
	UsesRefreshToken bool

	// Narrowing is the key of the narrowing of a variant, and WholeScope the Scope of the credential that it
	// narrows. Both are "" for the credential itself.
	Narrowing, WholeScope string

	// HTTP sends the requests to the vendor, and to the issuer of a caller's token.
	HTTP *provider.Client

	// Scope is the credential's own scope in the form of provider.JoinScope; "" if only the vendor
	// knows it.
	Scope string

	// API is how the vendor's API takes a token.
	API *provider.API // nil for the usual way

	// SentTo lists the destinations of its secrets in a form that can be compared.
	SentTo []string

	// Client is the name of the OAuth client that the credential shares with others, Version what of it
	// the credential uses, and Formers what to try if the vendor refuses that, latest first. Client is "" if
	// the credential shares none.
	Client  string
	Version ClientVersion
	Formers []Former

	// Rotation is what operators see of the rotation of the secret; nil if there is none. Keypair is the name of the
	// key pair that the credential uses, which may rotate by itself; "" if it uses none.
	Rotation RotationFunc
	Keypair  string

	// Verified is the state after the exchange that verified the credential before it was stored;
	// nil if there was none.
	Verified *State
}

// A FieldsFunc returns a credential with other values of fields, which must be within its own.
type FieldsFunc func(fields map[string]any) (provider.Credential, error)

// narrowed returns the credential for the narrowing with a key.
func (c *Credential) narrowed(scope string) (provider.Credential, error) {
	if scope == ownScope {
		return c.Vendor, nil
	}
	return c.Narrow(provider.ParseNarrowing(scope))
}

// withFields returns the credential with other values of fields, as a variant that has no record of its own.
func (c *Credential) withFields(fields map[string]any) (*Credential, error) {
	n := provider.Narrowing{Fields: fields}
	own := *c
	var err error
	if own.Vendor, err = c.Narrow(n); err != nil {
		return nil, err
	}
	own.Narrowing, own.WholeScope, own.Formers = n.Key(), c.Scope, nil
	for _, former := range c.Formers {
		if former.Vendor = former.Narrowed(own.Narrowing); former.Vendor != nil {
			own.Formers = append(own.Formers, former)
		}
	}
	return &own, nil
}

// keyOf returns the key of what a token for a scope is asked for; "" for all that the credential may do.
func (c *Credential) keyOf(scope string) string { return cmp.Or(scope, c.Narrowing) }

// Narrow returns the credential for a narrowing. Its error is of kind Invalid if it cannot be narrowed so.
func (c *Credential) Narrow(n provider.Narrowing) (provider.Credential, error) {
	return narrow(c.Vendor, c.WithFields, n)
}

func narrow(vendor provider.Credential, withFields FieldsFunc, n provider.Narrowing) (_ provider.Credential, err error) {
	if len(n.Fields) > 0 {
		if withFields == nil {
			return nil, provider.Errorf(provider.Invalid, "the credential has no fields that a role can set")
		}
		if vendor, err = withFields(n.Fields); err != nil {
			return nil, err
		}
	}
	if len(n.Scope) == 0 {
		return vendor, nil
	}
	return vendor.Narrow(n.Scope)
}

// secrets returns all secrets that an exchange may use: the operator's, and the rotated refresh
// tokens.
func (c *Credential) secrets(s *State) []string {
	all := slices.Clone(c.Secrets)
	if s == nil {
		return all
	}
	all = append(all, s.Grant.RefreshToken)
	for _, scope := range slices.Sorted(maps.Keys(s.Grants)) {
		all = append(all, s.Grants[scope].RefreshToken)
	}
	return all
}

// secretsAndTokens returns the secrets of a credential, and the access tokens that its vendor may
// still accept.
func (c *Credential) secretsAndTokens(s *State) []string {
	all := c.secrets(s)
	if s == nil {
		return all
	}
	accepted := s.acceptedTokens()
	for _, scope := range slices.Sorted(maps.Keys(accepted)) {
		for _, token := range accepted[scope] {
			all = append(all, token.AccessToken)
		}
	}
	return all
}

// redacting returns a context in which a vendor's error quotes no secret and no token of the
// credential. A vendor's response may contain any of them, whether the request did or not.
// (Guarantee 6.)
func redacting(ctx context.Context, c *Credential, s *State) context.Context {
	if c == nil {
		return ctx
	}
	return provider.WithSecrets(ctx, c.secretsAndTokens(s)...)
}
