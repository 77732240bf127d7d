package guarantees_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// A vendor may answer with one token until it expires, whatever the scope of the request.

func TestGuarantee14TokenOfAWiderScopeIsNotServedToARole(t *testing.T) {
	for name, c := range map[string]struct {
		first   string // the name to read first
		scope   string // the credential's scope
		reason  string
		refused bool
	}{
		"the credential's token":                    {"api", "read,write", "the vendor granted write as well", true},
		"a wider role's token":                      {"writing", "read,write,list", "the vendor granted write as well", true},
		"the token of a credential without a scope": {"api", "", "the vendor returned the token of the credential's own scope", true},
		"a token of the same scope":                 {"reading", "read,write", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Sim.AddOAuthClient(vendorsim.OAuthClient{
					ID: engine.ClientID, Secret: engine.ClientSecret, Scopes: []string{"read", "write", "list"}, AuthMethods: []string{vendorsim.SecretBasic},
					Grants: []string{vendorsim.ClientCredentialsGrant},
				})
				e.Sim.Behave(e.AmendTokenAnswers(func(answer map[string]any) { delete(answer, "scope") }))
				e.Write("config/oauth2/api", map[string]any{"scope": c.scope})
				e.Write("roles/writing", map[string]any{"config": "api", "scope": "read,write"})
				e.Write("roles/reading", map[string]any{"config": "api", "scope": "read"})
				lease := e.Creds(c.first)
				e.RepeatToken(engine.TokenOf(lease), time.Now().Add(time.Hour))
				if !c.refused {
					engine.Until(0, 50, 0)
					assert.Equal(t, engine.TokenOf(lease), engine.TokenOf(e.Creds("reading")))
					assert.Equal(t, 4, e.Exchanges(), "the token was renewed")
					return
				}
				status, message := e.Refused("creds/reading")
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, c.reason)
				e.Creds(c.first)
			})
		})
	}
}

// Guarantee 6: a scope in the vendor's answer is quoted redacted and cut, and an answer whose
// scope holds a token in use is refused.
func TestGuarantee6TokenStatedAsAScopeIsNotShown(t *testing.T) {
	for name, c := range map[string]struct {
		scope  func(inUse string) string
		reason string
	}{
		"a token in use":               {func(inUse string) string { return "read " + inUse }, "the vendor's scope contains a token"},
		"a word that looks like a key": {func(string) string { return "read 9f8e7d6c5b4a3f2e1d0c9f8e7d6c5b4a" }, "the vendor granted [redacted] as well"},
		"many equal scopes":            {func(string) string { return "read " + strings.Repeat("yyyy ", 3000) }, "the vendor granted yyyy as well"},
		"many different scopes": {func(string) string {
			var scopes strings.Builder
			for i := range 2000 {
				fmt.Fprintf(&scopes, "s%d ", i)
			}
			return scopes.String()
		}, "the vendor granted s0 s1 "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Write("config/oauth2/api", map[string]any{"scope": ""})
				e.Write("roles/reading", map[string]any{"config": "api", "scope": "read"})
				inUse := engine.TokenOf(e.Creds("api"))
				e.Sim.Behave(e.AmendTokenAnswers(func(answer map[string]any) { answer["scope"] = c.scope(inUse) }))
				_, message := e.Refused("creds/reading")
				assert.Contains(t, message, c.reason)
				assert.Less(t, len(message), 1000)
				status := fmt.Sprint(e.Read("status/api").Data)
				assert.Less(t, len(status), 2000)
				for where, text := range map[string]string{"error": message, "status": status, "log": e.Outside.Text()} {
					assert.NotContains(t, text, inUse, where)
					assert.NotContains(t, text, "9f8e7d6c5b4a3f2e", where)
					assert.NotContains(t, text, "s1999", where)
				}
			})
		})
	}
}

func TestGuarantee8DroppedTokenIsNotServedWhenTheVendorRepeatsIt(t *testing.T) {
	for name, write := range map[string]func(e *engine.Engine){
		"no revocation_url": func(e *engine.Engine) { e.Write("config/oauth2/one", engine.SecretClient(false)) },
		"a grant that revocation could end": func(e *engine.Engine) {
			e.Write("config/oauth2/one", engine.SecretClient(true))
			e.Write("config/oauth2/one", map[string]any{"refresh_token": engine.RefreshToken})
		},
		"a vendor without revocation": func(e *engine.Engine) { e.Write("config/kensho/one", engine.KeyPairFields()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				write(e)
				leaked, expires := engine.TokenOf(e.Creds("one")), time.Now().Add(time.Hour)
				e.RepeatToken(leaked, expires)
				for range 2 {
					_, status, message := e.Request(logical.UpdateOperation, "refresh/one", engine.Drop)
					assert.Equal(t, http.StatusServiceUnavailable, status)
					assert.Contains(t, message, "the vendor returned the access token that was dropped, which expires at ")
					e.Refused("creds/one")
					e.Restart()
					e.Refused("token/one")
					_, status, _ = e.Request(logical.UpdateOperation, "refresh/one", nil)
					assert.Equal(t, http.StatusServiceUnavailable, status, "a further refresh does not accept it either")
				}
				assert.Empty(t, e.Sim.Revoked())

				e.Sim.Behave(vendorsim.Conduct{})
				e.Write("refresh/one", nil)
				assert.NotEqual(t, leaked, engine.TokenOf(e.Creds("one")))
			})
		})
	}
}

// Given a vendor that repeats its token, max_ttl counts from the token's first issue.
func TestGuarantee1WriteDoesNotRestartMaxTTL(t *testing.T) {
	for name, c := range map[string]struct {
		path   string
		verify bool
	}{
		"verified":                {"one", true},
		"not verified":            {"one", false},
		"not verified, of a role": {"reading", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				engine.Until(0, 0, 5)
				fields := engine.SecretClient(false)
				fields["max_ttl"] = "30m"
				e.Write("config/oauth2/one", fields)
				e.Write("roles/reading", map[string]any{"config": "one", "scope": "read"})
				issued := time.Now()
				e.RepeatToken(engine.TokenOf(e.Creds(c.path)), issued.Add(2*time.Hour))
				time.Sleep(10 * time.Minute)
				e.Write("config/oauth2/one", map[string]any{"default_ttl": "1h", "verify": c.verify})
				expires, err := time.Parse(time.RFC3339, e.Creds(c.path).Data["expire_time"].(string))
				require.NoError(t, err)
				assert.WithinDuration(t, issued.Add(30*time.Minute), expires, 2*time.Second)
			})
		})
	}
}
