// Package providertest is the contract of a provider, as a suite of tests: what the
// engine relies on, whatever the vendor. A provider is right when it passes and its own
// tests have compared each request with the vendor's documentation.
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

// A Contract is a provider, and what it takes to test it.
type Contract struct {
	Provider provider.Provider

	// Kinds are the kinds of credential that the provider has, by name.
	Kinds map[string]Kind
}

// A Kind is a kind of credential.
type Kind struct {
	// Fields are those of a good credential.
	Fields map[string]any

	// Vendor makes a simulated vendor who takes it. One who has a method
	// Accepts(accessToken string) bool, as vendorsim's have, is asked what has become of
	// a token that is revoked.
	Vendor func() http.Handler

	// Scope is one of several that the credential has, if it can be narrowed.
	Scope string

	// Offline says that there is nothing to exchange: the vendor is never called.
	Offline bool

	// Replaced is the member of an answer that takes the refresh token's place, and
	// ExpiresIn the one that states a lifetime, in units of ExpiresInUnit; empty if there
	// is none. They are for Fuzz.
	Replaced      string
	ExpiresIn     string
	ExpiresInUnit time.Duration
}

// Test runs the suite.
func Test(t *testing.T, c Contract) {
	t.Run("describes itself", c.describesItself)
	t.Run("refuses what is no credential", c.refusesNonsense)
	for _, name := range slices.Sorted(maps.Keys(c.Kinds)) {
		k := c.Kinds[name]
		t.Run(name, func(t *testing.T) {
			t.Run("is opened without a call", run(c, k, Kind.opensOffline))
			t.Run("is exchanged for a token", run(c, k, Kind.exchanges))
			t.Run("sends its secrets where it says", run(c, k, Kind.sendsWhereItSays))
			t.Run("needs each of its secrets", run(c, k, Kind.needsItsSecrets))
			t.Run("is narrowed, or says why not", run(c, k, Kind.narrows))
			t.Run("lives as long as it says", run(c, k, Kind.outlivesDisuse))
			t.Run("is used from several goroutines", run(c, k, Kind.isShared))
			t.Run("revokes its tokens, or says why not", run(c, k, Kind.revokes))
			if !k.Offline {
				t.Run("reads its vendor's text", run(c, k, Kind.readsText))
				t.Run("quotes its vendor's errors", run(c, k, Kind.quotesErrors))
				t.Run("tells failures apart", func(t *testing.T) { k.tellsFailuresApart(t, c) })
			}
		})
	}
}

func run(c Contract, k Kind, test func(Kind, *testing.T, Contract)) func(*testing.T) {
	return func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(10 * time.Minute) // no boundary of the vendor's is near
			test(k, t, c)
		})
	}
}

var segment = regexp.MustCompile(`^[a-z][a-z0-9]*$`)

// common are the fields that every credential has beside the provider's own.
var common = []string{"name", "request_timeout", "ca_cert", "default_ttl", "max_ttl", "keepalive_interval", "verify", "private_key_source", "keypair"}

func (c Contract) describesItself(t *testing.T) {
	assert.Regexp(t, segment, c.Provider.Name(), "it is a segment of a path")
	assert.NotEmpty(t, c.Provider.Summary())
	assert.NotEmpty(t, c.Kinds)
	for name, field := range c.Provider.Fields() {
		assert.NotContains(t, common, name, "is a field of every credential")
		assert.True(t, strings.HasSuffix(field.Description, "."), "%s is described in a sentence", name)
		require.NotNil(t, field.DisplayAttrs, name)
		assert.NotEmpty(t, field.DisplayAttrs.Name, name)
		if field.DisplayAttrs.Sensitive {
			assert.Equal(t, framework.TypeString, field.Type, "%s is a secret, which is one string", name)
		}
	}
	for name, kind := range c.Kinds {
		assert.NotEmpty(t, c.secrets(kind), "%s has a secret, and its field is marked as one", name)
		for field := range kind.Fields {
			assert.Contains(t, c.Provider.Fields(), field, name)
		}
	}
}

func (c Contract) refusesNonsense(t *testing.T) {
	for _, raw := range []string{`{}`, `[]`, `null`, `{"scope": 7}`, `not JSON`} {
		_, err := c.Provider.Open(provider.Settings{Fields: json.RawMessage(raw), Client: c.client(t, http.NotFoundHandler()), WriteTime: time.Now()})
		assertKind(t, provider.Invalid, err, raw)
	}
}

