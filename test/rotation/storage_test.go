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
)

func TestGuarantee4StorageThatFailsInARotationDoesNotConcernReaders(t *testing.T) {
	for n := 1; storageDownFrom(t, n); n++ {
	}
}

// storageDownFrom makes storage fail from the nth write of a rotation on, and reports whether there was one.
func storageDownFrom(t *testing.T, n int) (isMet bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, entra, nil)
		token := engine.TokenOf(e.Creds(a.name))
		storage, writes := e.BreakStorage(), 0
		meet := func(c engine.StorageCall) engine.Fault {
			if c.Writes() && c.Key != "probe" {
				writes++
			}
			if isMet = isMet || writes == n; isMet {
				return engine.Fault{Err: engine.ErrStorage}
			}
			return engine.Fault{}
		}
		storage.OnCall.Store(&meet)
		_, status, _ := a.tryRotate(nil)
		if !isMet {
			return
		}
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Equal(t, token, engine.TokenOf(e.Creds(a.name)), "write %d", n)
		storage.OnCall.Store(nil)
		a.rotate(nil)
		e.Pass(2 * day)
		a.assertSettled()
	})
	return isMet
}

// GitLab's former token has ended, so the new one is the only one.
func TestGuarantee3ASecretThatIsOnlyInMemoryIsShownAndStoredAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, "gitlab-token", nil)
		e.Creds(a.name)
		storage := e.BreakStorage()
		writes := 0
		meet := func(c engine.StorageCall) engine.Fault {
			if !c.Writes() || c.Key == "probe" {
				return engine.Fault{}
			}
			if writes++; writes == 1 {
				return engine.Fault{}
			}
			return engine.Fault{Err: engine.ErrStorage}
		}
		storage.OnCall.Store(&meet)
		_, status, _ := a.tryRotate(nil)
		require.Equal(t, http.StatusInternalServerError, status)
		for range 2 {
			time.Sleep(time.Minute)
			t.Log(e.Tick(), a.Dump()[a.path()])
		}
		data := e.Read("status/" + a.name).Data
		assert.Contains(t, data["storage_error"], "the disk is full")
		assert.Equal(t, "degraded", data["state"])
		assert.Contains(t, metricsOf(e), `tokenbroker_unsaved{name="gitlab-token",vendor="gitlab-token"} 1`)
		storage.OnCall.Store(nil)
		e.Backend.Cleanup(t.Context()) // as for a reload of the plugin
		e.Restart()
		e.Pass(2 * time.Hour)
		a.assertSettled()
	})
}

// A node that was paused reads what another one has written meanwhile, and leaves it.
func TestGuarantee10ANodeThatResumesDoesNotOverwriteARotationOfAnother(t *testing.T) {
	for _, kind := range []string{entra, "auth0/client_secret", "databricks/account", "snowflake"} {
		t.Run(kind, func(t *testing.T) {
			for n := 1; resumedAtRead(t, kind, n); n++ {
			}
		})
	}
}

// resumedAtRead pauses a node for five minutes before the nth read in a rotation of what it is about to write. Another
// node rotates meanwhile. It reports whether there was such a read.
func resumedAtRead(t *testing.T, kind string, n int) (isMet bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, kind, nil)
		storage := e.BreakStorage()
		e.Restart()
		reads := 0
		meet := func(c engine.StorageCall) engine.Fault {
			if c.Writes() || c.Key != a.path() {
				return engine.Fault{}
			}
			if reads++; reads != n {
				return engine.Fault{}
			}
			isMet = true
			return engine.Fault{Wait: 5 * time.Minute, IgnoreContext: true}
		}
		storage.OnCall.Store(&meet)
		paused, done := e.Backend, make(chan struct{})
		go func() {
			defer close(done)
			_, _ = paused.HandleRequest(t.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: a.path() + "/rotate", Storage: storage, MountPoint: engine.MountPoint})
		}()
		synctest.Wait()
		e.Storage = storage.Storage
		e.Restart()
		e.Pass(2 * time.Minute)
		_, _, _ = a.tryRotate(nil)
		<-done
		e.Pass(2 * time.Hour)
		assert.True(t, a.accepts(a.fields()), "read %d: the stored secret", n)
		_, status, message := e.Request(logical.ReadOperation, "creds/"+a.name, nil)
		assert.Equal(t, http.StatusOK, status, "read %d: %s", n, message)
		storage.Killed.Store(true)
		e.Restart()
		e.Pass(2 * day)
		a.assertSettled()
	})
	return isMet
}
