package rotation_test

import (
	"maps"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// anotherID is the ID of a secret that the vendor does not have.
const anotherID = "11111111-1111-1111-1111-111111111111"

// newClient stores a client of Entra with two credentials, app and api.
func newClient(e *engine.Engine, more map[string]any) account {
	e.T.Helper()
	return newClientOf(e, entra, more)
}

// credentialsOfClient are those of newClient and newClientOf.
var credentialsOfClient = []string{"app", "api"}

// newClientOf stores a client of a kind with two credentials. Okta's has their scope, too.
func newClientOf(e *engine.Engine, kind string, more map[string]any) account {
	e.T.Helper()
	vendor, fields := e.Sim.AddRotating(kind, "portal")
	own := map[string]any{"client": "portal"}
	for _, field := range []string{"scope", "audience"} {
		if value, isSet := fields[field]; isSet {
			own[field] = value
		}
	}
	delete(fields, "audience")
	fields["vendor"], fields["grant_type"] = vendor, "client_credentials"
	maps.Copy(fields, more)
	e.Write("clients/portal", fields)
	for _, name := range credentialsOfClient {
		e.Write("config/"+vendor+"/"+name, own)
	}
	return account{Engine: e, kind: kind, name: "portal", vendor: vendor}
}

// rotateClient rotates the secret of the client, and fails the test unless that succeeds.
func (a account) rotateClient(data map[string]any) *logical.Response {
	a.T.Helper()
	resp, status, message := a.Request(logical.UpdateOperation, "clients/portal/rotate", data)
	require.Equal(a.T, http.StatusOK, status, message)
	return resp
}

// clientRotation returns the rotation that a read of the client shows.
func (a account) clientRotation() map[string]any {
	a.T.Helper()
	rotation, _ := a.Read("clients/portal").Data["rotation"].(map[string]any)
	return rotation
}

func TestTheSecretOfAClientIsReplacedForAllItsCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newClient(e, nil)
		tokens := map[string]string{}
		for _, name := range []string{"app", "api"} {
			tokens[name] = engine.TokenOf(e.Creds(name))
		}
		a.rotateClient(nil)
		assert.Equal(t, 2, a.live(), "the new secret, and the former one")
		for name, token := range tokens {
			assert.Equal(t, token, engine.TokenOf(e.Creds(name)), "cached tokens stay in use")
			assert.Equal(t, "request", a.Read("status/" + name).Data["rotation"].(map[string]any)["last_rotation_by"])
		}
		e.Pass(2 * time.Hour)
		for name := range tokens {
			e.Creds(name)
		}
		assert.Contains(t, a.clientRotation(), "former_until")
		e.Pass(day)
		assert.NotContains(t, a.clientRotation(), "former_until")
		assert.Equal(t, 1, a.live())
		for name := range tokens {
			e.Creds(name)
		}
	})
}

func TestWhileTheVendorRefusesTheNewSecretOfAClientTheFormerOneIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newClient(e, nil)
		e.Pass(2 * time.Hour) // the tokens expire
		e.Sim.Behave(vendorsim.Conduct{Propagation: 5 * time.Minute})
		resp := a.rotateClient(nil)
		assert.Equal(t, false, resp.Data["rotated"], "Entra authorizes its own rotation with the secret")
		for range 8 {
			e.Creds("app")
			e.Creds("api")
			e.Pass(time.Minute)
		}
		e.Sim.Behave(vendorsim.Conduct{})
		assert.NotContains(t, a.clientRotation(), "pending_since")
		e.Pass(2 * time.Hour)
		e.Creds("app")
		e.Pass(day)
		assert.Equal(t, 1, a.live())
	})
}

// With an API token of an administrator, Okta is not asked whether it accepts the new secret.
func TestTheFormerSecretOfAClientStaysUntilTheNewOneHasWorked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newClientOf(e, "okta/client_secret", map[string]any{"rotation_period": "2d", "rotation_grace": "2h"})
		e.Pass(2 * time.Hour)
		a.rotateClient(nil)
		e.Pass(5 * day) // nobody reads
		assert.Equal(t, 2, a.live(), "nor is there another rotation")
		e.Creds("app")
		e.Pass(2 * time.Minute)
		assert.Equal(t, "schedule", a.clientRotation()["last_rotation_by"])
		e.Creds("api")
		e.Pass(3 * time.Hour)
		assert.Equal(t, 1, a.live())
	})
}

func TestAClientThatNobodyReadsHasNoMoreThanTwoSecrets(t *testing.T) {
	for _, kind := range []string{entra, "okta/client_secret"} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newClientOf(e, kind, map[string]any{"rotation_period": "1d", "rotation_grace": "2h"})
			for range 4 {
				e.Pass(day)
				assert.LessOrEqual(t, a.live(), 2, kind)
			}
		})
	}
}

func TestARotationKeepsTheFormerSecretOfAClientWhoseNewOneIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		newClient(e, nil)
		e.Creds("app")
		e.Pass(2 * time.Hour)
		e.Write("clients/portal", map[string]any{"client_secret": "a-typo", "secret_id": anotherID})
		e.Pass(2 * time.Hour)
		e.Creds("app")
		_, status, message := e.Request(logical.UpdateOperation, "clients/portal/rotate", nil)
		assert.Equal(t, http.StatusBadRequest, status, message)
		e.Pass(2 * time.Hour)
		e.Creds("app")
	})
}

