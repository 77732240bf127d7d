package tokenbroker_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee8AnExchangeInFlightEndsWithWhatItBelongsTo(t *testing.T) {
	for name, change := range map[string]func(*engine){
		"write": func(e *engine) {
			e.write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		},
		"refresh":       func(e *engine) { e.write("refresh/prod", nil) },
		"refresh, drop": func(e *engine) { e.write("refresh/prod", drop) },
		"delete": func(e *engine) {
			_, status, message := e.request(logical.DeleteOperation, "config/kensho/prod", nil)
			require.Equal(e.t, http.StatusOK, status, message)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.sim.AddRefreshToken("link-streaming", "another-refresh-token")
				until(0, 10, 0)
				e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "verify": false})
				e.sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
				var older *logical.Response
				var reader sync.WaitGroup
				reader.Go(func() { older, _, _ = e.request(logical.ReadOperation, "creds/prod", nil) })
				time.Sleep(time.Second)
				change(e)
				reader.Wait()

				if name == "delete" {
					e.pass(5 * time.Minute)
					status, _ := e.refused("creds/prod")
					assert.Equal(t, http.StatusBadRequest, status)
					assertStorageEmpty(t, e)
					return
				}
				newer := e.creds("prod").Data["access_token"]
				if older != nil && !older.IsError() {
					assert.NotEqual(t, older.Data["access_token"], newer)
				}
				e.restart()
				assert.Equal(t, newer, e.creds("prod").Data["access_token"])
				assert.Equal(t, 1, e.sim.MostInFlight())
			})
		})
	}
}

func TestGuarantee8WhatWasKnownIsVoidThoughItCannotBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.sim.AddRefreshToken("link-streaming", "another-refresh-token")
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		older := e.creds("prod").Data["access_token"]
		storage.refuseAway.Store(true)
		e.write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		assert.NotEqual(t, older, e.creds("prod").Data["access_token"])
		e.restart()
		assert.NotEqual(t, older, e.creds("prod").Data["access_token"])

		_, status, _ := e.request(logical.DeleteOperation, "config/kensho/prod", nil)
		assert.Equal(t, http.StatusInternalServerError, status)
		storage.refuseAway.Store(false)
		_, status, _ = e.request(logical.DeleteOperation, "config/kensho/prod", nil)
		assert.Equal(t, http.StatusOK, status)
		assertStorageEmpty(t, e)
	})
}

func TestGuarantee8ARefreshThatStorageDoesNotTakeSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.write("config/kensho/prod", keyPair())
		leaked := e.creds("prod").Data["access_token"]
		storage.refuse.Store(true)
		_, status, _ := e.request(logical.UpdateOperation, "refresh/prod", drop)
		assert.Equal(t, http.StatusInternalServerError, status, "a restart would bring the token back")
		assert.Equal(t, 1, e.exchanges())
		e.refused("creds/prod")
		storage.refuse.Store(false)
		time.Sleep(10 * time.Second)
		assert.NotEqual(t, leaked, e.creds("prod").Data["access_token"])
	})
}

func TestGuarantee8ARefreshHoldsThoughAnotherNodeWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		e.creds("prod")
		e.sim.Behave(vendorsim.Conduct{Latency: time.Second})
		var operator sync.WaitGroup
		operator.Go(func() { e.write("refresh/prod", nil) })
		time.Sleep(500 * time.Millisecond)
		e.backend.InvalidateKey(t.Context(), "state/prod/own")
		operator.Wait()
		e.creds("prod")
	})
}

func TestGuarantee8ARefreshThatFailsHasForgottenTheTokenAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		leaked := e.creds("prod").Data["access_token"]
		e.sim.Behave(down())
		_, status, _ := e.request(logical.UpdateOperation, "refresh/prod", drop)
		assert.Equal(t, http.StatusServiceUnavailable, status)
		e.refused("creds/prod")
		e.restart()
		e.refused("creds/prod")
		e.sim.Behave(vendorsim.Conduct{})
		time.Sleep(6 * time.Minute)
		assert.NotEqual(t, leaked, e.creds("prod").Data["access_token"])
	})
}

// Guarantee 15: a write that storage refuses leaves nothing in memory.
func TestGuarantee15RefusedWritesLeaveNoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		storage := e.moody()
		before := tokenbroker.NamesInMemory(e.backend)
		write := func(name string) {
			_, status, _ := e.request(logical.UpdateOperation, "config/kensho/"+name, map[string]any{"refresh_token": refreshToken, "verify": false})
			require.Equal(t, http.StatusInternalServerError, status)
		}
		storage.refuse.Store(true)
		for i := range 100 {
			write(fmt.Sprintf("x%d", i))
		}
		assert.Equal(t, before+100, tokenbroker.NamesInMemory(e.backend), "storage may have taken them")
		e.pass(time.Minute)
		assert.Equal(t, before, tokenbroker.NamesInMemory(e.backend), "found to be missing in the background")
		write("x")
		e.request(logical.UpdateOperation, "refresh/x", nil)
		assert.Equal(t, before, tokenbroker.NamesInMemory(e.backend), "found to be missing by who asks")
		storage.refuse.Store(false)
		e.write("config/kensho/x", map[string]any{"refresh_token": refreshToken, "verify": false})
		e.creds("x")
	})
}
