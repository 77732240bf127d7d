package tokenbroker_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// newRolledBackEngine is one of before an upgrade, put back in its place: what a newer
// one has written is in storage at keys that none of the readers of "search" needs.
func newRolledBackEngine(t *testing.T, keys ...string) *engine.Engine {
	t.Helper()
	e := engine.NewOAuth(t)
	engine.Until(0, 10, 0)
	e.Sim.Behave(vendorsim.Conduct{Rotate: true})
	e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
	e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey})
	e.Register("0oa3archive4", e.Keypair("archive", nil).Data["public_key"])
	e.Write("config/kensho/archive", map[string]any{"client_id": "0oa3archive4", "private_key_source": "generated"})
	e.Write("refresh/prod", nil)
	e.Write("roles/app", map[string]any{"config": "prod"})
	for _, key := range keys {
		e.SetVersion(storage.FormatVersion+1, key)
	}
	e.Restart()
	return e
}

// newerThan is what is said of an entry, by the path where an operator knows it.
func newerThan(key string) string {
	path := strings.NewReplacer("role/", "roles/", "state/", "status/", "/own", "", "/credential", "").Replace(key)
	return fmt.Sprintf("%s was written by a newer version of the engine, in storage format %d; this version knows formats up to %d and does not change the entry; go back to the newer version",
		path, storage.FormatVersion+1, storage.FormatVersion)
}

// A touch is a read, or a write if it has data.
type touch struct {
	path string
	data map[string]any
}

// An engine that is put back after an upgrade says what it cannot read, and who can. It
// writes over none of it, so that the newer one, when it is back, goes on where it was.
func TestWhatANewerEngineWroteIsLeftAsItIs(t *testing.T) {
	another := map[string]any{"refresh_token": "another", "verify": false}
	timeout := map[string]any{"request_timeout": 20}
	for key, touches := range map[string][]touch{
		"config/kensho/prod": {
			{"creds/prod", nil}, {"token/prod", nil}, {"creds/app", nil}, {"status/prod", nil}, {"config/kensho/prod", nil},
			{"refresh/prod", map[string]any{}}, {"config/kensho/prod", timeout}, {"config/kensho/prod", another}, {"roles/other", map[string]any{"config": "prod"}},
		},
		"state/prod/credential": {
			{"creds/prod", nil}, {"token/prod", nil}, {"creds/app", nil}, {"status/prod", nil},
			{"refresh/prod", map[string]any{}}, {"config/kensho/prod", timeout}, {"config/kensho/prod", another},
		},
		"state/prod/own": {
			{"creds/prod", nil}, {"token/prod", nil}, {"creds/app", nil}, {"status/prod", nil},
			{"refresh/prod", map[string]any{}}, {"config/kensho/prod", timeout}, {"config/kensho/prod", another},
		},
		"role/app": {{"creds/app", nil}, {"token/app", nil}, {"roles/app", nil}, {"roles/app", map[string]any{"ttl": "5m"}}},
		"keypair/archive": {
			{"creds/archive", nil}, {"keypair/archive", nil}, {"keypair/archive", map[string]any{}},
			{"keypair/archive/activate", map[string]any{}}, {"config/kensho/archive", nil}, {"config/kensho/archive", timeout},
			{"config/kensho/archive", map[string]any{"private_key_source": "", "client_id": "", "refresh_token": "another", "verify": false}},
		},
	} {
		t.Run(key, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newRolledBackEngine(t, key)
				before, exchanges := e.Dump(), e.Exchanges()
				touch := func() {
					for _, touch := range touches {
						var op logical.Operation = logical.ReadOperation
						if touch.data != nil {
							op = logical.UpdateOperation
						}
						_, status, message := e.Request(op, touch.path, touch.data)
						assert.Equal(t, http.StatusInternalServerError, status, "%s %s", op, touch.path)
						assert.Contains(t, message, newerThan(key), "%s %s", op, touch.path)
					}
				}
				touch()
				for range 3 {
					require.NoError(t, e.Tick())
				}
				touch()
				assert.Equal(t, before, e.Dump())
				assert.Equal(t, exchanges, e.Exchanges(), "no vendor is called with what may be spent")
				e.Creds("search") // whom it does not concern

				e.SetVersion(storage.FormatVersion, key) // the newer one knows it
				e.Restart()
				for _, name := range []string{"prod", "app", "archive"} {
					e.Creds(name)
				}
				assert.Equal(t, exchanges, e.Exchanges())
				e.Write("refresh/prod", nil)
			})
		})
	}
}

