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

// NewRotation mounts an engine with the Kensho credentials prod and scribe, which share the
// generated key pair prod, and a pending pair that Kensho does not know yet. It returns the
// pending pair's response.
func NewRotation(t *testing.T) (e *Engine, pending *logical.Response) {
	t.Helper()
	e = NewGenerated(t)
	e.Write("config/kensho/scribe", map[string]any{"client_id": ClientID, "private_key_source": "generated", "keypair": "prod", "product": "scribe"})
	return e, e.Pending("prod", nil)
}

// selfSigned returns the PEM certificate of a new certificate authority.
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

// IssuerClient returns the fields of an OAuth 2.0 credential whose endpoints are in its issuer's
// metadata.
func IssuerClient() map[string]any {
	fields := SecretClient(false)
	delete(fields, "token_url")
	fields["issuer"] = vendorsim.OAuthIssuer
	return fields
}

// MetadataDown makes only the requests for the issuer's metadata fail, with 503.
func MetadataDown() vendorsim.Conduct {
	return vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		if strings.Contains(r.URL.Path, "/.well-known/") {
			return vendorsim.Answer(http.StatusServiceUnavailable, `"down"`)
		}
		return nil
	}}
}

// SecretClient returns the fields of an OAuth 2.0 credential with a client secret, with or without
// a revocation_url.
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

// NewOAuth mounts an engine with the OAuth 2.0 credential api, whose vendor revokes tokens, and
// the dedicated role mine.
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

// ACertificate is the PEM certificate of an authority. No connection is verified with it, as the
// vendors are simulated above TLS.
var ACertificate = selfSigned("a")

// OtherCertificate is the PEM certificate of another authority.
var OtherCertificate = selfSigned("other")

// PastedForms are the altered forms of a PEM file that the engine accepts.
var PastedForms = map[string]func(string) string{
	"with line breaks written out": func(text string) string { return strings.ReplaceAll(text, "\n", `\n`) },
	"on one line":                  func(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), "\n", " ") },
	"indented":                     func(text string) string { return strings.ReplaceAll("\n"+strings.TrimSpace(text), "\n", "\n  ") },
	"in quotes":                    func(text string) string { return `"` + strings.ReplaceAll(text, "\n", `\n`) + `"` },
}

// AnswerWith makes every vendor answer with a body, in which ${jwt} is replaced by a JWT that
// expires after exp. If date is not nil, it returns the Date of the answer.
func (e *Engine) AnswerWith(body string, exp time.Duration, date func() time.Time) {
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"exp": time.Now().Add(exp).Unix()}).SignedString([]byte("k"))
	require.NoError(e.T, err)
	e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
		if date != nil {
			w.Header().Set("Date", date().UTC().Format(http.TimeFormat))
		}
		_, _ = fmt.Fprint(w, strings.ReplaceAll(body, "${jwt}", token))
	})})
}

// Kinds are the kinds of credentials that are exchanged, by name.
var Kinds = map[string]struct {
	Path   string
	Fields func() map[string]any
	Answer string        // a format of the vendor's answer, of the token and the lifetime in Units
	Unit   time.Duration // 0 if the answer states no lifetime
}{
	"kensho, key pair": {"config/kensho/prod", KeyPairFields, `{"access_token":%q,"expires_in":%v}`, time.Second},
	"kensho, refresh":  {"config/kensho/prod", func() map[string]any { return map[string]any{"refresh_token": RefreshToken} }, `{"accessToken":%q,"n":%v}`, 0},
	"sitecore": {"config/sitecore/prod", func() map[string]any { return map[string]any{"api_key": APIKey} },
		`{"accessToken":%q,"refreshToken":"r-0123456789","accessTokenExpiry":%v,"refreshTokenExpiry":604800000}`, time.Millisecond},
	"oauth2": {"config/oauth2/prod", func() map[string]any { return SecretClient(false) }, `{"access_token":%q,"expires_in":%v}`, time.Second},
}

// SigningClient returns an OAuth 2.0 client that authenticates with private_key_jwt and the given
// keys, by key ID, and whose refresh tokens the vendor rotates.
func SigningClient(keys map[string]crypto.PublicKey) vendorsim.OAuthClient {
	return vendorsim.OAuthClient{
		ID: ClientID, AuthMethods: []string{vendorsim.PrivateKeyJWT}, Keys: keys, Scopes: []string{"read"}, Rotate: true,
		Grants: []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant},
	}
}

// NewSigning mounts an engine with the OAuth 2.0 credentials a and b, whose vendor rotates refresh
// tokens. They share the generated key pair prod, which has a pending pair that the vendor knows.
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

// GrantScope makes the vendor grant a fixed scope to every request.
func (e *Engine) GrantScope(scope string) vendorsim.Conduct {
	return e.AmendTokenAnswers(func(answer map[string]any) { answer["scope"] = scope })
}

