package tokenbroker_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee14ARolesReaderNeverGetsMoreThanTheRole(t *testing.T) {
	granting := func(e *engine, scope ...string) {
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.sim.Amend(func(answer map[string]any) { answer["scope"] = strings.Join(scope, " ") }))})
	}
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := newNarrowedEngine(t)
			granting(e, nerdScope, linkScope)
			for range 2 { // the second time without asking the vendor
				status, message := e.refused("creds/nerd")
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Equal(t, "the vendor granted "+linkScope+" as well, which the credential has and the role does not: use a credential of its own for the role, with no more scope than that: the role's scope is "+strconv.Quote(nerdScope), message)
				status, _ = e.refused("token/nerd")
				assert.Equal(t, http.StatusBadRequest, status)
			}
			assert.Equal(t, "failed", e.read("status/prod").Data["state"], "some readers get no token")
			e.creds("prod")
			if restart {
				e.restart()
			}

			granting(e, nerdScope, "profile")
			until(0, 10, 0)
			resp := e.creds("nerd")
			assert.Equal(t, []string{"the vendor granted scopes that it was not asked for: profile"}, resp.Warnings)
			assert.Equal(t, []string{nerdScope, "profile"}, resp.Data["scope"])
			assert.Equal(t, resp.Warnings, e.creds("nerd").Warnings, "of a cached token too")

			granting(e, nerdScope, linkScope)
			_, status, message := e.request(logical.UpdateOperation, "refresh/prod", nil)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Regexp(t, `^the vendor gives no new token of the scope "`+nerdScope+`": the vendor granted .* the cached token stays in use; it expires at .*; no read of a role with this scope gets a newer token until the vendor grants no more than that$`, message)
		})
	}
}

func TestGuarantee14MoreThanARoleIsRefusedThoughOnlyTheVendorKnowsTheCredentialsScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		fields := secretClient(true)
		delete(fields, "scope")
		e.write("config/oauth2/open", fields)
		e.write("roles/reading", map[string]any{"config": "open", "scope": "read"})
		e.sim.Behave(e.granting("read write"))
		status, message := e.refused("creds/reading")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "the vendor granted write as well, which the role does not have, and may be more than the role may get: set the credential's scope to what its roles may get, and give the role a credential of its own if that has it: the role's scope is \"read\"", message)
		_, status, message = e.request(logical.UpdateOperation, "refresh/open", nil)
		assert.Equal(t, http.StatusOK, status, "nothing is said of the credential: %s", message)

		e.sim.Behave(e.granting("read profile"))
		e.write("config/oauth2/open", map[string]any{"scope": "read"})
		resp := e.creds("open")
		assert.Empty(t, resp.Warnings, "its own scope")
		e.write("config/oauth2/open", map[string]any{"scope": "read,write"})
		assert.Equal(t, []string{"the vendor granted scopes that it was not asked for: profile"}, e.creds("reading").Warnings, "as the message advises")
	})
}

func TestGuarantee14AScopeWithACommaIsComparedAsAWhole(t *testing.T) {
	for _, granted := range []string{"read res/a,b", "read,res/a,b", "res/a,b,read", "res/a,b"} {
		t.Run(granted, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newOAuthEngine(t)
				e.write("config/oauth2/some", with(with(secretClient(false), "scope", []any{"res/a,b", "read"}), "verify", false))
				e.write("roles/narrow", map[string]any{"config": "some", "scope": "read"})
				e.sim.Behave(e.granting(granted))
				status, message := e.refused("creds/narrow")
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, "the vendor granted res/a,b as well, which the credential has and the role does not")
			})
		})
	}
}

// A token that a vendor issued for one reader, and that nobody gets, does not stay valid.
func TestADedicatedTokenThatIsRefusedIsRevoked(t *testing.T) {
	for name, amend := range map[string]func(answer map[string]any){
		"more than the role":       func(answer map[string]any) { answer["scope"] = "read write" },
		"it lives too short":       func(answer map[string]any) { answer["expires_in"] = 1 },
		"an unreadable token type": func(answer map[string]any) { answer["token_type"] = "Bear\x01er" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newOAuthEngine(t)
				live := e.sim.Live()
				e.sim.Behave(e.amending(amend))
				_, message := e.refused("creds/mine")
				assert.Len(t, e.sim.Revoked(), 1, message)
				assert.Equal(t, live, e.sim.Live())
				e.creds("api")
				assert.Empty(t, e.leased())
			})
		})
	}
}

// A vendor may answer with one token until it expires: it is another reader's.
func TestADedicatedTokenThatAnotherHasIsNotRevokedThoughItIsRefused(t *testing.T) {
	for _, name := range []string{"api", "whole"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newOAuthEngine(t)
				e.write("roles/whole", map[string]any{"config": "api", "dedicated": true})
				theirs := tokenOf(e.creds(name))
				e.sim.Behave(e.amending(func(answer map[string]any) { answer["access_token"], answer["scope"] = theirs, "read write" }))
				e.refused("creds/mine")
				assert.Empty(t, e.sim.Revoked())
				assert.True(t, e.sim.Accepts(theirs))
			})
		})
	}
}
