// Package definition has the language in which a vendor is described as data: the fields that an operator
// gives, the requests that exchange them for an access token, and how the answer is read. A definition
// is a provider.Provider.
package definition

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// A Definition describes a vendor. docs/definitions.md explains its members.
type Definition struct {
	// Name is the vendor's segment of config/<vendor>/<name>.
	Name string `json:"-"`

	Title string `json:"title"`

	// OtherNames are other names of the vendor, in lower-case letters and digits. An error suggests Name
	// for them.
	OtherNames []string `json:"other_names,omitempty"`

	// Docs are the vendor's pages from which the definition was written, and Evidence what they are.
	Docs     []string `json:"docs,omitempty"`
	Evidence string   `json:"evidence,omitempty"`

	// Notes tell the operator what to create at the vendor, and its limits.
	Notes string `json:"notes,omitempty"`

	Fields map[string]Field `json:"fields"`

	// TokenURL, Auth, Answer and Assertion apply to each grant that has none of its own.
	TokenURL  string     `json:"token_url,omitempty"`
	Auth      string     `json:"auth,omitempty"`
	Answer    *Answer    `json:"answer,omitempty"`
	Assertion *Assertion `json:"assertion,omitempty"`

	// Grants are the ways to a token. The first whose needs are set is used unless grant_type is given.
	Grants []Grant `json:"grants"`

	Authorization   *Authorization    `json:"authorization,omitempty"`
	Delegation      *Delegation       `json:"delegation,omitempty"`
	Revocation      *Revocation       `json:"revocation,omitempty"`
	Token           TokenRules        `json:"token,omitzero"`
	RefreshToken    RefreshTokenRules `json:"refresh_token,omitzero"`
	TransientErrors []string          `json:"transient_errors,omitempty"`

	// RequestsPerSecond is how many requests each host of the vendor takes from all its clients together; zero if unknown.
	RequestsPerSecond float64 `json:"requests_per_second,omitempty"`

	Scope     ScopeRules `json:"scope,omitzero"`
	API       API        `json:"api,omitzero"`
	Rotations []Rotation `json:"rotations,omitempty"`

	text      []byte
	fields    map[string]*field
	compiled  []*grant
	rotations []*rotation
}

// A Field is what an operator gives.
type Field struct {
	Description string `json:"description,omitempty"`

	// Type is one of Types; "" for a string.
	Type     string `json:"type,omitempty"`
	Secret   bool   `json:"secret,omitempty"`
	Required bool   `json:"required,omitempty"`
	Default  string `json:"default,omitempty"`

	// Example is a value for the help.
	Example string `json:"example,omitempty"`

	// Pattern matches all of a value. In a host it must exclude what could change the host.
	Pattern string   `json:"pattern,omitempty"`
	Allowed []string `json:"allowed,omitempty"`

	// Narrows is whether a role can set the field, for tokens that can do less. It is in no URL, no client
	// authentication and no header of the API.
	Narrows bool `json:"narrows,omitempty"`

	// HostSuffixes follow the value in hosts that an operator may paste in its place. Those in the
	// definition's URLs need not be listed.
	HostSuffixes []string `json:"host_suffixes,omitempty"`
}

// A Grant is a way to a token.
type Grant struct {
	GrantType string   `json:"grant_type"`
	Needs     []string `json:"needs,omitempty"`
	Auth      string   `json:"auth,omitempty"`

	// Basic are the templates of the user name and the password of HTTP Basic, instead of Auth.
	Basic []string `json:"basic,omitempty"`

	Before  []Step   `json:"before,omitempty"`
	Request *Request `json:"request,omitempty"`
	Refresh *Request `json:"refresh,omitempty"`
	Answer  *Answer  `json:"answer,omitempty"`

	// RefreshAnswer says where the answer to Refresh has what; nil if it is as Answer says.
	RefreshAnswer *Answer `json:"refresh_answer,omitempty"`

	Assertion *Assertion `json:"assertion,omitempty"`

	// API is how the vendor's API takes the grant's tokens; nil for that of the definition.
	API *API `json:"api,omitempty"`

	// Token is the token itself, {assertion}, instead of a request for one.
	Token string `json:"token,omitempty"`

	// Delegation says how a caller's token is exchanged; nil for that of the definition. A grant with
	// neither Request nor Token only exchanges callers' tokens.
	Delegation *Delegation `json:"delegation,omitempty"`

	// Scope are the rules for the grant's scopes; nil for those of the definition.
	Scope *ScopeRules `json:"scope,omitempty"`
}

