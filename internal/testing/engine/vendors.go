package engine

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// NewRotation has two credentials with one generated key pair, and another that
// is pending and that Kensho does not know yet.
func NewRotation(t *testing.T) (e *Engine, pending *logical.Response) {
	t.Helper()
	e = NewGenerated(t)
	e.Write("config/kensho/scribe", map[string]any{"client_id": ClientID, "private_key_source": "generated", "keypair": "prod", "product": "scribe"})
	return e, e.Pending("prod", nil)
}

// selfSigned is the certificate of an authority, in PEM.
func selfSigned(name string) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// IssuerClient is a credential whose endpoints are in its issuer's metadata.
func IssuerClient() map[string]any {
	fields := SecretClient(false)
	delete(fields, "token_url")
	fields["issuer"] = vendorsim.OAuthIssuer
	return fields
}

// MetadataDown has the vendor's metadata fail, and nothing else.
func MetadataDown() vendorsim.Conduct {
	return vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		if strings.Contains(r.URL.Path, "/.well-known/") {
			return vendorsim.Answer(http.StatusServiceUnavailable, `"down"`)
		}
		return nil
	}}
}

// SecretClient returns the fields of an OAuth client with a secret, at a vendor that can revoke or not.
func SecretClient(revocation bool) map[string]any {
	fields := map[string]any{
		"token_url": vendorsim.OAuthTokenURL, "client_id": ClientID, "client_secret": ClientSecret,
		"auth_style": "client_secret_basic", "scope": "read,write",
	}
	if revocation {
		fields["revocation_url"] = vendorsim.OAuthRevocationURL
	}
	return fields
}

// NewOAuth has a credential of an OAuth 2.0 vendor who can revoke, and a role
// whose readers each have a token of their own.
func NewOAuth(t *testing.T) *Engine {
	t.Helper()
	e := New(t)
	client := vendorsim.OAuthClient{
		ID: ClientID, Secret: ClientSecret, Scopes: []string{"read", "write"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant},
	}
	e.Sim.AddOAuthClient(client)
	e.Sim.AddOAuthRefreshToken(client, RefreshToken, "read", "write")
	e.Write("config/oauth2/api", SecretClient(true))
	e.Write("roles/mine", map[string]any{"config": "api", "scope": "read", "dedicated": true, "max_leases": 3})
	return e
}

// ACertificate is of some authority, and otherCertificate of another. Nobody verifies a
// connection by them: the vendors are simulated above TLS.
var ACertificate = selfSigned("a")

// OtherCertificate is that of another authority.
var OtherCertificate = selfSigned("other")

// PastedForms are those of a PEM file that are accepted besides the file itself.
var PastedForms = map[string]func(string) string{
	"with line breaks written out": func(text string) string { return strings.ReplaceAll(text, "\n", `\n`) },
	"on one line":                  func(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), "\n", " ") },
	"indented":                     func(text string) string { return strings.ReplaceAll("\n"+strings.TrimSpace(text), "\n", "\n  ") },
	"in quotes":                    func(text string) string { return `"` + strings.ReplaceAll(text, "\n", `\n`) + `"` },
}

// Answering has every vendor answer an exchange with a body, in which ${jwt} is a JWT with
// an exp so far on.
func (e *Engine) Answering(body string, exp time.Duration, date func() time.Time) {
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"exp": time.Now().Add(exp).Unix()}).SignedString([]byte("k"))
	require.NoError(e.T, err)
	e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
		if date != nil {
			w.Header().Set("Date", date().UTC().Format(http.TimeFormat))
		}
		_, _ = fmt.Fprint(w, strings.ReplaceAll(body, "${jwt}", token))
	})})
}

// Kinds are a credential of each provider and kind that asks a vendor, with the members of
// its answer that have the token and its lifetime in seconds.
var Kinds = map[string]struct {
	Path   string
	Fields func() map[string]any
	Answer string // with the token and the lifetime in units of unit to be filled in
	Unit   time.Duration
}{
	"kensho, key pair": {"config/kensho/prod", KeyPairFields, `{"access_token":%q,"expires_in":%v}`, time.Second},
	"kensho, refresh":  {"config/kensho/prod", func() map[string]any { return map[string]any{"refresh_token": RefreshToken} }, `{"accessToken":%q,"n":%v}`, 0},
	"sitecore": {"config/sitecore/prod", func() map[string]any { return map[string]any{"api_key": APIKey} },
		`{"accessToken":%q,"refreshToken":"r-0123456789","accessTokenExpiry":%v,"refreshTokenExpiry":604800000}`, time.Millisecond},
	"oauth2": {"config/oauth2/prod", func() map[string]any { return SecretClient(false) }, `{"access_token":%q,"expires_in":%v}`, time.Second},
}

// SigningClient is one that has its refresh tokens replaced.
func SigningClient(keys map[string]crypto.PublicKey) vendorsim.OAuthClient {
	return vendorsim.OAuthClient{
		ID: ClientID, AuthMethods: []string{vendorsim.PrivateKeyJWT}, Keys: keys, Scopes: []string{"read"}, Rotate: true,
		Grants: []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant},
	}
}

// NewSigning has two credentials of a vendor who replaces refresh tokens, a and b,
// with one generated key pair, and another that is pending and that the vendor knows.
func NewSigning(t *testing.T) *Engine {
	t.Helper()
	e := New(t)
	made := e.Keypair("prod", map[string]any{"key_type": "ec-p256", "allowed_configs": "a,b"}).Data
	keys := map[string]crypto.PublicKey{made["key_id"].(string): PublicKey(t, made["public_key"])}
	e.Sim.AddOAuthClient(SigningClient(keys))
	for _, name := range []string{"a", "b"} {
		e.Sim.AddOAuthRefreshToken(SigningClient(keys), "refresh-token-of-"+name, "read")
		e.Write("config/oauth2/"+name, map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "client_id": ClientID, "refresh_token": "refresh-token-of-" + name,
			"private_key_source": "generated", "keypair": "prod",
		})
	}
	pending := e.Pending("prod", map[string]any{"key_type": "ec-p256"}).Data
	keys[pending["key_id"].(string)] = PublicKey(t, pending["public_key"])
	return e
}

