// Package providertest tests the contract of a provider: what the engine relies on for
// every vendor. In addition to this suite, a provider needs tests that compare each request
// with the vendor's documentation.
package providertest

import (
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A Contract is a provider with what the suite needs to test it.
type Contract struct {
	Provider provider.Provider

	// Kinds are the provider's kinds of credential, by name.
	Kinds map[string]Kind
}

// A Kind is a kind of credential.
type Kind struct {
	// Fields are the fields of a valid credential.
	Fields map[string]any

	// Vendor returns a simulated vendor that accepts the credential. If it has a method
	// Accepts(accessToken string) bool, as those of vendorsim do, the suite uses it to
	// check revocation.
	Vendor func() http.Handler

	// Settings sets what a credential without a secret has in its place; nil for a credential with one.
	Settings func(*provider.Settings)

	// Scope is one of the credential's scopes; empty if it cannot be narrowed.
	Scope string

	// Offline reports whether the vendor is never called.
	Offline bool

	// Replaced is the member of a response with a rotated refresh token. ExpiresIn is the
	// member with the lifetime, in units of ExpiresInUnit. They are empty if there is no
	// such member. Only Fuzz uses them.
	Replaced      string
	ExpiresIn     string
	ExpiresInUnit time.Duration
}

// Test runs the suite.
func Test(t *testing.T, c Contract) {
	t.Run("describes itself", c.testDescription)
	t.Run("rejects invalid fields", c.testInvalidFields)
	for _, name := range slices.Sorted(maps.Keys(c.Kinds)) {
		k := c.Kinds[name]
		t.Run(name, func(t *testing.T) {
			t.Run("opens without a call", run(c, k, Kind.testOpen))
			t.Run("yields tokens", run(c, k, Kind.testExchange))
			t.Run("sends secrets only to its destinations", run(c, k, Kind.testDestinations))
			t.Run("requires each of its secrets", run(c, k, Kind.testSecrets))
			t.Run("can be narrowed, or states why not", run(c, k, Kind.testNarrow))
			t.Run("stays valid for MaxIdle", run(c, k, Kind.testMaxIdle))
			t.Run("is safe for concurrent use", run(c, k, Kind.testConcurrency))
			t.Run("revokes tokens, or states why not", run(c, k, Kind.testRevocation))
			if !k.Offline {
				t.Run("accepts each format of a response", run(c, k, Kind.testFormats))
				t.Run("quotes the vendor's errors", run(c, k, Kind.testQuotedErrors))
				t.Run("returns the right kind of error", func(t *testing.T) { k.testFailures(t, c) })
			}
		})
	}
}

func run(c Contract, k Kind, test func(Kind, *testing.T, Contract)) func(*testing.T) {
	return func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(10 * time.Minute) // away from the full hour
			test(k, t, c)
		})
	}
}

var segment = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// common are the fields that every credential has, whatever its provider.
var common = []string{"name", "request_timeout", "ca_cert", "default_ttl", "max_ttl", "keepalive_interval", "verify", "private_key_source", "keypair", "description", "expires"}

func (c Contract) testDescription(t *testing.T) {
	assert.Regexp(t, segment, c.Provider.Name(), "the name is a path segment")
	assert.NotEmpty(t, c.Provider.Summary())
	for _, argument := range strings.Fields(c.Provider.Example()) {
		field, _, _ := strings.Cut(argument, "=")
		assert.Contains(t, c.Provider.Fields(), field, "the example's fields exist")
	}
	assert.NotEmpty(t, c.Provider.Example())
	assert.NotEmpty(t, c.Kinds)
	for name, field := range c.Provider.Fields() {
		assert.NotContains(t, common, name, "the field exists for every credential")
		assert.True(t, strings.HasSuffix(field.Description, "."), "the description of %s is a sentence", name)
		require.NotNil(t, field.DisplayAttrs, name)
		assert.NotEmpty(t, field.DisplayAttrs.Name, name)
		if field.DisplayAttrs.Sensitive {
			assert.Equal(t, framework.TypeString, field.Type, "%s is a secret, so it must be a string", name)
		}
	}
	for name, kind := range c.Kinds {
		if kind.Settings == nil {
			assert.NotEmpty(t, c.secrets(kind), "%s has a field that is marked as a secret", name)
		}
		for field := range kind.Fields {
			assert.Contains(t, c.Provider.Fields(), field, name)
		}
	}
}

func (c Contract) testInvalidFields(t *testing.T) {
	for _, raw := range []string{`{}`, `[]`, `null`, `{"scope": 7}`, `not JSON`} {
		_, err := c.Provider.Open(provider.Settings{Fields: json.RawMessage(raw), Client: c.client(t, http.NotFoundHandler()), WriteTime: time.Now()})
		assertKind(t, provider.Invalid, err, raw)
	}
}

