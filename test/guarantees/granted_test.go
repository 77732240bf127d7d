package guarantees_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee14RoleReaderNeverGetsMoreThanTheRole(t *testing.T) {
	granting := func(e *engine.Engine, scope ...string) {
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.Sim.Amend(func(answer map[string]any) { answer["scope"] = strings.Join(scope, " ") }))})
	}
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.NewNarrowed(t)
			granting(e, engine.NerdScope, engine.LinkScope)
			for range 2 { // the second read makes no exchange
				status, message := e.Refused("creds/nerd")
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Equal(t, "the vendor granted "+engine.LinkScope+" as well, which the credential has and the role does not; give the role a credential of its own (the role's scope is "+strconv.Quote(engine.NerdScope)+")", message)
				status, _ = e.Refused("token/nerd")
				assert.Equal(t, http.StatusBadRequest, status)
			}
			assert.Equal(t, "failed", e.Read("status/prod").Data["state"], "some readers get no token")
			e.Creds("prod")
			if restart {
				e.Restart()
			}

			granting(e, engine.NerdScope, "profile")
			engine.Until(0, 10, 0)
			resp := e.Creds("nerd")
			assert.Equal(t, []string{"the vendor granted scopes that it was not asked for: profile"}, resp.Warnings)
			assert.Equal(t, []string{engine.NerdScope, "profile"}, resp.Data["scope"])
			assert.Equal(t, resp.Warnings, e.Creds("nerd").Warnings, "a cached token keeps its warning")

			granting(e, engine.NerdScope, engine.LinkScope)
			_, status, message := e.Request(logical.UpdateOperation, "refresh/prod", nil)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Regexp(t, `^the refresh of the scope "`+engine.NerdScope+`" failed: the vendor granted .* the cached token stays in use; it expires at .*; roles with this scope get no newer token until the vendor grants no further scopes$`, message)
		})
	}
}

func TestGuarantee14WiderTokenIsRefusedWhenTheCredentialHasNoScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		fields := engine.SecretClient(true)
		delete(fields, "scope")
		e.Write("config/oauth2/open", fields)
		e.Write("roles/reading", map[string]any{"config": "open", "scope": "read"})
		e.Sim.Behave(e.GrantScope("read write"))
		status, message := e.Refused("creds/reading")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "the vendor granted write as well, which the role does not have and the credential may have; set the credential's scope to what its roles may get, or give the role a credential of its own (the role's scope is \"read\")", message)
		_, status, message = e.Request(logical.UpdateOperation, "refresh/open", nil)
		assert.Equal(t, http.StatusOK, status, "the credential itself is not affected: %s", message)

		e.Sim.Behave(e.GrantScope("read profile"))
		e.Write("config/oauth2/open", map[string]any{"scope": "read"})
		resp := e.Creds("open")
		assert.Empty(t, resp.Warnings, "its own scope")
		e.Write("config/oauth2/open", map[string]any{"scope": "read,write"})
		assert.Equal(t, []string{"the vendor granted scopes that it was not asked for: profile"}, e.Creds("reading").Warnings, "after the fix that the message names")
	})
}

func TestGuarantee14ScopeWithACommaIsComparedAsAWhole(t *testing.T) {
	for _, granted := range []string{"read res/a,b", "read,res/a,b", "res/a,b,read", "res/a,b"} {
		t.Run(granted, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Write("config/oauth2/some", engine.With(engine.With(engine.SecretClient(false), "scope", []any{"res/a,b", "read"}), "verify", false))
				e.Write("roles/narrow", map[string]any{"config": "some", "scope": "read"})
				e.Sim.Behave(e.GrantScope(granted))
				status, message := e.Refused("creds/narrow")
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, "the vendor granted res/a,b as well, which the credential has and the role does not")
			})
		})
	}
}

// A dedicated token that the engine refuses is revoked, so that it does not stay valid unused.
func TestRefusedDedicatedTokenIsRevoked(t *testing.T) {
	for name, amend := range map[string]func(answer map[string]any){
		"more scopes than the role":    func(answer map[string]any) { answer["scope"] = "read write" },
		"a lifetime that is too short": func(answer map[string]any) { answer["expires_in"] = 1 },
		"an invalid token type":        func(answer map[string]any) { answer["token_type"] = "Bear\x01er" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				valid := e.Sim.ValidTokens()
				e.Sim.Behave(e.AmendTokenAnswers(amend))
				_, message := e.Refused("creds/mine")
				assert.Len(t, e.Sim.Revoked(), 1, message)
				assert.Equal(t, valid, e.Sim.ValidTokens())
				e.Creds("api")
				assert.Empty(t, e.Leased())
			})
		})
	}
}

// A vendor may repeat one token until it expires. Such a token is in use by another reader.
func TestRefusedDedicatedTokenIsNotRevokedWhenAnotherReaderHasIt(t *testing.T) {
	for _, name := range []string{"api", "whole"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Write("roles/whole", map[string]any{"config": "api", "dedicated": true})
				theirs := engine.TokenOf(e.Creds(name))
				e.Sim.Behave(e.AmendTokenAnswers(func(answer map[string]any) { answer["access_token"], answer["scope"] = theirs, "read write" }))
				e.Refused("creds/mine")
				assert.Empty(t, e.Sim.Revoked())
				assert.True(t, e.Sim.Accepts(theirs))
			})
		})
	}
}
