package rotation_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
)

func TestAfterALeakTheFormerSecretAndTheCachedTokensAreGoneAtOnce(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newAccount(e, kind, nil)
			leaked, token := a.fields(), engine.TokenOf(e.Creds(a.name))
			resp := a.rotate(map[string]any{"rotation_grace": 0})
			assert.NotContains(t, resp.Data, "former_until")
			assert.False(t, a.accepts(leaked))
			time.Sleep(time.Second) // the iat of a token that the engine signs
			assert.NotEqual(t, token, engine.TokenOf(e.Creds(a.name)))
			a.assertSettled()
		})
	})
}

func TestReadersOfACachedTokenDoNotWaitForARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		token := engine.TokenOf(e.Creds(a.name))
		e.Sim.Behave(vendorsim.Conduct{Latency: 8 * time.Second})
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.rotate(nil)
		}()
		for isDone := false; !isDone; {
			began := time.Now()
			assert.Equal(t, token, engine.TokenOf(e.Creds(a.name)))
			assert.Zero(t, time.Since(began), "a reader has waited")
			time.Sleep(time.Second)
			select {
			case <-done:
				isDone = true
			default:
			}
		}
	})
}

func TestASecretOfAnotherApplicationEndsTheRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		e.Sim.Behave(vendorsim.Conduct{Propagation: 10 * time.Minute})
		a.rotate(nil)
		require.Contains(t, a.status(), "pending_since")
		own := a.fields()
		time.Sleep(time.Second)
		e.Write(a.path(), map[string]any{"client_secret": own["client_secret"], "secret_id": own["secret_id"], "verify": false, "description": "by hand"})
		_, fields := e.Sim.AddRotating(entra, "another")
		fields["verify"] = false
		e.Write(a.path(), fields) // of another application
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(time.Hour)
		assert.Equal(t, fields["client_secret"], a.fields()["client_secret"])
		assert.Nil(t, a.status(), "the rotation was of another application")
	})
}

func TestASecretWrittenDuringARotationStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		byHand := a.createByHand()
		e.Pass(time.Hour)
		e.Sim.Behave(vendorsim.Conduct{Propagation: 10 * time.Minute})
		a.rotateInBackground()
		time.Sleep(time.Second)
		e.Write(a.path(), byHand)
		e.Pass(time.Hour)
		assert.Equal(t, byHand["client_secret"], a.fields()["client_secret"])
		assert.NotContains(t, a.status(), "pending_since")
		assert.True(t, a.accepts(byHand))
		assert.Equal(t, 2, a.live(), "the operator's secret and the one before, which nothing has replaced by a rotation")
	})
}

// createByHand makes the vendor issue another secret, as an operator does.
func (a account) createByHand() map[string]any {
	a.T.Helper()
	client, err := provider.NewClient(provider.ClientOptions{Timeout: time.Minute, Transport: a.Transport})
	require.NoError(a.T, err)
	fields, err := json.Marshal(a.fields())
	require.NoError(a.T, err)
	opened, err := catalogue.Lookup(a.vendor).Open(provider.Settings{Fields: fields, Client: client})
	require.NoError(a.T, err)
	rotation, err := provider.RotationOf(opened)
	require.NoError(a.T, err)
	n := provider.NewSecret{Name: "by hand", ExpireTime: time.Now().Add(30 * day)}
	require.NoError(a.T, rotation.Prepare(a.T.Context(), &n))
	created, err := rotation.Create(a.T.Context(), n)
	require.NoError(a.T, err)
	return created
}

func TestAFormerSecretThatIsWrittenAgainIsNotRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		first := a.fields()
		a.rotate(nil)
		e.Write(a.path(), map[string]any{"client_secret": first["client_secret"], "secret_id": first["secret_id"]})
		e.Pass(2 * day)
		assert.True(t, a.accepts(first))
		e.Creds(a.name)
	})
}

// rotateInBackground begins a rotation whose secret the vendor does not accept yet.
func (a account) rotateInBackground() {
	a.T.Helper()
	resp := a.rotate(nil)
	require.Equal(a.T, false, resp.Data["rotated"])
}

func TestAKeyPairGivesWayToAKeyOfTheCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		_, fields := e.Sim.AddRotating("snowflake", "generated")
		e.Write("keypair/generated", map[string]any{"key_type": "rsa-2048"})
		e.Sim.SetSnowflakeKey("generated", engine.PublicKey(t, e.Read("keypair/generated").Data["public_key"]))
		delete(fields, "private_key")
		fields["private_key_source"] = "generated"
		a := account{Engine: e, kind: "snowflake", name: "generated", vendor: "snowflake"}
		e.Write(a.path(), fields)
		a.rotate(nil)
		after := a.fields()
		assert.NotContains(t, after, "private_key_source")
		assert.True(t, a.accepts(after))
		e.Creds(a.name)
		_, status, message := e.Request(logical.DeleteOperation, "keypair/generated", nil)
		assert.Equal(t, http.StatusOK, status, message)
	})
}
