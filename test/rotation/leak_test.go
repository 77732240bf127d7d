package rotation_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Only the last answer of the vendor has the refresh token.
func TestARefreshTokenOutlivesALeakOfTheClientSecret(t *testing.T) {
	for _, grace := range []any{"2h", 0} {
		synctest.Test(t, func(t *testing.T) {
			a := newOwn(t, map[string]any{"refresh_token": engine.RefreshToken, "grant_type": "refresh_token"})
			token := engine.TokenOf(a.Creds("prod"))
			a.Pass(2 * time.Hour)
			a.rotate(map[string]any{"rotation_grace": grace})
			a.Pass(2 * time.Hour)
			assert.NotEqual(t, token, engine.TokenOf(a.Creds("prod")))
		})
	}
}

func TestALeakEndsTheFormerSecretAlsoWhereOneIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		leaked, token := a.fields(), engine.TokenOf(e.Creds(a.name))
		e.Sim.Behave(vendorsim.Conduct{Propagation: 3 * time.Minute})
		a.rotate(nil)
		require.Contains(t, a.status(), "pending_since")
		time.Sleep(4 * time.Minute) // without background work
		e.Sim.Behave(vendorsim.Conduct{})
		resp := a.rotate(map[string]any{"rotation_grace": 0})
		assert.NotContains(t, resp.Data, "former_until")
		assert.False(t, a.accepts(leaked))
		assert.NotEqual(t, token, engine.TokenOf(e.Creds(a.name)))
	})
}

// The first request asks for no grace, or the second one does.
func TestALeakIsRememberedUntilTheVendorKnowsTheNewSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		for _, first := range []map[string]any{{"rotation_grace": 0}, nil} {
			leaked := a.fields()
			e.Sim.Behave(vendorsim.Conduct{Propagation: 3 * time.Minute})
			a.rotate(first)
			a.rotate(map[string]any{"rotation_grace": 0})
			require.Contains(t, a.status(), "pending_since")
			e.Sim.Behave(vendorsim.Conduct{})
			e.Pass(10 * time.Minute)
			assert.False(t, a.accepts(leaked))
		}
	})
}

func TestALeakOfAClientsSecretDropsTheTokensOfItsCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newClient(e, nil)
		token := engine.TokenOf(e.Creds("app"))
		a.rotateClient(map[string]any{"rotation_grace": 0})
		assert.Equal(t, 1, a.live())
		assert.NotEqual(t, token, engine.TokenOf(e.Creds("app")))
	})
}

func TestTheGraceIsShorterThanTheTimeBetweenRotations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, map[string]any{"rotation_period": "30d"})
		_, status, message := a.tryRotate(map[string]any{"rotation_grace": "30d"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "rotation_grace: must be shorter than the time between two rotations, 30d", message)
	})
}

func TestAGraceIsLongEnoughForTokensInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		_, status, message := a.tryRotate(map[string]any{"rotation_grace": "59m"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "rotation_grace: must be at least 1h")
	})
}

func TestARotationWithoutAGraceReportsTheNewSecretAndTheFormerOneThatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if !strings.HasSuffix(r.URL.Path, "/removePassword") {
				return nil
			}
			return forbidden
		}})
		_, status, message := a.tryRotate(map[string]any{"rotation_grace": 0})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the new secret is in use, and a former secret is not removed: graph.microsoft.com: 403 Forbidden")
		synctest.Wait()
		var kinds []string
		for _, event := range e.Events() {
			if strings.Contains(event.Kind, "rotat") {
				kinds = append(kinds, event.Kind)
			}
		}
		assert.Equal(t, []string{"tokenbroker/credential-rotated", "tokenbroker/rotation-failed"}, kinds)
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(time.Hour)
		a.assertSettled()
	})
}
