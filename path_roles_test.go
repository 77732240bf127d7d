package tokenbroker_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestARoleIsWrittenReadListedPatchedAndDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		_, status, _ := e.Request(logical.ListOperation, "roles/", nil)
		assert.Equal(t, http.StatusNotFound, status, "Vault answers an empty list with 404")
		_, status, _ = e.Request(logical.ReadOperation, "roles/web", nil)
		assert.Equal(t, http.StatusNotFound, status)
		_, status, message := e.Request(logical.PatchOperation, "roles/web", map[string]any{"ttl": "5m"})
		assert.Equal(t, http.StatusNotFound, status)
		assert.Contains(t, message, "no role found at roles/web to patch")

		e.Write("roles/web", map[string]any{"config": "search", "scope": "discover", "ttl": "10m", "min_ttl": 60})
		e.Write("roles/all", map[string]any{"config": "search"})
		assert.Equal(t, map[string]any{"config": "search", "scope": []string{"discover"}, "ttl": int64(600), "min_ttl": int64(60), "dedicated": false, "max_leases": 0, "max_exchanges": 0, "allowed_params": []string{}, "bound_issuer": "", "bound_audiences": []string{}, "bound_jwks_url": ""}, e.Read("roles/web").Data)
		assert.Equal(t, map[string]any{"config": "search", "scope": []string{}, "ttl": int64(0), "min_ttl": int64(0), "dedicated": false, "max_leases": 0, "max_exchanges": 0, "allowed_params": []string{}, "bound_issuer": "", "bound_audiences": []string{}, "bound_jwks_url": ""}, e.Read("roles/all").Data)
		resp, status, _ := e.Request(logical.ListOperation, "roles/", nil)
		require.Equal(t, http.StatusOK, status)
		assert.Equal(t, []string{"all", "web"}, resp.Data["keys"])
		assert.Equal(t, map[string]any{
			"all": map[string]any{"config": "search", "scope": "", "dedicated": false},
			"web": map[string]any{"config": "search", "scope": "discover", "dedicated": false},
		}, resp.Data["key_info"])

		_, status, message = e.Request(logical.PatchOperation, "roles/web", map[string]any{"min_ttl": nil, "scope": "event"})
		require.Equal(t, http.StatusOK, status, message)
		e.Write("roles/web", map[string]any{"ttl": "5m"})
		assert.Equal(t, map[string]any{"config": "search", "scope": []string{"event"}, "ttl": int64(300), "min_ttl": int64(0), "dedicated": false, "max_leases": 0, "max_exchanges": 0, "allowed_params": []string{}, "bound_issuer": "", "bound_audiences": []string{}, "bound_jwks_url": ""}, e.Read("roles/web").Data,
			"a write changes only the given fields; null and an empty value clear a field")
		e.Restart()
		assert.Equal(t, []string{"event"}, e.Creds("web").Data["scope"])

		for range 2 {
			_, status, message = e.Request(logical.DeleteOperation, "roles/web", nil)
			assert.Equal(t, http.StatusOK, status, message)
		}
		status, message = e.Refused("creds/web")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, `no role or credential named "web" (list creds/ for the names); create one at roles/web or config/<vendor>/web`, message)
	})
}

