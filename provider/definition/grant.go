package definition

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// A grant is a Grant with its templates parsed.
type grant struct {
	*Grant
	auth            string
	basic           []exchange.Template
	before          []step
	request         *request
	refresh         *request
	revocation      *request
	revocationAuth  string // "" for auth
	reading         exchange.Reading
	errorAt         string
	assertion       *assertion // {assertion}; nil if no request has it
	clientAssertion *assertion // nil if the client does not authenticate with one

	// uses are the names of the fields that the grant uses.
	uses []string
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

// builtin are the placeholders that are not fields.
var builtin = []string{"scope", "refresh_token", "now", "now_ms", "uuid", "token_url"}

// compileGrant checks a grant and parses its templates.
func (d *Definition) compileGrant(given *Grant) (*grant, error) {
	g := &grant{Grant: given, auth: cmp.Or(given.Auth, d.Auth, exchange.None), uses: slices.Clone(given.Needs)}
	for i, name := range given.Needs {
		if d.fields[name] == nil {
			return nil, fmt.Errorf("/needs/%d: no field named %s", i, name)
		}
	}
	if !slices.Contains(authStyles, g.auth) {
		return nil, fmt.Errorf("/auth: unknown value %q (allowed: %s)", g.auth, strings.Join(authStyles, ", "))
	}
	c := &compiler{d: d, g: g}
	if err := errors.Join(c.answer(), c.keys(), c.requests()); err != nil {
		return nil, firstOf(err)
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
}

func (c *compiler) answer() error {
	a, place := c.g.Answer, "/answer"
	if a == nil {
		a, place = c.d.Answer, "/answer (of the definition)"
	}
	reading := exchange.OAuth
	if a != nil {
		for _, own := range []struct {
			given *string
			to    *string
		}{{a.Token, &reading.Token}, {a.Expiry, &reading.Expiry}, {a.RefreshToken, &reading.RefreshToken}, {a.Scope, &reading.Scope}, {a.TokenType, &reading.TokenType}} {
			if own.given != nil {
				*own.to = *own.given
			}
		}
		reading.ExpiryUnit = cmp.Or(a.ExpiryUnit, reading.ExpiryUnit)
		reading.Header, reading.Cookie, reading.IsText, reading.OK, reading.Extra = a.TokenHeader, a.TokenCookie, a.Text, a.OK, a.Extra
		c.g.errorAt = a.Error
	}
	pointers := []string{reading.Token, reading.Expiry, reading.RefreshToken, reading.Scope, reading.TokenType, reading.OK, c.g.errorAt}
	for _, name := range sortedKeys(reading.Extra) {
		if !isFieldName.MatchString(name) || slices.Contains(answerFields, name) {
			return fmt.Errorf("%s/extra/%s: readers have a field of that name, or it is none; choose another", place, name)
		}
		pointers = append(pointers, reading.Extra[name])
	}
	for _, pointer := range pointers {
		if err := checkPointer(pointer); err != nil {
			return fmt.Errorf("%s: %w", place, err)
		}
	}
	c.g.reading = reading
	return nil
}

// answerFields are the fields that every reader of a token gets.
var answerFields = []string{
	"access_token", "token_type", "expire_time", "scope", "vendor", "config", "ttl", "rotation_period",
	"last_vault_rotation", "http_header", "other_http_headers", "query_parameter",
}

// keys parses the assertions.
func (c *compiler) keys() error {
	given, place := c.g.Grant.Assertion, "/assertion"
	if given == nil {
		given, place = c.d.Assertion, "/assertion (of the definition)"
	}
	if c.g.auth == exchange.PrivateKeyJWT {
		client := Assertion{}
		if given != nil {
			client = *given
		}
		if client.Claims == nil {
			client.Claims = map[string]any{"iss": "{client_id}", "sub": "{client_id}", "aud": "{token_url}"}
		}
		a, err := c.compileAssertion(&client)
		if err != nil {
			return fmt.Errorf("%s%w", place, err)
		}
		c.g.clientAssertion = a
		return nil
	}
	if !c.needsAssertion() {
		return nil
	}
	if given == nil || given.Claims == nil {
		return fmt.Errorf("/assertion: must be set with its claims, as {assertion} is used")
	}
	a, err := c.compileAssertion(given)
	if err != nil {
		return fmt.Errorf("%s%w", place, err)
	}
	c.g.assertion = a
	return nil
}

// needsAssertion reports whether the grant has {assertion} somewhere.
func (c *compiler) needsAssertion() bool {
	if c.g.Token != "" {
		return true
	}
	requests := []*Request{c.g.Grant.Request, c.g.Grant.Refresh}
	for i := range c.g.Grant.Before {
		requests = append(requests, &c.g.Grant.Before[i].Request)
	}
	if c.d.Revocation != nil {
		requests = append(requests, c.d.Revocation.Request)
	}
	for _, r := range requests {
		if r != nil && strings.Contains(fmt.Sprint(*r), "{assertion") {
			return true
		}
	}
	return false
}

// compileAssertion parses an assertion. Its errors begin with a place.
func (c *compiler) compileAssertion(given *Assertion) (*assertion, error) {
	a := &assertion{key: cmp.Or(given.Key, "private_key"), keyEncoding: given.KeyEncoding, algorithms: given.Algorithms}
	if f := c.d.fields[a.key]; f == nil || !f.Secret {
		return nil, fmt.Errorf("/key: no secret field named %s", a.key)
	}
	isShared := slices.Equal(given.Algorithms, []string{"HS256"})
	if isShared == (a.key == "private_key") {
		return nil, fmt.Errorf("/algorithms: a private_key signs with one of %s, another field with HS256 only", strings.Join(provider.Algorithms, ", "))
	}
	for i, algorithm := range given.Algorithms {
		if !isShared && !slices.Contains(provider.Algorithms, algorithm) {
			return nil, fmt.Errorf("/algorithms/%d: unknown algorithm %q (allowed: %s)", i, algorithm, strings.Join(provider.Algorithms, ", "))
		}
	}
	c.use(a.key)
	for _, optional := range []string{"key_id", "signing_algorithm"} {
		if c.d.fields[optional] != nil {
			c.use(optional)
		}
	}
	headers, err := c.templates(given.Headers, "/headers", "iat")
	if err != nil {
		return nil, err
	}
	claims := map[string]any{}
	for name, value := range given.Claims {
		switch {
		case name == "jti" && value == nil:
			a.OmitsID = true
		case name == "exp" && value == nil:
			a.OmitsExpiry = true
		case name == "iat" || name == "exp" || name == "jti":
			return nil, fmt.Errorf("/claims/%s: the engine sets it; set lifetime; null leaves out jti or exp", name)
		default:
			claims[name] = value
		}
	}
	tree, err := exchange.NewTree(claims)
	if err != nil {
		return nil, fmt.Errorf("/claims%w", err)
	}
	if err := c.declared("/claims", tree.Names(), "iat"); err != nil {
		return nil, err
	}
	a.Headers, a.Claims, a.Lifetime = headers, tree, time.Duration(given.Lifetime)
	return a, nil
}

// requests parses the requests.
func (c *compiler) requests() error {
	g := c.g
	switch {
	case g.Grant.Token != "" && g.Grant.Token != "{assertion}":
		return fmt.Errorf(`/token: must be "{assertion}"`)
	case (g.Grant.Token != "") == (g.Grant.Request != nil):
		return fmt.Errorf("/request: give it, or token, but not both")
	case len(g.Grant.Basic) > 0 && g.auth != exchange.None:
		return fmt.Errorf("/basic: cannot be given together with auth")
	}
	for i, text := range g.Grant.Basic {
		template, err := exchange.ParseTemplate(text)
		if err == nil {
			err = c.declared("", template.Names())
		}
		if err != nil {
			return at(fmt.Sprintf("/basic/%d", i), err)
		}
		g.basic = append(g.basic, template)
	}
	c.useClient()
	for i, given := range g.Grant.Before {
		r, err := c.request(&given.Request)
		if err != nil {
			return at(fmt.Sprintf("/before/%d/request", i), err)
		}
		for _, name := range sortedKeys(given.Keep) {
			place := fmt.Sprintf("/before/%d/keep/%s", i, name)
			if !isFieldName.MatchString(name) || c.d.fields[name] != nil || slices.Contains(builtin, name) {
				return fmt.Errorf("%s: is another value's name, or no name; choose another", place)
			}
			if err := checkPointer(given.Keep[name]); err != nil {
				return at(place, err)
			}
			c.kept = append(c.kept, name)
		}
		g.before = append(g.before, step{request: *r, keep: given.Keep})
	}
	for _, one := range []struct {
		place string
		given *Request
		to    **request
	}{{"/request", g.Grant.Request, &g.request}, {"/refresh", g.Grant.Refresh, &g.refresh}} {
		if one.given == nil {
			continue
		}
		r, err := c.request(one.given)
		if err != nil {
			return at(one.place, err)
		}
		*one.to = r
	}
	return c.revocation()
}

// useClient notes the fields with which the client authenticates.
func (c *compiler) useClient() {
	switch c.g.auth {
	case exchange.None:
		return
	case exchange.PrivateKeyJWT, exchange.Public:
		c.use("client_id")
	default:
		c.use("client_id")
		c.use("client_secret")
	}
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
	c.kept = append(c.kept, "token")
	compiled, err := c.request(&given)
	if err != nil {
		return fmt.Errorf("/revocation (of the definition): %w", err)
	}
	c.g.revocation, c.g.revocationAuth = compiled, r.Auth
	if r.Auth == exchange.PrivateKeyJWT && c.g.clientAssertion == nil {
		return fmt.Errorf("/revocation/auth (of the definition): the grant %s has no key for private_key_jwt", c.g.GrantType)
	}
	return nil
}

// request parses a request.
func (c *compiler) request(given *Request) (*request, error) {
	if len(given.Form) > 0 && given.JSON != nil {
		return nil, errors.New("/form: cannot be given together with json")
	}
	r := &request{Request: exchange.Request{Method: given.Method}}
	url := cmp.Or(given.URL, c.d.TokenURL)
	if err := c.url(url, r); err != nil {
		return nil, at("/url", err)
	}
	var err error
	if r.Query, err = c.templates(given.Query, "/query", "assertion"); err != nil {
		return nil, err
	}
	if r.Headers, err = c.templates(given.Headers, "/headers", "assertion"); err != nil {
		return nil, err
	}
	if r.Form, err = c.templates(given.Form, "/form", "assertion"); err != nil {
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
	return r, c.declared("/json", tree.Names(), "assertion")
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

// templates parses templates by name, which may have more placeholders than those of all templates.
func (c *compiler) templates(texts map[string]string, place string, more ...string) (map[string]exchange.Template, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	parsed := map[string]exchange.Template{}
	for _, name := range sortedKeys(texts) {
		template, err := exchange.ParseTemplate(texts[name])
		if err == nil {
			err = c.declared("", template.Names(), more...)
		}
		if err != nil {
			return nil, at(place+pointerTo(name), err)
		}
		parsed[name] = template
	}
	return parsed, nil
}

// declared checks that placeholders are fields, or are set otherwise.
func (c *compiler) declared(place string, names []string, more ...string) error {
	if place != "" {
		place += ": "
	}
	for _, name := range names {
		switch {
		case c.d.fields[name] != nil:
			c.use(name)
		case name == "scope" || name == "refresh_token" && c.g.Grant.Refresh == nil:
			return fmt.Errorf("%s{%s} needs a field named %s", place, name, name)
		case slices.Contains(builtin, name) || slices.Contains(more, name) || slices.Contains(c.kept, name):
		default:
			return fmt.Errorf("%s{%s} is not a field, and no earlier step keeps it", place, name)
		}
	}
	return nil
}

func (c *compiler) use(name string) {
	if !slices.Contains(c.g.uses, name) {
		c.g.uses = append(c.g.uses, name)
	}
}
