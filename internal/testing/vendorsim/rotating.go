package vendorsim

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"
)

// A LiveSecret is a secret that a vendor accepts, or will accept once it is known everywhere.
type LiveSecret struct {
	ID      string
	Created time.Time
}

// A rotatingKind is a kind of credential whose secret a vendor's API replaces.
type rotatingKind struct {
	vendor string // the name of the definition

	// add gives an account its first secret, and returns the fields with which the engine stores it.
	add func(s *Sim, a *account) map[string]any

	// find returns the secrets of an account that fields have; nil for one that the account does not have.
	find func(a *account, fields map[string]any) []*heldSecret
}

var rotatingKinds = map[string]rotatingKind{
	"auth0/client_secret":  {"auth0", (*Sim).addAuth0Secret, secretField("client_secret")},
	"auth0/private_key":    {"auth0", (*Sim).addAuth0Key, keyField("key_id")},
	"cloudflare/account":   {"cloudflare", (*Sim).addCloudflare, secretField("api_token")},
	"cloudflare/user":      {"cloudflare", (*Sim).addCloudflare, secretField("api_token")},
	"datadog":              {"datadog", (*Sim).addDatadog, datadogPair},
	"gitlab-token":         {"gitlab-token", (*Sim).addGitLab, secretField("personal_access_token")},
	"databricks/account":   {"databricks", (*Sim).addDatabricks, secretField("client_secret")},
	"databricks/workspace": {"databricks", (*Sim).addDatabricks, secretField("client_secret")},
	"google":               {"google", (*Sim).addGoogle, keyField("key_id")},
	"okta-api":             {"okta-api", (*Sim).addOktaAPI, keyField("key_id")},
	"okta/client_secret":   {"okta", (*Sim).addOktaSecret, secretField("client_secret")},
	"okta/private_key":     {"okta", (*Sim).addOktaKey, keyField("key_id")},
	"entra/certificate":    {"entra", (*Sim).addEntraCertificate, certificateField},
	"entra/client_secret":  {"entra", (*Sim).addEntraSecret, secretField("client_secret")},
	"snowflake":            {"snowflake", (*Sim).addSnowflake, keyField("")},
}

// RotatingKinds are the kinds of credentials whose secrets the simulated vendors let replace, sorted.
func RotatingKinds() []string { return slices.Sorted(maps.Keys(rotatingKinds)) }

// rotating has the accounts whose secrets the vendors' APIs replace.
type rotating struct {
	accounts []*account
	hosts    map[string]func(path string, r *http.Request) reply
	servers  map[string]*authServer // by token URL
	tokens   map[string]grantedToken
}

// A grantedToken is what an access token of an account is for.
type grantedToken struct {
	account  *account
	audience string
	scope    []string
}

func newRotating() rotating {
	return rotating{
		hosts: map[string]func(string, *http.Request) reply{}, servers: map[string]*authServer{}, tokens: map[string]grantedToken{},
	}
}

// An account is a client, a user or a service account of a vendor.
type account struct {
	kind, name string

	id       string // the client ID, or the name of the user
	objectID string // the ID by which the vendor's API knows it, where that is another
	admin    string // a token that administers it
	issuer   string // the OAuth server that AddOAuthServer has added and whose client it is; "" if there is none
	secrets  []*heldSecret
}

// age is how long before it is added an account has its first secret.
const age = 24 * time.Hour

// AddRotating adds an account of a kind with one secret, and returns the vendor and the fields with which the engine
// stores it.
func (s *Sim) AddRotating(kind, name string) (vendor string, fields map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, isKnown := rotatingKinds[kind]
	if !isKnown {
		panic("no rotating kind " + kind)
	}
	a := &account{kind: kind, name: name}
	a.id, a.objectID = a.uuid("id"), a.uuid("object")
	s.rotating.accounts = append(s.rotating.accounts, a)
	return k.vendor, k.add(s, a)
}

// LiveSecrets returns the secrets of an account, oldest first. For Datadog, each API key and each application key is
// one.
func (s *Sim) LiveSecrets(kind, name string) []LiveSecret {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secretsOf(kind, name, func(h *heldSecret) bool { return h.isActive() && h.isValid(s.now()) })
}

