package definition

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// requests parses the requests.
func (c *compiler) requests() error {
	g := c.g
	switch {
	case g.given.Token != "" && g.given.Token != "{assertion}":
		return fmt.Errorf(`/token: must be "{assertion}"`)
	case g.given.Token != "" && g.given.Request != nil:
		return fmt.Errorf("/request: give it, or token, but not both")
	case g.given.Token == "" && g.given.Request == nil && g.given.Delegation == nil:
		return fmt.Errorf("/request: give it, or token, or delegation for a grant that only exchanges callers' tokens")
	case g.given.Request == nil && g.given.Token == "" && (len(g.given.Before) > 0 || g.given.Refresh != nil):
		return fmt.Errorf("/delegation: the grant has no token of its own, so there is neither before nor refresh")
	case g.given.Token != "" && (len(g.given.Before) > 0 || g.given.Refresh != nil):
		return fmt.Errorf("/token: the engine signs the token itself, so there is neither before nor refresh")
	case len(g.given.Basic) > 0 && g.auth != exchange.None:
		return fmt.Errorf("/basic: cannot be given together with auth")
	}
	for i, text := range g.given.Basic {
		template, err := exchange.ParseTemplate(text)
		if err == nil {
			err = c.declared("", template.Uses())
		}
		if err != nil {
			return at(fmt.Sprintf("/basic/%d", i), err)
		}
		g.basic = append(g.basic, template)
	}
	if err := c.useClient(); err != nil {
		return at("/auth", err)
	}
	for i, given := range g.given.Before {
		r, err := c.request(&given.Request)
		if err != nil {
			return at(fmt.Sprintf("/before/%d/request", i), err)
		}
		if err := c.keep(fmt.Sprintf("/before/%d/keep/", i), given.Keep); err != nil {
			return err
		}
		g.before = append(g.before, step{request: *r, keep: given.Keep})
	}
	for _, one := range []struct {
		place string
		given *Request
		to    **request
	}{{"/request", g.given.Request, &g.request}, {"/refresh", g.given.Refresh, &g.refresh}} {
		if one.given == nil {
			continue
		}
		if one.given == g.given.Refresh {
			c.kept = nil // no step precedes it
		}
		r, err := c.request(one.given)
		if err != nil {
			return at(one.place, err)
		}
		*one.to = r
	}
	return c.revocation()
}

// keep checks what a step keeps, and notes it for later requests. place ends with a slash.
func (c *compiler) keep(place string, given map[string]string) error {
	for _, name := range sortedKeys(given) {
		place := place + name
		if !isFieldName.MatchString(name) || c.d.fields[name] != nil || slices.Contains(builtin, name) || slices.Contains(reservedValues, name) {
			return fmt.Errorf("%s: is another value's name, or no name; choose another", place)
		}
		if given[name] == "" {
			return fmt.Errorf("%s: give the JSON Pointer of a member", place)
		}
		if err := checkPointer(given[name]); err != nil {
			return at(place, err)
		}
		c.kept = append(c.kept, name)
	}
	return nil
}

// useClient notes the fields with which the client authenticates.
func (c *compiler) useClient() error {
	switch c.g.auth {
	case exchange.None:
	case exchange.IdentityToken:
		c.use("client_id")
		return c.useIdentity()
	case exchange.PrivateKeyJWT, exchange.Public:
		c.use("client_id")
	case exchange.TLSClientAuth:
		for _, name := range clientFields(c.g.auth) {
			c.use(name)
		}
	default:
		c.use("client_id")
		c.use("client_secret")
	}
	return nil
}

func (c *compiler) revocation() error {
	r := c.d.Revocation
	if r == nil {
		return nil
	}
	given := Request{Form: map[string]string{"token": "{token}", "token_type_hint": "access_token"}}
	if r.Request != nil {
		given = *r.Request
	}
	given.URL = cmp.Or(r.URL, given.URL)
	c.kept = []string{"token"}
	compiled, err := c.request(&given)
	if err != nil {
		place := ofDefinition + "/revocation"
		if r.Request != nil && !strings.HasPrefix(err.Error(), "/url") {
			place += "/request"
		}
		return at(place, err)
	}
	c.g.revocation, c.g.revocationAuth = compiled, r.Auth
	if r.Auth == exchange.IdentityToken {
		if err := c.useIdentity(); err != nil {
			return at(ofDefinition+"/revocation/auth", err)
		}
	}
	if r.Auth == exchange.PrivateKeyJWT && c.g.clientAssertion == nil {
		return fmt.Errorf("%s/revocation/auth: the grant %s has no key for private_key_jwt", ofDefinition, c.g.given.GrantType)
	}
	return nil
}

// templates parses templates by name. more are placeholders that they may have in addition.
func (c *compiler) templates(texts map[string]string, place string, more ...string) (map[string]exchange.Template, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	parsed := map[string]exchange.Template{}
	for _, name := range sortedKeys(texts) {
		template, err := exchange.ParseTemplate(texts[name])
		if err == nil {
			err = c.declared("", template.Uses(), more...)
		}
		if err != nil {
			return nil, at(place+pointerTo(name), err)
		}
		parsed[name] = template
	}
	return parsed, nil
}

// declared checks that placeholders are fields, or are set otherwise, and that none has a secret that must
// not be where it is.
func (c *compiler) declared(place string, uses []exchange.Use, more ...string) error {
	for _, use := range uses {
		name := use.Name
		switch f := c.d.fields[name]; {
		case f != nil && f.Narrows && c.forReaders:
			return at(place, fmt.Errorf("%s narrows tokens, and the way the API takes them must not depend on it", use))
		case f != nil:
			if err := c.checkSecret(f, use); err != nil {
				return at(place, err)
			}
			c.use(name)
		case name == "scope" || name == "refresh_token" && c.g.given.Refresh == nil:
			return at(place, fmt.Errorf("{%s} needs a field named %s", name, name))
		case slices.Contains(more, name):
			if err := c.useKeyless(name); err != nil {
				return at(place, err)
			}
		case slices.Contains(builtin, name) || slices.Contains(c.more, name) || slices.Contains(c.kept, name):
		default:
			return at(place, fmt.Errorf("{%s} is not a field, and no earlier step keeps it", name))
		}
	}
	return nil
}

// checkSecret checks the use of a secret. A private key is not sent, and a shared secret that signs is sent
// only as it is, so that a preview can mask it. A digest of the public key is not a secret.
func (c *compiler) checkSecret(f *field, use exchange.Use) error {
	switch {
	case !f.Secret || use.Function == "public_sha256":
		return nil
	case c.forBrowser:
		return fmt.Errorf("%s is a secret, which the person who consents would see", use)
	case c.forReaders:
		return fmt.Errorf("%s is a secret, which readers of the token would see", use)
	case f.Type == "private_key", c.isKey(f.name) && use.Function != "":
		return fmt.Errorf("%s is a key, which signs and is not sent; {%s|public_sha256} is allowed", use, f.name)
	}
	return nil
}

// isKey reports whether a field is the key of the grant's assertion.
func (c *compiler) isKey(name string) bool {
	for _, a := range []*Assertion{c.d.Assertion, c.g.given.Assertion} {
		if a != nil && a.Key == name {
			return true
		}
	}
	return false
}

func (c *compiler) use(name string) {
	if !slices.Contains(c.g.uses, name) {
		c.g.uses = append(c.g.uses, name)
	}
}
