package tokenbroker_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/vendorsim"
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
				assert.Contains(t, message, "the vendor granted "+linkScope+" as well, which the credential has and the role does not")
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
		})
	}
}