// StoredSecrets returns LiveSecrets, and those that the vendor stores without accepting them: expired ones, Okta's
// inactive ones, and Auth0's that belong to no authentication method. They count against its limits.
func (s *Sim) StoredSecrets(kind, name string) []LiveSecret {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secretsOf(kind, name, func(*heldSecret) bool { return true })
}

func (s *Sim) secretsOf(kind, name string, is func(*heldSecret) bool) []LiveSecret {
	var list []LiveSecret
	for _, h := range s.account(kind, name).stored() {
		if is(h) && !h.isReaders {
			list = append(list, LiveSecret{ID: h.id, Created: h.created.Add(-s.conduct.Skew)})
		}
	}
	slices.SortStableFunc(list, func(a, b LiveSecret) int { return a.Created.Compare(b.Created) })
	return list
}

// AcceptsSecret reports whether the vendor accepts the secret in fields, as the engine stored them, now.
func (s *Sim) AcceptsSecret(kind, name string, fields map[string]any) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := rotatingKinds[kind].find(s.account(kind, name), fields)
	return len(found) > 0 && !slices.ContainsFunc(found, func(h *heldSecret) bool { return h == nil || !s.accepts(h) })
}

func (s *Sim) account(kind, name string) *account {
	for _, a := range s.rotating.accounts {
		if a.kind == kind && a.name == name {
			return a
		}
	}
	panic(fmt.Sprintf("no account %s of kind %s", name, kind))
}

// accountWith returns the account of one of the kinds that is described; nil if there is none.
func (s *Sim) accountWith(is func(*account) bool, kinds ...string) *account {
	for _, a := range s.rotating.accounts {
		if slices.Contains(kinds, a.kind) && is(a) {
			return a
		}
	}
	return nil
}

// uuid returns an ID of the account that is the same in each Sim.
func (a *account) uuid(use string) string {
	sum := a.sum(use)
	id, err := uuid.FormatUUID(sum[:16])
	if err != nil {
		panic(err) // of 16 bytes
	}
	return id
}

// hex returns an ID as uuid does, of 32 hexadecimal digits.
func (a *account) hex(use string) string {
	sum := a.sum(use)
	return hex.EncodeToString(sum[:16])
}

// short returns an ID as uuid does, of letters and digits after a prefix.
func (a *account) short(prefix, use string) string { return prefix + a.hex(use)[:17] }

// number returns an ID as uuid does, of decimal digits.
func (a *account) number(use string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' {
			return '1' + r - 'a'
		}
		return r
	}, "1"+a.hex(use)[:15])
}

func (a *account) sum(use string) [sha256.Size]byte {
	return sha256.Sum256([]byte(a.kind + "\n" + a.name + "\n" + use))
}

// authServer returns the OAuth 2.0 server of a token URL that serves only one request of one client. It recognizes
// the assertions of former requests.
func (s *Sim) authServer(tokenURL string, client OAuthClient, descriptions map[string]string, audiences ...string) *authServer {
	server := s.rotating.servers[tokenURL]
	if server == nil {
		server = newAuthServer(OAuthServer{Issuer: tokenURL, TokenURL: tokenURL})
		s.rotating.servers[tokenURL] = server
	}
	server.Descriptions, server.audiences = descriptions, audiences
	server.clients = map[string]OAuthClient{client.ID: client}
	return server
}

// tokenFor answers a token request of an account's client, and records what its token is for.
func (s *Sim) tokenFor(a *account, server *authServer, audience string, r *http.Request) *oauthAnswer {
	answer := server.adapt(s.oauthToken(server, r))
	if token, isToken := answer.body["access_token"].(string); isToken {
		s.rotating.tokens[token] = grantedToken{account: a, audience: audience, scope: s.oauth.tokens[token].scope}
	}
	return answer
}

// granted returns what a valid access token is for.
func (s *Sim) granted(token string) (g grantedToken, isValid bool) {
	g, isKnown := s.rotating.tokens[token]
	if !isKnown {
		g, isKnown = s.grantedByServer(token)
	}
	return g, isKnown && s.now().Before(s.issued[token])
}