func TestAnInvalidRoleIsRejectedWithTheFieldAndTheFix(t *testing.T) {
	for name, bad := range map[string]struct {
		path string
		data map[string]any
		says string
	}{
		"no config":                 {"web", map[string]any{}, "config: must be the name of a credential"},
		"an unknown config":         {"web", map[string]any{"config": "serach"}, `config: no credential named "serach"; create it at config/<vendor>/serach first`},
		"a config with a path":      {"web", map[string]any{"config": "sitecore/search"}, `config: "sitecore/search" is not a name; a name is without a vendor or path, as in config=search (list config/ for the names)`},
		"a role of a role":          {"web", map[string]any{"config": "role"}, `config: no credential named "role"`},
		"a credential's name":       {"link", map[string]any{"config": "search"}, `name: "link" is taken by config/kensho/link; choose another name`},
		"its credential's name":     {"search", map[string]any{"config": "search"}, `name: "search" is taken by config/sitecore/search`},
		"a wider scope":             {"web", map[string]any{"config": "search", "scope": "discover,feed"}, `scope: "feed" is not a scope of the credential (discover, event)`},
		"a refresh token's scope":   {"web", map[string]any{"config": "link", "scope": "kensho:app:link"}, "scope: a Kensho refresh token yields only tokens of its own scope; omit scope, or use a credential with a key pair"},
		"a pasted token's scope":    {"web", map[string]any{"config": "pasted", "scope": "kensho:app:link"}, "scope: a copied access token cannot be narrowed"},
		"a pair's scope":            {"web", map[string]any{"config": "pair", "scope": "discover"}, "scope: a Sitecore refresh token keeps its original scope; omit scope, or give the credential an api_key"},
		"a ttl below min_ttl":       {"web", map[string]any{"config": "search", "ttl": "5m", "min_ttl": "10m"}, "min_ttl: must be at most the role's ttl of 5m0s"},
		"a negative ttl":            {"web", map[string]any{"config": "search", "ttl": "-5m"}, "ttl: must not be negative"},
		"an invalid min_ttl":        {"web", map[string]any{"config": "search", "min_ttl": "soon"}, "min_ttl: must be a duration"},
		"dedicated at Kensho":       {"web", map[string]any{"config": "link", "dedicated": true}, "dedicated: an exchange uses the refresh token, which all readers depend on"},
		"a limit for a shared role": {"web", map[string]any{"config": "search", "max_leases": 5}, "max_leases: requires dedicated=true"},
		"a limit that overflows":    {"web", map[string]any{"config": "search", "dedicated": true, "max_leases": 1e30}, "max_leases: must be a whole number"},
		"a fraction as a limit":     {"web", map[string]any{"config": "search", "dedicated": true, "max_leases": 1.5}, "max_leases: must be a whole number"},
		"a limit as a string":       {"web", map[string]any{"config": "search", "dedicated": true, "max_leases": "0x7fffffffffffffff"}, "max_leases: must be a whole number"},
		"a negative limit":          {"web", map[string]any{"config": "search", "max_leases": -5}, "max_leases: must not be negative"},
		"an unknown field":          {"web", map[string]any{"config": "search", "max_ttl": "5m"}, `unknown field "max_ttl" (allowed: allowed_params, bound_audiences, bound_issuer, bound_jwks_url, config, dedicated, forget_leases, max_exchanges, max_leases, min_ttl, name, scope, ttl`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewSearch(t)
				engine.Until(0, 10, 0)
				e.Sim.AddPair("of-a-pair", time.Hour, time.Hour)
				e.Write("config/kensho/link", map[string]any{"refresh_token": engine.RefreshToken})
				e.Write("config/kensho/pasted", map[string]any{"access_token": "pasted-access-token"})
				e.Write("config/sitecore/pair", map[string]any{"refresh_token": "of-a-pair"})
				e.Write("roles/role", map[string]any{"config": "search"})
				calls := e.Exchanges()
				_, status, message := e.Request(logical.UpdateOperation, "roles/"+bad.path, bad.data)
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, bad.says)
				stored, err := e.Storage.List(t.Context(), "role/")
				require.NoError(t, err)
				assert.Equal(t, []string{"role"}, stored)
				assert.Equal(t, calls, e.Exchanges())
			})
		})
	}
}

func TestRoleScopesAreSeparatedByCommasOrSpaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		for _, scope := range []any{"event discover", "event,discover", []any{"event discover"}} {
			e.Write("roles/web", map[string]any{"config": "search", "scope": scope})
			assert.Equal(t, []string{"event", "discover"}, e.Read("roles/web").Data["scope"])
			e.Creds("web")
		}
	})
}

func TestARoleAndACredentialCannotShareAName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		e.Write("roles/web", map[string]any{"config": "search"})
		_, status, message := e.Request(logical.UpdateOperation, "config/kensho/web", map[string]any{"refresh_token": engine.RefreshToken})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `name: "web" is taken by roles/web; choose another name, or delete the role first`)
		assert.Equal(t, 1, e.Exchanges(), "the vendor is not called")

		_, status, _ = e.Request(logical.DeleteOperation, "roles/web", nil)
		require.Equal(t, http.StatusOK, status)
		e.Write("config/kensho/web", map[string]any{"refresh_token": engine.RefreshToken})
		assert.Equal(t, "kensho", e.Creds("web").Data["vendor"])
	})
}

