package definition

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// A grant is a Grant with its templates parsed.
type grant struct {
	given           *Grant
	auth            string
	basic           []exchange.Template
	before          []step
	request         *request
	refresh         *request
	revocation      *request
	revocationAuth  string // "" for auth
	reading         exchange.Reading
	refreshReading  *exchange.Reading // of refresh; nil for reading
	consent         *consent          // nil if no consent yields the refresh token
	delegated       *delegated        // nil if no caller's token is exchanged
	errorAt         string
	assertion       *assertion // {assertion}; nil if no request has it
	clientAssertion *assertion // nil if the client does not authenticate with one
	keyless         keyless

	// uses are the names of the fields that the grant uses.
	uses []string

	rotations []*rotation // of the secrets that the grant uses
}

// A request is an exchange.Request with the template of its URL.
type request struct {
	url exchange.Template
	exchange.Request
}

type step struct {
	request
	keep map[string]string
}

// An assertion is an exchange.Assertion with the field of its key.
type assertion struct {
	exchange.Assertion
	key, keyEncoding string
	algorithms       []string
}

// authStyles are the values of auth: those of exchange, and client_secret for either of the first two.
var authStyles = append([]string{"client_secret", exchange.Public}, exchange.AuthStyles...)

// inBody are the values of auth that add the client to the body.
var inBody = []string{"client_secret", exchange.SecretPost, exchange.PrivateKeyJWT, exchange.IdentityToken, exchange.TLSClientAuth, exchange.Public}

// builtin are the placeholders that are not fields.
var builtin = []string{"scope", "refresh_token", "now", "now_ms", "uuid", "token_url", "expires", "expires_date", "expires_time"}

// compileGrant checks a grant and parses its templates.
func (d *Definition) compileGrant(given *Grant) (*grant, error) {
	g := &grant{given: given, auth: cmp.Or(given.Auth, d.Auth, exchange.None)}
	for i, name := range given.Needs {
		if d.fields[name] == nil {
			return nil, fmt.Errorf("/needs/%d: no field named %s", i, name)
		}
	}
	if !slices.Contains(authStyles, g.auth) {
		return nil, fmt.Errorf("/auth: unknown value %q (allowed: %s)", g.auth, strings.Join(authStyles, ", "))
	}
	for _, name := range clientFields(g.auth) {
		if d.fields[name] == nil {
			return nil, fmt.Errorf("/auth: %s needs a field named %s", g.auth, name)
		}
	}
	c := &compiler{d: d, g: g}
	if err := errors.Join(c.answer(), c.keys(), c.requests(), c.consent(), c.delegation()); err != nil {
		return nil, firstOf(err)
	}
	for i, name := range given.Needs {
		if !g.usesField(d, name) {
			return nil, fmt.Errorf("/needs/%d: the grant does not use %s", i, name)
		}
	}
	return g, nil
}

// firstOf returns the first of joined errors.
func firstOf(err error) error {
	if joined, is := err.(interface{ Unwrap() []error }); is {
		return joined.Unwrap()[0]
	}
	return err
}

// A compiler parses the parts of a grant.
type compiler struct {
	d    *Definition
	g    *grant
	kept []string // names that earlier steps keep
	more []string // further placeholders

	proof *assertion // of a rotation

	// forReaders and forBrowser are whether readers, or a person who consents, see what is compiled.
	forReaders, forBrowser bool
}

// request parses a request.
func (c *compiler) request(given *Request) (*request, error) {
	r := &request{Request: exchange.Request{Method: given.Method}}
	if given.JSON != nil && len(given.Form) > 0 {
		return nil, fmt.Errorf("/json: cannot be given together with form")
	}
	if err := c.url(cmp.Or(given.URL, c.d.TokenURL), r); err != nil {
		if given.URL == "" && c.d.TokenURL != "" {
			return nil, at(ofDefinition+"/token_url", err)
		}
		return nil, at("/url", err)
	}
	var err error
	if r.Query, err = c.templates(given.Query, "/query", inRequests...); err != nil {
		return nil, err
	}
	if r.Headers, err = c.templates(given.Headers, "/headers", inRequests...); err != nil {
		return nil, err
	}
	if err := checkHeaders("/headers", given.Headers); err != nil {
		return nil, err
	}
	if r.Form, err = c.templates(given.Form, "/form", inRequests...); err != nil {
		return nil, err
	}
	if given.JSON == nil {
		return r, nil
	}
	tree, err := exchange.NewTree(given.JSON)
	if err != nil {
		return nil, fmt.Errorf("/json%w", err)
	}
	r.JSON = &tree
	if _, isObject := given.JSON.(map[string]any); !isObject && slices.Contains(inBody, c.g.auth) {
		return nil, fmt.Errorf("/json: %s adds the client to the body, so it must be an object", c.g.auth)
	}
	return r, c.declared("/json", tree.Uses(), inRequests...)
}

// url parses the template of a URL, and checks that no value can change its host.
func (c *compiler) url(text string, r *request) error {
	if text == "" {
		return fmt.Errorf("must be set, or token_url of the definition")
	}
	template, err := exchange.ParseTemplate(text)
	if err != nil {
		return err
	}
	if err := provider.CheckURL("url", placeholder.ReplaceAllString(text, "1")); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "url: "))
	}
	if u, err := url.Parse(placeholder.ReplaceAllString(text, "1")); err == nil {
		if _, err := url.ParseQuery(u.RawQuery); err != nil {
			return errors.New("the query cannot be read; write a semicolon as %3B and a percent sign as %25")
		}
	}
	for _, name := range template.Names() {
		f := c.d.fields[name]
		if f == nil {
			return fmt.Errorf("{%s} is not a field; a URL is known before the first request", name)
		}
		c.use(name)
		if f.Secret {
			return fmt.Errorf("{%s} is a secret, which would be shown as part of the URL; send it in the query, a header or the body", name)
		}
		if strings.Contains(hostOf(text), "{"+name) {
			if err := f.checkInHost(); err != nil {
				return err
			}
		}
	}
	r.url = template
	return nil
}