// A Request is an HTTP request. Its texts are templates.
type Request struct {
	Method  string            `json:"method,omitempty"`
	URL     string            `json:"url,omitempty"`
	Query   map[string]string `json:"query,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Form    map[string]string `json:"form,omitempty"`
	JSON    any               `json:"json,omitempty"`
}

// A Step is a request before the token request, with what is kept of its answer: JSON Pointers, by the
// names of placeholders.
type Step struct {
	Request Request           `json:"request"`
	Keep    map[string]string `json:"keep,omitempty"`
}

// An Answer says where the answer has what. A member that is nil is at the place that OAuth 2.0 has for
// it; "" stands for nowhere.
type Answer struct {
	Token        *string           `json:"token,omitempty"`
	TokenHeader  string            `json:"token_header,omitempty"`
	TokenCookie  string            `json:"token_cookie,omitempty"`
	Text         bool              `json:"text,omitempty"`
	Expiry       *string           `json:"expiry,omitempty"`
	ExpiryUnit   exchange.Unit     `json:"expiry_unit,omitempty"`
	RefreshToken *string           `json:"refresh_token,omitempty"`
	Scope        *string           `json:"scope,omitempty"`
	TokenType    *string           `json:"token_type,omitempty"`
	Error        string            `json:"error,omitempty"`
	OK           string            `json:"ok,omitempty"`
	Extra        map[string]string `json:"extra,omitempty"`

	// Granted says where an answer states what was granted of a field that narrows.
	Granted map[string]exchange.GrantedAt `json:"granted,omitempty"`
}

// An Assertion is a signed JWT.
type Assertion struct {
	// Key is the field with the key: private_key if it is empty.
	Key string `json:"key,omitempty"`

	// KeyEncoding is the encoding of a shared secret: base64, hex, or "" for none.
	KeyEncoding string `json:"key_encoding,omitempty"`

	// Algorithms are those that the vendor accepts; the first that fits the key is the default.
	Algorithms []string          `json:"algorithms,omitempty"`
	Headers    map[string]string `json:"headers,omitempty"`
	Claims     map[string]any    `json:"claims,omitempty"`
	Lifetime   Duration          `json:"lifetime,omitempty"`
}

// A Revocation is the request that revokes an access token, {token}; without a request, that of RFC 7009.
type Revocation struct {
	URL     string   `json:"url"`
	Auth    string   `json:"auth,omitempty"`
	Request *Request `json:"request,omitempty"`
}

// TokenRules are the vendor's rules for access tokens.
type TokenRules struct {
	// DefaultTTL is the documented lifetime, if answers state none.
	DefaultTTL Duration `json:"default_ttl,omitempty"`

	// Single is whether an exchange ends the previous token.
	Single bool `json:"single,omitempty"`

	// Reused is whether the vendor returns the same token until it expires.
	Reused bool `json:"reused,omitempty"`

	// RefreshWindow is the end of the lifetime in which the vendor issues the next token.
	RefreshWindow Duration `json:"refresh_window,omitempty"`

	// OnTheHour is whether tokens expire at the next full hour, UTC.
	OnTheHour bool `json:"on_the_hour,omitempty"`
}

// RefreshTokenRules are the vendor's rules for refresh tokens.
type RefreshTokenRules struct {
	// IdleExpiry is how long one stays valid without use.
	IdleExpiry Duration `json:"idle_expiry,omitempty"`

	// Lifetime is how long one stays valid, whatever is done.
	Lifetime Duration `json:"lifetime,omitempty"`
}

// ScopeRules are the vendor's rules for scopes.
type ScopeRules struct {
	// Separator separates scopes in requests; a space if it is empty.
	Separator string `json:"separator,omitempty"`

	// Suffix is the end of every scope.
	Suffix string `json:"suffix,omitempty"`

	// Single is whether a token has only one.
	Single bool `json:"single,omitempty"`

	// Default is what is requested if the operator gives none.
	Default []string `json:"default,omitempty"`
}

// An API is how the vendor's API takes a token, if not as "Authorization: Bearer".
type API struct {
	Header  string            `json:"header,omitempty"`
	Scheme  string            `json:"scheme,omitempty"`
	Query   string            `json:"query,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
}