func TestConcurrentWritesOfARoleAndACredentialDoNotShareAName(t *testing.T) {
	for _, latency := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.NewSearch(t)
			storage := e.BreakStorage()
			storage.Stall.Store(int64(latency))
			written := make([]int, 2)
			var writers sync.WaitGroup
			writers.Go(func() {
				_, written[0], _ = e.Request(logical.UpdateOperation, "roles/web", map[string]any{"config": "search"})
			})
			writers.Go(func() {
				_, written[1], _ = e.Request(logical.UpdateOperation, "config/kensho/web", map[string]any{"refresh_token": engine.RefreshToken})
			})
			writers.Wait()
			assert.ElementsMatch(t, []int{http.StatusOK, http.StatusBadRequest}, written)
		})
	}
}

func TestACredentialInUseByRolesCannotBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		e.Write("config/kensho/link", map[string]any{"refresh_token": engine.RefreshToken})
		e.Write("roles/web", map[string]any{"config": "search", "scope": "discover"})
		e.Write("roles/app", map[string]any{"config": "search"})
		e.Write("roles/other", map[string]any{"config": "link"})
		token := e.Creds("app").Data["access_token"]
		_, status, message := e.Request(logical.DeleteOperation, "config/sitecore/search", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "config/sitecore/search is used by roles/app, roles/web; first delete these roles or give them another config", message)
		assert.Equal(t, token, e.Creds("app").Data["access_token"], "nothing has changed")

		for _, path := range []string{"roles/app", "roles/web", "config/sitecore/search"} {
			_, status, message := e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		assert.Equal(t, "kensho", e.Creds("other").Data["vendor"])
	})
}

func TestACredentialIsNotDeletedWhileARoleIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		storage := e.BreakStorage()
		storage.Stall.Store(int64(time.Second))
		var operator sync.WaitGroup
		operator.Go(func() { e.Write("roles/web", map[string]any{"config": "search"}) })
		time.Sleep(500 * time.Millisecond)
		_, status, message := e.Request(logical.DeleteOperation, "config/sitecore/search", nil)
		operator.Wait()
		assert.Equal(t, http.StatusBadRequest, status, "the role is written, and its credential is kept")
		assert.Contains(t, message, "roles/web")
	})
}

func TestAWriteThatBreaksARoleWarns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		e.Write("roles/web", map[string]any{"config": "search", "scope": "event"})
		e.Write("roles/app", map[string]any{"config": "search", "scope": "discover"})
		e.Creds("web")
		resp, _, _ := e.Request(logical.UpdateOperation, "config/sitecore/search", map[string]any{"access_expiry": "2h"})
		assert.Nil(t, resp, "a write without warnings answers 204")
		resp, status, message := e.Request(logical.UpdateOperation, "config/sitecore/search", map[string]any{"scope": "discover"})
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, []string{`roles/web can no longer be read: scope: "event" is not a scope of the credential (discover); use some of these, or add the scope to the credential`}, resp.Warnings)

		status, message = e.Refused("creds/web")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `roles/web: scope: "event" is not a scope of the credential`)
		e.Creds("app")
		assert.Equal(t, "ok", e.Read("status/search").Data["state"], "the credential itself is valid")
	})
}

func TestCredentialPathsRejectTheNameOfARole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		e.Write("roles/web", map[string]any{"config": "search"})
		for op, path := range map[logical.Operation]string{logical.ReadOperation: "status/web", logical.UpdateOperation: "refresh/web"} {
			_, status, message := e.Request(op, path, nil)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Equal(t, `"web" is a role; use the name of its credential, "search"`, message)
		}
	})
}

func TestAnInvalidatedRoleIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		e.Write("roles/web", map[string]any{"config": "search", "scope": "discover"})
		require.Equal(t, []string{"discover"}, e.Creds("web").Data["scope"])
		standby := e.Backend

		e.Restart() // acts as the active node on the same storage
		e.Write("roles/web", map[string]any{"scope": "event"})
		e.Backend = standby
		e.Backend.InvalidateKey(t.Context(), "role/web")
		assert.Equal(t, []string{"event"}, e.Creds("web").Data["scope"])
	})
}

