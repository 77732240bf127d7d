package rotation_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Given a vendor that has the new secret, and whose answer was lost, then a refusal of the repeated request does not
// show that the vendor has nothing.
func TestARefusalOfARepeatedRequestLosesNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, "auth0/client_secret", nil)
		before := a.fields()["client_secret"]
		e.Sim.Behave(vendorsim.Conduct{LostAnswers: func(r *http.Request) bool { return r.Method == http.MethodPatch }})
		_, status, _ := a.tryRotate(nil)
		require.Equal(t, http.StatusServiceUnavailable, status)

		// A server of the vendor does not know the new secret yet, and all have forgotten the former one.
		e.Sim.Behave(vendorsim.Conduct{Fault: refusing(func(form url.Values) bool {
			return form.Get("client_secret") != "" && form.Get("client_secret") != before
		})})
		_, status, message := a.tryRotate(nil)
		require.Equal(t, http.StatusBadRequest, status, message)
		assert.Contains(t, a.status(), "pending_since")

		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(10 * time.Minute)
		assert.NotContains(t, a.status(), "pending_since")
		assert.NotEqual(t, before, a.fields()["client_secret"])
		a.assertSettled()
	})
}

// The same for each request of each vendor, with a vendor that is unavailable after it.
func TestAnOutageAfterALostAnswerLeavesNothingAtTheVendor(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		if kind == "gitlab-token" {
			return // GitLab ends the only token that the credential has; the how-to says so
		}
		for n := 0; outageAfterLostAnswer(t, kind, n); n++ {
		}
	})
}

// outageAfterLostAnswer loses the answer to the nth request of a rotation, and makes the vendor unavailable for half an
// hour after it. It reports whether there was one.
func outageAfterLostAnswer(t *testing.T, kind string, n int) (isMet bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, kind, shortGrace)
		var count atomic.Int64
		e.Sim.Behave(vendorsim.Conduct{LostAnswers: func(*http.Request) bool {
			is := int(count.Add(1))-1 == n
			isMet = isMet || is
			return is
		}})
		_, _, _ = a.tryRotate(nil)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, ""))})
		e.Pass(30 * time.Minute)
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(2 * time.Hour)
		assert.LessOrEqual(t, a.live(), 2*a.each(), "request %d: at most one secret to clean up", n)
		a.assertSettledAfterGrace()
	})
	return isMet
}

func TestAGatewayThatAnswersForTheVendorLosesNoSecret(t *testing.T) {
	eachQuickKind(t, func(t *testing.T, kind string) {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newAccount(e, kind, nil)
			isDone := false
			e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
				if isDone || !isCreation(r) {
					return nil
				}
				isDone = true
				return e.Sim.Unavailable
			}})
			_, status, _ := a.tryRotate(nil)
			require.Equal(t, http.StatusServiceUnavailable, status)
			e.Pass(2 * time.Hour)
			if kind == "gitlab-token" {
				assert.Equal(t, 1, a.live(), "the answer is lost, but the family is not revoked")
				return
			}
			a.assertSettledAfterGrace()
		})
	})
}

// A person has yet to consent, so that no exchange can prove the new secret.
func TestASecretThatTheVendorHasNotTakenIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, "auth0/client_secret", map[string]any{"grant_type": "refresh_token", "redirect_uri": "https://vault.example.com/v1/kensho/callback"})
		first := a.fields()
		e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if !isCreation(r) {
				return nil
			}
			return vendorsim.Hang
		}})
		_, status, _ := a.tryRotate(nil)
		require.Equal(t, http.StatusServiceUnavailable, status)
		e.Pass(5 * time.Minute)
		assert.Equal(t, first, a.fields())
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(2 * time.Hour)
		assert.NotEqual(t, first["client_secret"], a.fields()["client_secret"])
		assert.True(t, a.accepts(a.fields()))
	})
}

// The stored place is not that of the key, so that the vendor has replaced the present one.
func TestAKeyThatTheVendorHasTakenIsUsedAlsoIfTheFormerOneHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, "snowflake", map[string]any{"key_slot": "RSA_PUBLIC_KEY_2"})
		a.loseAnswer()
		e.Pass(2 * time.Hour)
		assert.True(t, a.accepts(a.fields()))
		e.Creds(a.name)
	})
}

func TestAFormerSecretThatIsNotRemovedDoesNotKeepThePresentOneFromBeingReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, map[string]any{"rotation_grace": "2h"})
		a.rotate(nil)
		leaked := a.fields()
		e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if !strings.HasSuffix(r.URL.Path, "/removePassword") {
				return nil
			}
			return forbidden
		}})
		e.Pass(3 * time.Hour)
		assert.Contains(t, a.status()["last_error"], "a former secret is not removed: ")
		_, status, message := a.tryRotate(nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the new secret is in use, and a former secret is not removed: ")
		assert.NotEqual(t, leaked["client_secret"], a.fields()["client_secret"])
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(4 * time.Hour)
		a.assertSettled()
	})
}
