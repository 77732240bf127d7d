package tokenbroker_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// slowStorage takes a second for one call of some that concern one key: it reads at once
// and answers late, and writes late.
type slowStorage struct {
	logical.Storage
	op, key string
	nth     int // the call that is slow, from 1
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

func TestADeletedRoleDoesNotComeBack(t *testing.T) {
	for name, c := range map[string]struct {
		op     logical.Operation
		slow   string
		nth    int
		status int // of the write
	}{
		"patched while it is read":        {logical.PatchOperation, "get", 1, http.StatusNotFound},
		"patched while it is read again":  {logical.PatchOperation, "get", 2, http.StatusOK},
		"patched while it is written":     {logical.PatchOperation, "put", 1, http.StatusOK},
		"written while it is read before": {logical.UpdateOperation, "get", 1, http.StatusForbidden},
		"written while it is written":     {logical.UpdateOperation, "put", 1, http.StatusOK},
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
				assert.Equal(t, http.StatusNotFound, status, "what was deleted stays deleted")
				status, _ = e.Refused("creds/mine")
				assert.Equal(t, http.StatusBadRequest, status)
			})
		})
	}
}
