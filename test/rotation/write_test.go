package rotation_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// patch changes fields of the credential.
func (a account) patch(fields map[string]any) (status int, message string) {
	a.T.Helper()
	_, status, message = a.Request(logical.PatchOperation, a.path(), fields)
	return status, message
}

// loseAnswer rotates the secret, and loses the answer to the request that creates one.
func (a account) loseAnswer() {
	a.T.Helper()
	a.Sim.Behave(vendorsim.Conduct{LostAnswers: isCreation})
	_, status, message := a.tryRotate(nil)
	require.Equal(a.T, http.StatusServiceUnavailable, status, message)
	a.Sim.Behave(vendorsim.Conduct{})
}

func TestAWrongSecretIsNotVerifiedByTheFormerOne(t *testing.T) {
	for _, kind := range []string{entra, "okta/client_secret"} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newAccount(e, kind, nil)
			a.rotate(nil)
			status, message := a.patch(map[string]any{"client_secret": "a-secret-with-a-typo", "secret_id": anotherID})
			assert.Equal(t, http.StatusBadRequest, status, message)
			e.Pass(2 * day)
			a.assertSettled()
		})
	}
}

func TestASecretIsWrittenTogetherWithItsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		first := a.fields()
		a.rotate(nil)
		status, message := a.patch(map[string]any{"client_secret": first["client_secret"]})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "secret_id: must be given together with client_secret, as it says which secret that is at the vendor", message)
		status, message = a.patch(map[string]any{"client_secret": first["client_secret"], "secret_id": ""})
		assert.Equal(t, http.StatusOK, status, message)
		e.Pass(2 * day)
		assert.True(t, a.accepts(first))
		e.Creds(a.name)

		newClient(e, nil)
		_, status, message = e.Request(logical.PatchOperation, "clients/portal", map[string]any{"client_secret": "another"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "secret_id: must be given together with client_secret")
	})
}

func TestASecretThatIsWrittenAfterALostAnswerIsNotRemoved(t *testing.T) {
	for _, kind := range []string{entra, "databricks/account"} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newAccount(e, kind, nil)
			a.loseAnswer()
			time.Sleep(30 * time.Second)
			byHand := a.createByHand()
			e.Write(a.path(), byHand)
			e.Pass(2 * time.Hour)
			assert.Equal(t, byHand["client_secret"], a.fields()["client_secret"])
			assert.Equal(t, 2, a.live(), "%s: the first secret and the operator's", kind)
			assert.True(t, a.accepts(byHand))
			e.Creds(a.name)
		})
	}
}

func TestASettingThatIsWrittenInTheGraceLeavesNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, "databricks/workspace", nil)
		a.rotate(nil)
		status, message := a.patch(map[string]any{"authorization_details": "[]", "verify": false})
		assert.Equal(t, http.StatusOK, status, message)
		e.Pass(3 * day)
		assert.Equal(t, 1, a.live())
	})
}

// At Snowflake, the place of the former key is free for an operator's.
func TestAKeyInThePlaceOfTheFormerOneIsNotRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, "snowflake", nil)
		a.rotate(nil)
		time.Sleep(time.Hour)
		e.Write(a.path(), a.createByHand())
		e.Pass(2 * day)
		assert.True(t, a.accepts(a.fields()))
		e.Creds(a.name)
	})
}

func TestTheOperatorSaysInWhichPlaceTheKeyIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, "snowflake", map[string]any{"key_slot": ""})
		_, status, message := a.tryRotate(nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "key_slot: must be set for a rotation: ")
	})
}

// A clock that was ahead when the secret was written makes no pending secret void.
func TestAWrongClockDoesNotVoidAPendingSecret(t *testing.T) {
	for _, kind := range []string{"gitlab-token", "auth0/client_secret"} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newAccount(e, kind, nil)
			e.Amend(a.path(), func(entry map[string]any) { entry["write_time"] = time.Now().Add(time.Hour).UTC().Format(time.RFC3339) })
			e.Restart()
			isCreated := false
			e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
				if isCreated {
					return vendorsim.Answer(http.StatusServiceUnavailable, "")
				}
				isCreated = isCreation(r)
				return nil
			}})
			_, status, _ := a.tryRotate(nil)
			require.Equal(t, http.StatusServiceUnavailable, status)
			e.Sim.Behave(vendorsim.Conduct{})
			e.Pass(2 * time.Hour)
			a.assertSettled()
		})
	}
}

func TestADeletionRemovesTheOtherSecrets(t *testing.T) {
	for _, kind := range vendorsim.RotatingKinds() {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newAccount(e, kind, nil)
			a.rotate(nil)
			resp, status, message := e.Request(logical.DeleteOperation, a.path(), nil)
			require.Equal(t, http.StatusOK, status, message)
			assert.Nil(t, resp)
			assert.Equal(t, a.each(), a.live(), kind)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newClient(e, nil)
		a.rotateClient(nil)
		for _, path := range []string{"config/entra/app", "config/entra/api", "clients/portal"} {
			resp, status, message := e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
			assert.Nil(t, resp)
		}
		assert.Equal(t, 1, a.live())
	})
}

func TestADeletionSaysWhatItLeavesAtTheVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		former := a.fields()
		a.rotate(nil)
		e.Sim.Behave(engine.Down())
		resp, status, message := e.Request(logical.DeleteOperation, a.path(), nil)
		require.Equal(t, http.StatusOK, status, message)
		require.NotNil(t, resp)
		assert.Equal(t, []string{"a rotation has left secrets at the vendor, which nobody removes any more; remove them there: a former secret secret_id=\"" + former["secret_id"].(string) + "\""}, resp.Warnings)
	})
}

func TestAWriteOfAnotherAccountSaysWhatItLeavesAtTheVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		former := a.fields()
		a.rotate(nil)
		_, fields := e.Sim.AddRotating(entra, "another")
		e.Write(a.path(), fields)
		assert.Nil(t, a.status())
		assert.Contains(t, e.Outside.Text(), "a rotation has left secrets at the vendor")
		assert.Contains(t, e.Outside.Text(), former["secret_id"])
	})
}