func (k Kind) opensOffline(t *testing.T, c Contract) {
	called := false
	c.open(t, k.Fields, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
	assert.False(t, called)
}

func (k Kind) exchanges(t *testing.T, c Contract) {
	var grant provider.Grant
	credential := c.open(t, k.Fields, k.Vendor())
	for range 3 {
		answer, next := exchange(t, credential, grant)
		grant = next
		assert.NotEmpty(t, answer.AccessToken)
		assert.False(t, answer.Clock.Sent.IsZero(), "the time when it was asked is when the token was issued at the earliest")
		token, err := answer.Token(provider.TTL{Default: time.Hour}, provider.Token{})
		require.NoError(t, err)
		assert.True(t, token.ExpireTime.After(time.Now()))
		time.Sleep(time.Minute)
	}
}

func (k Kind) needsItsSecrets(t *testing.T, c Contract) {
	for field := range c.secrets(k) {
		fields := maps.Clone(k.Fields)
		delete(fields, field)
		_, err := c.tryOpen(t, fields, k.Vendor())
		assertKind(t, provider.Invalid, err, "without "+field)

		for _, pasted := range []string{"canary with\na line break", `"canary"`, "canary with ümlaut", "'canary\n'"} {
			fields[field] = pasted
			_, err = c.tryOpen(t, fields, k.Vendor())
			assertKind(t, provider.Invalid, err, "with a broken "+field)
			assert.Contains(t, err.Error(), field, "the error names the field")
			assert.NotContains(t, err.Error(), "canary", "and does not quote it")
		}
	}
}

func (k Kind) narrows(t *testing.T, c Contract) {
	credential := c.open(t, k.Fields, k.Vendor())
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
	_, err = credential.Narrow([]string{k.Scope, "a-scope-that-nobody-granted"})
	assertKind(t, provider.Invalid, err, "a scope that is wider")
}

// outlivesDisuse has a credential work that is used just in time, again and again.
func (k Kind) outlivesDisuse(t *testing.T, c Contract) {
	credential := c.open(t, k.Fields, k.Vendor())
	idle := credential.MaxIdle()
	assert.GreaterOrEqual(t, idle, time.Duration(0))
	if idle <= 0 {
		return
	}
	assert.GreaterOrEqual(t, idle, time.Hour, "or the engine, which looks once a minute, could not keep many alive")
	var grant provider.Grant
	for range 3 {
		time.Sleep(idle - time.Minute)
		_, grant = exchange(t, credential, grant)
	}
	assert.Equal(t, idle, credential.MaxIdle())
}

// isShared is for the race detector. A vendor may refuse who comes twice with a refresh
// token that he has replaced.
func (k Kind) isShared(t *testing.T, c Contract) {
	credential := c.open(t, k.Fields, k.Vendor())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, err := credential.Exchange(t.Context(), provider.Grant{})
			if err != nil {
				assertKind(t, provider.Rejected, err, "with others")
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

// exchange is one that succeeds, and the grant that it leaves for the next.
func exchange(t *testing.T, credential provider.Credential, last provider.Grant) (*provider.Answer, provider.Grant) {
	t.Helper()
	answer, err := credential.Exchange(t.Context(), last)
	require.NoError(t, err)
	if answer.Grant != nil {
		last = *answer.Grant
	}
	return answer, last
}

// secrets are the secret fields of a kind, and their values.
func (c Contract) secrets(k Kind) map[string]string {
	secrets := map[string]string{}
	for name, field := range c.Provider.Fields() {
		if value, ok := k.Fields[name].(string); ok && field.DisplayAttrs != nil && field.DisplayAttrs.Sensitive {
			secrets[name] = value
		}
	}
	return secrets
}

func (c Contract) open(t *testing.T, fields map[string]any, vendor http.Handler) provider.Credential {
	t.Helper()
	credential, err := c.tryOpen(t, fields, vendor)
	require.NoError(t, err)
	return credential
}

func (c Contract) tryOpen(t *testing.T, fields map[string]any, vendor http.Handler) (provider.Credential, error) {
	t.Helper()
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	return c.Provider.Open(provider.Settings{Fields: raw, Client: c.client(t, vendor), WriteTime: time.Now()})
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
