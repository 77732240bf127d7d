package definition

import (
	"fmt"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

const (
	// keypairIssuer is the placeholder of the issuer of the key pair, for claims.
	keypairIssuer = "keypair_issuer"

	// The fields of identity tokens are those of Vault's own engines.
	identityAudience = "identity_token_audience"
	identityTTL      = "identity_token_ttl"

	// assertionSubject is the field with the subject for which the issuer of a key pair signs.
	assertionSubject = "assertion_subject"
)

// keyless is what a grant uses of the identities that Vault gives a credential without a secret.
type keyless struct {
	issuer   bool // the assertion has {keypair_issuer}
	identity bool // a request has an identity token
}

// useKeyless notes a placeholder of an identity. It does nothing for another placeholder.
func (c *compiler) useKeyless(name string) error {
	switch name {
	case keypairIssuer:
		c.g.keyless.issuer = true
	case exchange.IdentityToken:
		return c.useIdentity()
	}
	return nil
}

// useIdentity notes the fields of an identity token.
func (c *compiler) useIdentity() error {
	if c.d.fields[identityAudience] == nil {
		return fmt.Errorf("an identity token needs a field named %s", identityAudience)
	}
	if f := c.d.fields[identityTTL]; f != nil {
		if f.Type != "duration" {
			return fmt.Errorf("an identity token needs a field %s that is a duration", identityTTL)
		}
		c.use(identityTTL)
	}
	c.use(identityAudience)
	c.g.keyless.identity = true
	return nil
}

// checkKeyless checks that a grant with the issuer of a key pair signs with a key pair.
func (a *assertion) checkKeyless(g *grant) error {
	if g.keyless.issuer && a.key != "private_key" {
		return fmt.Errorf("/key: {%s} needs the field private_key, which a key pair gives", keypairIssuer)
	}
	return nil
}

// needsKeyless returns the fields that the grant's identities need.
func (g *grant) needsKeyless() []string {
	if g.keyless.identity {
		return []string{identityAudience}
	}
	return nil
}

// addKeyless sets the values of the grant's identities.
func (o *opening) addKeyless(c *exchange.Client) error {
	if o.grant.keyless.issuer {
		if o.settings.Issuer == "" {
			return provider.Errorf(provider.Invalid, "private_key: has no issuer, which grant_type=%s needs; set private_key_source=generated, and issuer of the key pair (keypair/<name>)", c.GrantType)
		}
		o.values[keypairIssuer] = o.settings.Issuer
		if o.d.fields[assertionSubject] != nil && o.values[assertionSubject] == nil {
			o.values[assertionSubject] = o.settings.Subject
		}
	}
	if !o.grant.keyless.identity {
		return nil
	}
	ttl := provider.DefaultIdentityTTL
	if seconds, isSet := o.values[identityTTL].(int64); isSet {
		ttl = time.Duration(seconds) * time.Second
	}
	c.Identity = exchange.Identity{Audience: o.text(identityAudience), TTL: ttl, Request: o.settings.IdentityToken}
	return provider.CheckIdentityTTL(ttl)
}

// keyID returns the kid of assertions; "" for none. That of an issuer is the one in its published keys.
func (o *opening) keyID() string {
	switch {
	case o.grant.keyless.issuer:
		return o.settings.Thumbprint
	case o.d.fields["key_id"] == nil:
		return ""
	case o.text("key_id") != "":
		return o.text("key_id")
	}
	return o.settings.Thumbprint
}

// inRequests and inAssertions are the placeholders that only requests, or only assertions, have.
var (
	inRequests   = []string{"assertion", exchange.IdentityToken}
	inAssertions = []string{"iat", keypairIssuer}
)