func (k Kind) testOpen(t *testing.T, c Contract) {
	called := false
	c.open(t, k, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
	assert.False(t, called)
}

func (k Kind) testExchange(t *testing.T, c Contract) {
	var grant provider.Grant
	credential := c.open(t, k, k.Vendor())
	for range 3 {
		answer, next := exchange(t, credential, grant)
		grant = next
		assert.NotEmpty(t, answer.AccessToken)
		assert.False(t, answer.Clock.Sent.IsZero(), "Sent is the earliest time at which the token was issued")
		token, err := answer.Token(provider.TTL{Default: time.Hour}, provider.Token{})
		require.NoError(t, err)
		assert.True(t, token.ExpireTime.After(time.Now()))
		time.Sleep(time.Minute)
	}
}

func (k Kind) testSecrets(t *testing.T, c Contract) {
	for field := range c.secrets(k) {
		fields := maps.Clone(k.Fields)
		delete(fields, field)
		_, err := c.tryOpen(t, k.with(fields), k.Vendor())
		assertKind(t, provider.Invalid, err, "without "+field)

		invalid := []string{"canary with\na line break", "'canary\n'"}
		if field != "password" { // which can have quotes, and be in any language
			invalid = append(invalid, `"canary"`, "canary with ümlaut")
		}
		for _, pasted := range invalid {
			fields[field] = pasted
			_, err = c.tryOpen(t, k.with(fields), k.Vendor())
			require.Error(t, err, "with an invalid %s: %q", field, pasted)
			assertKind(t, provider.Invalid, err, "with an invalid "+field)
			assert.Contains(t, err.Error(), field, "the error names the field")
			assert.NotContains(t, err.Error(), "canary", "and does not quote it")
		}
	}
}

func (k Kind) testNarrow(t *testing.T, c Contract) {
	credential := c.open(t, k, k.Vendor())
	if k.Scope == "" {
		_, err := credential.Narrow([]string{"a-scope"})
		assertKind(t, provider.Invalid, err, "Narrow")
		assert.Contains(t, err.Error(), "scope: ", "the error names the field")
		return
	}
	require.Contains(t, credential.Scope(), k.Scope)
	require.Greater(t, len(credential.Scope()), 1)
	narrow, err := credential.Narrow([]string{k.Scope})
	require.NoError(t, err)
	assert.Equal(t, []string{k.Scope}, narrow.Scope())
	answer, err := narrow.Exchange(t.Context(), provider.Grant{})
	require.NoError(t, err)
	assert.Equal(t, []string{k.Scope}, answer.Scope)
	_, err = credential.Narrow([]string{k.Scope, "a-scope-that-it-does-not-have"})
	assertKind(t, provider.Invalid, err, "a wider scope")
}

// testMaxIdle checks that a credential stays valid if each use comes just before MaxIdle ends.
func (k Kind) testMaxIdle(t *testing.T, c Contract) {
	credential := c.open(t, k, k.Vendor())
	idle := credential.MaxIdle()
	assert.GreaterOrEqual(t, idle, time.Duration(0))
	if idle <= 0 {
		return
	}
	assert.GreaterOrEqual(t, idle, time.Hour, "the engine sweeps once a minute, so it could not exchange many credentials in a shorter time")
	var grant provider.Grant
	for range 3 {
		time.Sleep(idle - time.Minute)
		_, grant = exchange(t, credential, grant)
	}
	assert.Equal(t, idle, credential.MaxIdle())
}

// testConcurrency is for the race detector. A vendor may reject a refresh token that it has
// already rotated.
func (k Kind) testConcurrency(t *testing.T, c Contract) {
	credential := c.open(t, k, k.Vendor())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, err := credential.Exchange(t.Context(), provider.Grant{})
			if err != nil {
				assertKind(t, provider.Rejected, err, "concurrently")
			}
			credential.MaxIdle()
			credential.Scope()
			if narrow, err := credential.Narrow([]string{k.Scope}); err == nil {
				_, _ = narrow.Exchange(t.Context(), provider.Grant{})
			}
		})
	}
	all.Wait()
}

// exchange exchanges a credential, which must succeed, and returns the grant for the next
// exchange as well.
func exchange(t *testing.T, credential provider.Credential, last provider.Grant) (*provider.Answer, provider.Grant) {
	t.Helper()
	answer, err := credential.Exchange(t.Context(), last)
	require.NoError(t, err)
	if answer.Grant != nil {
		last = *answer.Grant
	}
	return answer, last
}

// secrets returns the values of a kind's secret fields, by name.
func (c Contract) secrets(k Kind) map[string]string {
	secrets := map[string]string{}
	for name, field := range c.Provider.Fields() {
		if value, ok := k.Fields[name].(string); ok && field.DisplayAttrs != nil && field.DisplayAttrs.Sensitive {
			secrets[name] = value
		}
	}
	return secrets
}

// with returns the kind with other fields.
func (k Kind) with(fields map[string]any) Kind {
	k.Fields = fields
	return k
}

func (c Contract) open(t *testing.T, k Kind, vendor http.Handler) provider.Credential {
	t.Helper()
	credential, err := c.tryOpen(t, k, vendor)
	require.NoError(t, err)
	return credential
}

func (c Contract) tryOpen(t *testing.T, k Kind, vendor http.Handler) (provider.Credential, error) {
	t.Helper()
	raw, err := json.Marshal(k.Fields)
	require.NoError(t, err)
	settings := provider.Settings{Fields: raw, Client: c.client(t, vendor), WriteTime: time.Now()}
	if k.Settings != nil {
		k.Settings(&settings)
	}
	return c.Provider.Open(settings)
}

// timeout is the credential's request_timeout in these tests.
const timeout = 10 * time.Second

func (c Contract) client(t *testing.T, vendor http.Handler) *provider.Client {
	t.Helper()
	client, err := provider.NewClient(provider.ClientOptions{Timeout: timeout, Transport: vendorsim.Transport(vendor)})
	require.NoError(t, err)
	return client
}

func assertKind(t *testing.T, kind provider.Kind, err error, what string) {
	t.Helper()
	var e *provider.Error
	if assert.ErrorAs(t, err, &e, what) {
		assert.Equal(t, kind, e.Kind, "%s: %s", what, e)
	}
}
