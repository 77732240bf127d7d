package operations_test

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

// newRolledBackEngine returns an engine after a rollback: the entries at keys have a newer
// storage format. The credential "search" needs none of them.
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

// newerFormatError returns the error for the entry at key, which names the path of the entry.
func newerFormatError(key string) string {
	path := strings.NewReplacer("role/", "roles/", "state/", "status/", "/own", "", "/grant", "").Replace(key)
	return fmt.Sprintf("%s was written by a newer version of the engine, in storage format %d; this version supports formats up to %d and leaves the entry unchanged; go back to the newer version",
		path, storage.FormatVersion+1, storage.FormatVersion)
}

// access is a write if it has data, and a read otherwise.
type access struct {
	path string
	data map[string]any
}

// After a rollback, errors name the entry that cannot be read and the version that can read
// it. The entry is not overwritten, so the newer version continues where it stopped.
func TestEntriesOfANewerFormatAreNotChanged(t *testing.T) {
	another := map[string]any{"refresh_token": "another", "verify": false}
	timeout := map[string]any{"request_timeout": 20}
	for key, accesses := range map[string][]access{
		"config/kensho/prod": {
			{"creds/prod", nil}, {"token/prod", nil}, {"creds/app", nil}, {"status/prod", nil}, {"config/kensho/prod", nil},
			{"refresh/prod", map[string]any{}}, {"config/kensho/prod", timeout}, {"config/kensho/prod", another}, {"roles/other", map[string]any{"config": "prod"}},
		},
		"state/prod/grant": {
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
				accessAll := func() {
					for _, access := range accesses {
						var op logical.Operation = logical.ReadOperation
						if access.data != nil {
							op = logical.UpdateOperation
						}
						_, status, message := e.Request(op, access.path, access.data)
						assert.Equal(t, http.StatusInternalServerError, status, "%s %s", op, access.path)
						assert.Contains(t, message, newerFormatError(key), "%s %s", op, access.path)
					}
				}
				accessAll()
				for range 3 {
					require.NoError(t, e.Tick())
				}
				accessAll()
				assert.Equal(t, before, e.Dump())
				assert.Equal(t, exchanges, e.Exchanges(), "no vendor is called with a refresh token that may be spent")
				e.Creds("search") // not affected

				e.SetVersion(storage.FormatVersion, key) // as the newer version reads it
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

// An entry that cannot be read may use any credential or key pair. A request that could break
// it is rejected with the path of the entry; all other requests succeed.
func TestAnEntryOfANewerFormatProtectsWhatItMayUse(t *testing.T) {
	for key, c := range map[string]struct {
		op      logical.Operation
		path    string
		remedy  string
		deletes []string
	}{
		"role/app": {
			logical.DeleteOperation, "config/sitecore/search",
			"or delete roles/app; it may use config/sitecore/search, which cannot be changed or deleted until then", []string{"roles/app"},
		},
		"config/kensho/prod": {
			logical.UpdateOperation, "keypair/archive",
			"or delete config/kensho/prod; it may use keypair/archive, which cannot be changed or deleted until then", []string{"roles/app", "config/kensho/prod"},
		},
	} {
		t.Run(key, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newRolledBackEngine(t, key)
				_, status, message := e.Request(c.op, c.path, map[string]any{})
				assert.Equal(t, http.StatusInternalServerError, status)
				assert.Contains(t, message, newerFormatError(key)+", "+c.remedy)

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

// A key pair that cannot be read does not prevent the deletion of its credential, and does
// not affect other key pairs.
func TestAKeyPairOfANewerFormatCanBeDeletedAfterItsCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newRolledBackEngine(t, "keypair/archive")
		e.Keypair("other", nil)
		e.Keypair("other", nil) // creates a pending pair, which looks for the credentials that use it
		_, status, message := e.Request(logical.DeleteOperation, "keypair/archive", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "keypair/archive is used by config/kensho/archive; first delete these credentials")
		for _, path := range []string{"config/kensho/archive", "keypair/archive"} {
			_, status, message := e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
	})
}

func TestALeaseOfANewerFormatIsRevokedByTheNewerVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newRolledBackEngine(t)
		lease := e.Creds("mine")
		key := e.Leased()[0]
		e.SetVersion(storage.FormatVersion+1, key)
		require.ErrorContains(t, e.Revoke(lease), newerFormatError(key), "Vault retries the revocation")
		assert.True(t, e.Sim.Accepts(engine.TokenOf(lease)))
		e.SetVersion(storage.FormatVersion, key)
		require.NoError(t, e.Revoke(lease))
		assert.False(t, e.Sim.Accepts(engine.TokenOf(lease)))
		assert.Empty(t, e.Leased())
	})
}

// An operator can delete the entries and start over with the earlier version.
func TestEntriesOfANewerFormatCanBeDeleted(t *testing.T) {
	for _, key := range []string{"config/kensho/prod", "state/prod/grant", "state/prod/own", "role/app"} {
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