// Granting has the vendor grant a scope, whatever it is asked for.
func (e *Engine) Granting(scope string) vendorsim.Conduct {
	return e.Amending(func(answer map[string]any) { answer["scope"] = scope })
}

// Amending has the vendor change something of its tokens' answers.
func (e *Engine) Amending(amend func(answer map[string]any)) vendorsim.Conduct {
	return vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		if strings.HasSuffix(r.URL.Path, "/revoke") {
			return nil
		}
		return e.Sim.Amend(amend)
	}}
}

// The scopes of Kensho's products.
const (
	LinkScope = "kensho:app:link"
	NerdScope = "kensho:app:nerd"
)

// NewNarrowed has a key pair with two scopes, and a role for each.
func NewNarrowed(t *testing.T) *Engine {
	t.Helper()
	e := New(t)
	data := KeyPairFields()
	data["scope"] = LinkScope + "," + NerdScope
	e.Write("config/kensho/prod", data)
	e.Write("roles/link", map[string]any{"config": "prod", "scope": LinkScope})
	e.Write("roles/nerd", map[string]any{"config": "prod", "scope": NerdScope})
	return e
}

// RefuseScope has Kensho refuse a scope, as RFC 6749 §5.2 has it.
func RefuseScope(scope string) vendorsim.Conduct {
	return RefuseScopeBy(scope, vendorsim.Answer(http.StatusBadRequest, `{"error":"invalid_scope"}`))
}

// RefuseScopeBy makes the vendor answer requests for a scope by a handler.
func RefuseScopeBy(scope string, answer http.HandlerFunc) vendorsim.Conduct {
	return vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if form, err := url.ParseQuery(string(body)); err == nil && form.Get("scope") == scope {
			return answer
		}
		return nil
	}}
}

// KnownFields are those of a credential's fields that are secret.
var KnownFields = []string{"refresh_token", "api_key", "client_secret", "private_key"}

// Complaining has every vendor refuse with a text of its own.
func Complaining(text string) vendorsim.Conduct {
	body, _ := json.Marshal(map[string]string{"error": "invalid_grant", "error_description": text})
	return vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusBadRequest, string(body)))}
}

// RefuseScopes refuses to write the entries of scopes narrower than the credential's own.
func RefuseScopes(c StorageCall) Fault {
	isOther := strings.HasSuffix(c.Key, "/own") || strings.HasSuffix(c.Key, "/credential")
	if c.Op == "put" && strings.HasPrefix(c.Key, "state/") && !isOther {
		return Fault{Err: ErrStorage}
	}
	return Fault{}
}

// Cached has every vendor's answer come out of a cache, where it has been for so long.
func (e *Engine) Cached(body string, age time.Duration) {
	e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(e.T, "no-cache, no-store", r.Header.Get("Cache-Control"))
		w.Header().Set("Age", strconv.Itoa(int(age.Seconds())))
		w.Header().Set("Date", time.Now().Add(-age).UTC().Format(http.TimeFormat))
		_, _ = fmt.Fprint(w, body)
	})})
}

// NewRotating has a credential at a vendor who replaces refresh tokens, and
// storage that can be put into a mood.
func NewRotating(t *testing.T) (*Engine, *FaultyStorage) {
	t.Helper()
	e := New(t)
	e.Sim.Behave(vendorsim.Conduct{Rotate: true})
	e.Write("config/kensho/prod", map[string]any{"refresh_token": RefreshToken})
	return e, e.BreakStorage()
}

// Down makes every vendor unavailable.
func Down() vendorsim.Conduct {
	return vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, `"down"`))}
}

// Repeating has the vendor answer with one token, whose lifetime ends at a time.
func (e *Engine) Repeating(token string, expires time.Time) {
	e.Sim.Behave(e.Amending(func(answer map[string]any) {
		answer["access_token"], answer["expires_in"] = token, int(time.Until(expires).Seconds())
		delete(answer, "scope")
	}))
}

// NewGenerated has a credential whose key pair was made in Vault.
func NewGenerated(t *testing.T) *Engine {
	t.Helper()
	e := New(t)
	e.Register(ClientID, e.Keypair("prod", map[string]any{"allowed_configs": "prod,scribe,nerd,other,new"}).Data["public_key"])
	e.Write("config/kensho/prod", map[string]any{"client_id": ClientID, "private_key_source": "generated"})
	return e
}

// NewSearch has a credential whose scope can be narrowed.
func NewSearch(t *testing.T) *Engine {
	t.Helper()
	e := New(t)
	e.Write("config/sitecore/search", map[string]any{"api_key": APIKey, "scope": "discover,event", "access_expiry": "1h"})
	return e
}

// SingleToken makes the vendor end the last token of a client when it issues the next.
func SingleToken() vendorsim.Conduct {
	return vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{SingleToken: true}}
}

// AssertExchangeable asserts that the refresh token which the vendor gave last is in storage.
func (e *Engine) AssertExchangeable() {
	e.T.Helper()
	e.Sim.Behave(vendorsim.Conduct{})
	e.Restart()
	time.Sleep(2 * time.Hour)
	e.Creds("api")
}

// With returns some data with one more field.
func With(data map[string]any, field string, value any) map[string]any {
	all := maps.Clone(data)
	all[field] = value
	return all
}