func TestAWriteOfASecretWithItsIDKeepsTheTokensOfAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		newClient(e, nil)
		token := engine.TokenOf(e.Creds("app"))
		e.Write("clients/portal", map[string]any{"client_secret": "not-known-everywhere-yet", "secret_id": anotherID})
		assert.Equal(t, token, engine.TokenOf(e.Creds("app")))
	})
}

func TestAPlanOfAClientThatIsNotPossibleIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		newClient(e, map[string]any{"secret_id": ""})
		_, status, message := e.Request(logical.PatchOperation, "clients/portal", map[string]any{"rotation_period": "30d"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "rotation_period: secret_id: must be set for a rotation: ")
	})
}

func TestFailuresOfAClientsRotationDegradeItsCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newClient(e, map[string]any{"rotation_period": "2d"})
		e.Pass(2*day - time.Minute)
		e.Creds("app")
		e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if r.Host != "graph.microsoft.com" {
				return nil
			}
			return forbidden
		}})
		e.Pass(15 * time.Minute)
		assert.Equal(t, 3, a.clientRotation()["consecutive_failures"])
		assert.Equal(t, "degraded", e.Read("status/app").Data["state"])
		assert.Contains(t, metricsOf(e), `tokenbroker_rotation_failures{name="app",vendor="entra"} 3`)
	})
}

func TestAClientWhoseKeyPairGivesWayShowsNoPrivateKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		_, fields := e.Sim.AddRotating("snowflake", "shared")
		e.Write("keypair/shared", map[string]any{"key_type": "rsa-2048", "allowed_clients": "portal"})
		e.Sim.SetSnowflakeKey("shared", engine.PublicKey(t, e.Read("keypair/shared").Data["public_key"]))
		delete(fields, "private_key")
		maps.Copy(fields, map[string]any{"private_key_source": "generated", "keypair": "shared", "vendor": "snowflake", "grant_type": "key_pair"})
		e.Write("clients/portal", fields)
		e.Write("config/snowflake/app", map[string]any{"client": "portal"})
		e.Creds("app")
		_, status, message := e.Request(logical.UpdateOperation, "clients/portal/rotate", nil)
		require.Equal(t, http.StatusOK, status, message)
		data := e.Read("clients/portal").Data
		assert.NotContains(t, data, "private_key")
		assert.Equal(t, []string{"private_key"}, data["secrets_set"])
	})
}

func TestAClientIsRotatedBySchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newClient(e, map[string]any{"rotation_period": "30d", "rotation_grace": "2h"})
		assert.Equal(t, "2000-01-31T00:00:00Z", a.clientRotation()["next_vault_rotation"])
		e.Pass(30*day + 2*time.Minute)
		assert.Equal(t, "schedule", a.clientRotation()["last_rotation_by"])
		assert.Equal(t, 2, a.live())
		e.Creds("app")
		e.Pass(3 * time.Hour)
		assert.Equal(t, 1, a.live())
		assert.Equal(t, "2000-03-01T00:00:00Z", a.clientRotation()["next_vault_rotation"])
	})
}

func TestACredentialOfAClientHasNoRotationOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		newClient(e, nil)
		for path, data := range map[string]map[string]any{"config/entra/app/rotate": nil, "config/entra/app": {"rotation_period": "30d"}} {
			_, status, message := e.Request(logical.UpdateOperation, path, data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, "the secret is that of clients/portal")
		}
	})
}

// The rotation of a client is killed at each of its storage writes and after each request. (Guarantees 3 and 10.)
func TestGuarantee10AKilledRotationOfAClientIsCompleted(t *testing.T) {
	kill := func(n int, atRequest bool) (isMet bool) {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newClient(e, nil)
			storage := e.BreakStorage()
			e.Restart()
			var count atomic.Int64
			next := func() bool {
				is := int(count.Add(1))-1 == n
				isMet = isMet || is
				return is
			}
			if atRequest {
				e.Sim.Behave(vendorsim.Conduct{LostAnswers: func(*http.Request) bool {
					is := next()
					if is {
						storage.Killed.Store(true)
					}
					return is
				}})
			} else {
				meet := func(c engine.StorageCall) engine.Fault {
					if !c.Writes() || c.Key == "probe" || !next() {
						return engine.Fault{}
					}
					return engine.Fault{Done: true, Err: engine.ErrStorage, Wait: time.Hour}
				}
				storage.OnCall.Store(&meet)
			}
			rotated := make(chan struct{})
			old := e.Backend
			go func() {
				defer close(rotated)
				_, _ = old.HandleRequest(t.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: "clients/portal/rotate", Storage: storage, MountPoint: engine.MountPoint})
			}()
			synctest.Wait()
			time.Sleep(30 * time.Second)
			e.Storage = storage.Storage
			e.Sim.Behave(vendorsim.Conduct{})
			e.Restart()
			e.Creds("app")
			e.Creds("api")
			e.Pass(2 * time.Hour)
			assert.LessOrEqual(t, a.live(), 2, "point %d", n)
			e.Creds("app")
			e.Pass(2 * day)
			e.Creds("api")
			e.Pass(20 * time.Minute)
			assert.Equal(t, 1, a.live(), "point %d: secrets at the vendor", n)
			e.Creds("app")
			storage.Killed.Store(true)
			<-rotated
		})
		return isMet
	}
	for _, atRequest := range []bool{false, true} {
		n := 0
		for kill(n, atRequest) {
			n++
		}
		assert.GreaterOrEqual(t, n, 3, "points of a rotation")
	}
}