// What cannot be read may use anything. Whatever that would harm is refused, and says which
// entry it is, and that it can be deleted; nothing else is.
func TestWhatANewerEngineWroteMayUseOtherNames(t *testing.T) {
	for key, c := range map[string]struct {
		op      logical.Operation
		path    string
		remedy  string
		deletes []string
	}{
		"role/app": {
			logical.DeleteOperation, "config/sitecore/search",
			"it may use config/sitecore/search, which stays as it is until then, or until roles/app is deleted", []string{"roles/app"},
		},
		"config/kensho/prod": {
			logical.UpdateOperation, "keypair/archive",
			"it may use keypair/archive, which stays as it is until then, or until config/kensho/prod is deleted", []string{"roles/app", "config/kensho/prod"},
		},
	} {
		t.Run(key, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newRolledBackEngine(t, key)
				_, status, message := e.Request(c.op, c.path, map[string]any{})
				assert.Equal(t, http.StatusInternalServerError, status)
				assert.Contains(t, message, newerThan(key)+"; "+c.remedy)

				e.Creds("search")
				e.Creds("archive")
				e.Write("config/sitecore/search", map[string]any{"request_timeout": 20})
				e.Write("roles/other", map[string]any{"config": "archive"})
				e.Keypair("unused", nil)

				for _, path := range c.deletes {
					_, status, message := e.Request(logical.DeleteOperation, path, nil)
					require.Equal(t, http.StatusOK, status, message)
				}
				_, status, message = e.Request(c.op, c.path, map[string]any{})
				assert.Equal(t, http.StatusOK, status, message)
			})
		})
	}
}

// A key pair that cannot be read is no reason to keep the credential that uses it, nor to
// hold up any other.
func TestAKeypairThatANewerEngineWroteCanBeDeletedAfterItsUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newRolledBackEngine(t, "keypair/archive")
		e.Keypair("other", nil)
		e.Keypair("other", nil) // a pending one, for which users are looked for
		_, status, message := e.Request(logical.DeleteOperation, "keypair/archive", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "keypair/archive is used by credentials: delete config/kensho/archive first")
		for _, path := range []string{"config/kensho/archive", "keypair/archive"} {
			_, status, message := e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
	})
}

func TestALeaseThatANewerEngineWroteIsRevokedByThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newRolledBackEngine(t)
		lease := e.Creds("mine")
		key := e.Leased()[0]
		e.SetVersion(storage.FormatVersion+1, key)
		require.ErrorContains(t, e.Revoke(lease), newerThan(key), "Vault tries again")
		assert.True(t, e.Sim.Accepts(engine.TokenOf(lease)))
		e.SetVersion(storage.FormatVersion, key)
		require.NoError(t, e.Revoke(lease))
		assert.False(t, e.Sim.Accepts(engine.TokenOf(lease)))
		assert.Empty(t, e.Leased())
	})
}

// To delete is an operator's own decision, and the way to start anew with the engine of
// before.
func TestWhatANewerEngineWroteCanBeDeleted(t *testing.T) {
	for _, key := range []string{"config/kensho/prod", "state/prod/credential", "state/prod/own", "role/app"} {
		t.Run(key, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newRolledBackEngine(t, key)
				for _, path := range []string{"roles/app", "config/kensho/prod"} {
					_, status, message := e.Request(logical.DeleteOperation, path, nil)
					require.Equal(t, http.StatusOK, status, message)
				}
				e.Sim.AddRefreshToken("link-streaming", "another-refresh-token")
				e.Write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
				e.Creds("prod")
			})
		})
	}
}
