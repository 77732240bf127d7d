package definition

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// keys parses the assertions.
func (c *compiler) keys() error {
	given, place := c.g.given.Assertion, "/assertion"
	if given == nil {
		given, place = c.d.Assertion, ofDefinition+"/assertion"
	}
	if c.g.auth == exchange.PrivateKeyJWT {
		if c.needsAssertion() {
			return fmt.Errorf("/auth: private_key_jwt cannot be given together with {assertion}")
		}
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

// hasAssertion matches the placeholder of the assertion, with or without a function.
var hasAssertion = regexp.MustCompile(`\{assertion[|}]`)

// needsAssertion reports whether the grant has {assertion} somewhere.
func (c *compiler) needsAssertion() bool {
	if c.g.given.Token != "" {
		return true
	}
	given := c.g.given // as it was written
	requests := []*Request{given.Request, given.Refresh}
	for _, delegation := range []*Delegation{given.Delegation, c.d.Delegation} {
		if delegation != nil {
			requests = append(requests, delegation.Request)
		}
	}
	if c.d.Revocation != nil {
		requests = append(requests, c.d.Revocation.Request)
	}
	for i := range given.Before {
		requests = append(requests, &given.Before[i].Request)
	}
	for _, r := range requests {
		if r != nil && hasAssertion.MatchString(fmt.Sprint(*r)) {
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
	switch {
	case isShared == (a.key == "private_key"):
		return nil, fmt.Errorf("/algorithms: a private_key signs with one of %s, any other field with HS256", strings.Join(provider.Algorithms, ", "))
	case a.keyEncoding != "" && !isShared:
		return nil, fmt.Errorf("/key_encoding: a private_key has none")
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
	c.forReaders = c.g.given.Token != ""
	defer func() { c.forReaders = false }()
	headers, err := c.templates(given.Headers, "/headers", inAssertions...)
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
	if err := c.declared("/claims", tree.Uses(), inAssertions...); err != nil {
		return nil, err
	}
	a.Headers, a.Claims, a.Lifetime = headers, tree, time.Duration(given.Lifetime)
	return a, a.checkKeyless(c.g)
}
