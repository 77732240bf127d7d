package credentials_test

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestARotatedRefreshTokenSurvivesAWriteOfOtherFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Rotate: true})
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(1, 0, 5)
		e.Creds("prod")

		for i, fields := range []map[string]any{
			{"request_timeout": 11, "verify": true},
			{"request_timeout": 12, "verify": false},
			{"refresh_token": engine.RefreshToken, "verify": false}, // already stored
			{"refresh_token": engine.RefreshToken},
		} {
			e.Write("config/kensho/prod", fields)
			e.Restart()
			engine.Until(2+i, 0, 5)
			e.Creds("prod")
		}
	})
}

func TestAnOperatorsRefreshTokenReplacesTheRotatedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Rotate: true})
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Sim.AddRefreshToken("link-streaming", "the-operators-next")
		e.Write("config/kensho/prod", map[string]any{"refresh_token": "the-operators-next"})
		calls := e.Sim.Calls()
		assert.Contains(t, calls[len(calls)-1].URL, "the-operators-next")
	})
}

func TestAWriteDetectsTheAuthStyleAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		client := vendorsim.OAuthClient{
			ID: engine.ClientID, Secret: engine.ClientSecret, Rotate: true, Grants: []string{vendorsim.RefreshTokenGrant}, AuthMethods: []string{vendorsim.SecretPost},
		}
		e.Sim.AddOAuthClient(client)
		e.Sim.AddOAuthRefreshToken(client, engine.RefreshToken)
		e.Write("config/oauth2/user", map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "client_secret": engine.ClientSecret, "refresh_token": engine.RefreshToken,
		})
		e.Write("refresh/user", nil) // with the rotated refresh token
		calls := e.Exchanges()
		e.Write("refresh/user", nil)
		require.Equal(t, calls+1, e.Exchanges(), "the detected auth style is cached")

		client.AuthMethods = []string{vendorsim.SecretBasic}
		e.Sim.AddOAuthClient(client)
		e.Write("config/oauth2/user", map[string]any{"request_timeout": 20, "verify": true})
		e.Creds("user")
	})
}

func TestAWriteFailsIfTheRotatedRefreshTokenCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		engine.Until(1, 0, 5)
		e.Creds("prod") // the vendor rotates the refresh token; the new one is in state/
		storage.RefuseState.Store(true)
		e.Restart()
		_, status, message := e.Request(logical.PatchOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": false})
		assert.Equal(t, http.StatusInternalServerError, status, message)
		storage.RefuseState.Store(false)
		engine.Until(2, 0, 5)
		e.Creds("prod")
	})
}