// AmendTokenAnswers makes the vendor change its answers, except those to revocations.
func (e *Engine) AmendTokenAnswers(amend func(answer map[string]any)) vendorsim.Conduct {
	return vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		if strings.HasSuffix(r.URL.Path, "/revoke") {
			return nil
		}
		return e.Sim.Amend(amend)
	}}
}

// Scopes of Kensho's products.
const (
	LinkScope = "kensho:app:link"
	NerdScope = "kensho:app:nerd"
)

// NewNarrowed mounts an engine with the Kensho credential prod, which has two scopes, and a role
// for each scope, link and nerd.
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

// RefuseScope makes the vendor reject requests for a scope with invalid_scope (RFC 6749 §5.2).
func RefuseScope(scope string) vendorsim.Conduct {
	return RefuseScopeBy(scope, vendorsim.Answer(http.StatusBadRequest, `{"error":"invalid_scope"}`))
}

// RefuseScopeBy makes the vendor answer requests for a scope with a handler.
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

// CredentialSecretFields are the names of a credential's secret fields.
var CredentialSecretFields = []string{"refresh_token", "api_key", "client_secret", "private_key"}

// RejectWith makes every vendor reject with an error description.
func RejectWith(text string) vendorsim.Conduct {
	body, _ := json.Marshal(map[string]string{"error": "invalid_grant", "error_description": text})
	return vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusBadRequest, string(body)))}
}

// RefuseScopeEntries is an OnCall function that refuses writes of the state of narrower scopes
// than the credential's own.
func RefuseScopeEntries(c StorageCall) Fault {
	isOther := strings.HasSuffix(c.Key, "/own") || strings.HasSuffix(c.Key, "/grant")
	if c.Op == "put" && strings.HasPrefix(c.Key, "state/") && !isOther {
		return Fault{Err: ErrStorage}
	}
	return Fault{}
}

// AnswerFromCache makes every vendor answer with a body from an HTTP cache, with its age in the
// headers Age and Date.
func (e *Engine) AnswerFromCache(body string, age time.Duration) {
	e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(e.T, "no-cache, no-store", r.Header.Get("Cache-Control"))
		w.Header().Set("Age", strconv.Itoa(int(age.Seconds())))
		w.Header().Set("Date", time.Now().Add(-age).UTC().Format(http.TimeFormat))
		_, _ = fmt.Fprint(w, body)
	})})
}

// NewRotating mounts an engine with the Kensho credential prod, whose refresh token the vendor
// rotates, and faulty storage.
func NewRotating(t *testing.T) (*Engine, *FaultyStorage) {
	t.Helper()
	e := New(t)
	e.Sim.Behave(vendorsim.Conduct{Rotate: true})
	e.Write("config/kensho/prod", map[string]any{"refresh_token": RefreshToken})
	return e, e.BreakStorage()
}

// Down makes every vendor answer with 503.
func Down() vendorsim.Conduct {
	return vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, `"down"`))}
}

// RepeatToken makes the vendor answer with one token until it expires, with the remaining lifetime.
func (e *Engine) RepeatToken(token string, expires time.Time) {
	e.Sim.Behave(e.AmendTokenAnswers(func(answer map[string]any) {
		answer["access_token"], answer["expires_in"] = token, int(time.Until(expires).Seconds())
		delete(answer, "scope")
	}))
}

// NewGenerated mounts an engine with the Kensho credential prod and its generated key pair prod.
func NewGenerated(t *testing.T) *Engine {
	t.Helper()
	e := New(t)
	e.Register(ClientID, e.Keypair("prod", map[string]any{"allowed_configs": "prod,scribe,nerd,other,new"}).Data["public_key"])
	e.Write("config/kensho/prod", map[string]any{"client_id": ClientID, "private_key_source": "generated"})
	return e
}

// NewSearch mounts an engine with the Sitecore credential search, which has two scopes.
func NewSearch(t *testing.T) *Engine {
	t.Helper()
	e := New(t)
	e.Write("config/sitecore/search", map[string]any{"api_key": APIKey, "scope": "discover,event", "access_expiry": "1h"})
	return e
}

// SingleToken makes the OAuth 2.0 vendor end a client's last token when it issues the next.
func SingleToken() vendorsim.Conduct {
	return vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{SingleToken: true}}
}

// AssertExchangeable asserts that the vendor's latest refresh token is in storage: the credential
// api is exchanged after a restart.
func (e *Engine) AssertExchangeable() {
	e.T.Helper()
	e.Sim.Behave(vendorsim.Conduct{})
	e.Restart()
	time.Sleep(2 * time.Hour)
	e.Creds("api")
}

// With returns a copy of data with one more field.
func With(data map[string]any, field string, value any) map[string]any {
	all := maps.Clone(data)
	all[field] = value
	return all
}