func TestAConcurrentRoleWriteIsRejectedAsRetryable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		e.Write("config/kensho/link", map[string]any{"refresh_token": engine.RefreshToken})
		e.Write("roles/web", map[string]any{"config": "search"})
		e.Sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
		var status int
		var writers sync.WaitGroup
		writers.Go(func() { e.Write("refresh/search", nil) })
		time.Sleep(time.Second)
		writers.Go(func() { _, status, _ = e.Request(logical.UpdateOperation, "roles/web", map[string]any{"ttl": "5m"}) })
		time.Sleep(time.Second)
		e.Write("roles/web", map[string]any{"config": "link"})
		writers.Wait()
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Equal(t, map[string]any{"config": "link", "scope": []string{}, "ttl": int64(0), "min_ttl": int64(0), "dedicated": false, "max_leases": 0, "max_exchanges": 0, "allowed_params": []string{}, "bound_issuer": "", "bound_audiences": []string{}, "bound_jwks_url": ""}, e.Read("roles/web").Data)
	})
}

func TestARoleWrittenWhileItIsLoadedAppliesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		e.Write("roles/web", map[string]any{"config": "search", "scope": "discover"})
		storage := e.BreakStorage()
		storage.StallRead.Store(int64(time.Second))
		var reader sync.WaitGroup
		reader.Go(func() { e.Creds("web") })
		time.Sleep(500 * time.Millisecond)
		e.Write("roles/web", map[string]any{"scope": "event"})
		reader.Wait()
		assert.Equal(t, []string{"event"}, e.Creds("web").Data["scope"])
	})
}

func TestGuarantee12ARolesTokenIsReadWithoutStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSearch(t)
		storage := e.BreakStorage()
		e.Write("roles/web", map[string]any{"config": "search", "scope": "discover"})
		for _, path := range []string{"creds/web", "token/web", "creds/search", "token/search"} {
			e.Read(path)
			before := len(storage.Calls())
			e.Read(path)
			assert.Len(t, storage.Calls(), before, path)
		}
	})
}

// slowStorage delays one call for one key by a second. A read is delayed after it reads, a
// write before it writes.
type slowStorage struct {
	logical.Storage
	op, key string
	nth     int // the call to delay, from 1
}

func (s *slowStorage) stall(op, key string) {
	if op == s.op && key == s.key {
		s.nth--
		if s.nth == 0 {
			time.Sleep(time.Second)
		}
	}
}

func (s *slowStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	entry, err := s.Storage.Get(ctx, key)
	s.stall("get", key)
	return entry, err
}

func (s *slowStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	s.stall("put", entry.Key)
	return s.Storage.Put(ctx, entry)
}

func TestAConcurrentWriteDoesNotRestoreADeletedRole(t *testing.T) {
	for name, c := range map[string]struct {
		op     logical.Operation
		slow   string
		nth    int
		status int // of the concurrent write
	}{
		"patch, first read delayed":  {logical.PatchOperation, "get", 2, http.StatusNotFound},
		"patch, second read delayed": {logical.PatchOperation, "get", 3, http.StatusOK},
		"patch, write delayed":       {logical.PatchOperation, "put", 1, http.StatusOK},
		"update, read delayed":       {logical.UpdateOperation, "get", 1, http.StatusForbidden},
		"update, write delayed":      {logical.UpdateOperation, "put", 1, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				write := &logical.Request{
					Operation: c.op, Path: "roles/mine", MountPoint: engine.MountPoint, Data: map[string]any{"ttl": "5m"},
					Storage: &slowStorage{Storage: e.Storage, op: c.slow, key: "role/mine", nth: c.nth},
				}
				written := make(chan int)
				go func() {
					resp, err := e.Backend.HandleRequest(t.Context(), write)
					status, _ := logical.RespondErrorCommon(write, resp, err)
					logical.AdjustErrorStatusCode(&status, err)
					written <- status
				}()
				time.Sleep(500 * time.Millisecond)
				_, status, message := e.Request(logical.DeleteOperation, "roles/mine", nil)
				require.Equal(t, http.StatusOK, status, message)
				assert.Equal(t, c.status, max(http.StatusOK, <-written))
				_, status, _ = e.Request(logical.ReadOperation, "roles/mine", nil)
				assert.Equal(t, http.StatusNotFound, status, "the role stays deleted")
				status, _ = e.Refused("creds/mine")
				assert.Equal(t, http.StatusBadRequest, status)
			})
		})
	}
}