// A Duration is a time in whole seconds. In JSON it is a text as in the fields of a credential: 30s, 24h, 7d.
type Duration time.Duration

// UnmarshalJSON parses a duration.
func (d *Duration) UnmarshalJSON(text []byte) error {
	var given string
	if err := json.Unmarshal(text, &given); err != nil {
		return err
	}
	parsed, err := parseutil.ParseDurationSecond(given)
	*d = Duration(parsed)
	return err
}

// MarshalJSON formats a duration.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// Types are the types of fields.
var Types = []string{"string", "list", "map", "duration", "integer", "bool", "private_key", "certificate"}

// standardFields are fields that many vendors have. A definition need not describe them.
var standardFields = map[string]Field{
	"client_id":         {Description: "the client ID"},
	"client_secret":     {Description: "the client secret", Secret: true},
	"refresh_token":     {Description: "the refresh token; if the vendor rotates it, the engine stores the new one", Secret: true},
	"private_key":       {Description: "the private key in PEM, whose public half or certificate is registered at the vendor", Type: "private_key", Secret: true},
	"key_id":            {Description: "the ID of the key, sent as the kid of assertions"},
	"signing_algorithm": {Description: "the algorithm of assertions, which must fit the key"},
	"scope":             {Description: "the scopes to request", Type: "list"},
	"username":          {Description: "the user name"},
	"password":          {Description: "the password", Secret: true},
	"api_key":           {Description: "the API key", Secret: true},
	"certificate":       {Description: "the certificate of the private key in PEM, as it is registered at the vendor", Type: "certificate"},
	"redirect_uri":      {Description: provider.RedirectURIDescription},
	"subject":           {Description: "the user for whom the token is"},

	identityAudience: {Description: "the audience of identity tokens of Vault Enterprise, as the vendor expects it"},
	identityTTL:      {Description: "how long an identity token is valid; 1h by default", Type: "duration"},
	assertionSubject: {Description: "the subject for which the issuer of the key pair signs; by default the path of the credential, such as config/acme/prod"},
}

// StandardFields returns the fields that a definition need not describe, by name.
func StandardFields() map[string]Field { return maps.Clone(standardFields) }

// ReservedFields returns the names that no field of a definition can have.
func ReservedFields() []string { return slices.Clone(reservedFields) }

// reservedFields are fields that every credential has.
var reservedFields = []string{
	"name", "verify", "grant_type", "description", "expires", "request_timeout", "ca_cert", "proxy_url", "default_ttl", "max_ttl",
	"keepalive_interval", "private_key_source", "keypair", "client", "max_variants",
	"rotation_period", "rotation_schedule", "rotation_window", "rotation_grace", "rotation",
	"reap_after", "drop_former", "former_secrets_set", "waiting", "waiting_count", "credentials", "credential_count", // of a client
	"vendor", "definition", "answer", "status", // of paths
	"secrets_set", "resolved_urls", "resolved_scope", // of a read
}

// reservedValues are placeholders that the engine sets, besides those of fields.
var reservedValues = []string{
	"assertion", "iat", "now", "now_ms", "uuid", "token", "token_url", exchange.ScopeSeparator, keypairIssuer, exchange.IdentityToken,
	"subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type",
	"rotation_token",
}
