package tokenbroker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/vendorsim"
)

// moodyStorage counts what it is asked, and refuses on demand.
type moodyStorage struct {
	logical.Storage
	calls       atomic.Int64
	refuse      atomic.Bool
	refuseReads atomic.Bool
	refuseAway  atomic.Bool  // refuse to delete
	stall       atomic.Int64 // how long a write takes, in nanoseconds
}

var errStorage = errors.New("the disk is full")

func (s *moodyStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.calls.Add(1)
	if s.refuseReads.Load() {
		return nil, errStorage
	}
	return s.Storage.Get(ctx, key)
}

func (s *moodyStorage) List(ctx context.Context, prefix string) ([]string, error) {
	s.calls.Add(1)
	if s.refuseReads.Load() {
		return nil, errStorage
	}
	return s.Storage.List(ctx, prefix)
}

func (s *moodyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	s.calls.Add(1)
	time.Sleep(time.Duration(s.stall.Load()))
	if s.refuse.Load() {
		return errStorage
	}
	return s.Storage.Put(ctx, entry)
}

func (s *moodyStorage) Delete(ctx context.Context, key string) error {
	s.calls.Add(1)
	if s.refuseAway.Load() {
		return errStorage
	}
	return s.Storage.Delete(ctx, key)
}

// moody puts the engine's storage into a mood.
func (e *engine) moody() *moodyStorage {
	storage := &moodyStorage{Storage: e.storage}
	e.storage = storage
	return storage
}

// tick is one turn of Vault's rollback manager.
func (e *engine) tick() error {
	_, err := e.backend.HandleRequest(e.t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: e.storage})
	return err
}

// pass lets time pass, with a tick every minute.
func (e *engine) pass(d time.Duration) {
	e.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(time.Minute, time.Until(end)))
		require.NoError(e.t, e.tick())
	}
}

func (e *engine) refused(path string) (status int, message string) {
	e.t.Helper()
	_, status, message = e.request(logical.ReadOperation, path, nil)
	require.NotEqual(e.t, http.StatusOK, status)
	return status, message
}

func down() vendorsim.Conduct {
	return vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, "down"))}
}

func keyPair() map[string]any {
	return map[string]any{"client_id": clientID, "private_key": privateKeyPEM()}
}

func TestPromise2AThousandReadersAtTheMomentOfExpiryShareOneExchange(t *testing.T) {
	for name, data := range map[string]map[string]any{"kensho": {"refresh_token": refreshToken}, "key pair": keyPair()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.write("config/kensho/prod", data)
				expire, err := time.Parse(time.RFC3339, e.creds("prod").Data["expire_time"].(string))
				require.NoError(t, err)
				before := e.exchanges()
				e.sim.Behave(vendorsim.Conduct{Latency: 500 * time.Millisecond})
				time.Sleep(time.Until(expire))

				var readers sync.WaitGroup
				var served atomic.Int64
				for range 1000 {
					readers.Go(func() {
						e.creds("prod")
						served.Add(1)
					})
				}
				readers.Wait()
				assert.EqualValues(t, 1000, served.Load())
				assert.Equal(t, before+1, e.exchanges())
			})
		})
	}
}

func TestPromise3NobodySeesATokenThatIsNotInStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		storage.stall.Store(int64(3 * time.Second))
		asked := time.Now()
		token := e.creds("prod").Data["access_token"]
		assert.GreaterOrEqual(t, time.Since(asked), 3*time.Second, "the reader waited for the write")
		e.restart()
		assert.Equal(t, token, e.creds("prod").Data["access_token"])
	})
}

func TestPromise3AReplacedRefreshTokenIsHeldUntilStorageTakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.sim.Behave(vendorsim.Conduct{Rotate: true})
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		storage.refuse.Store(true)
		calls := e.exchanges()
		for range 3 {
			status, message := e.refused("creds/prod")
			assert.Equal(t, http.StatusInternalServerError, status)
			assert.Contains(t, message, "the disk is full")
		}
		assert.Equal(t, calls+1, e.exchanges(), "the vendor has answered, and is not asked again")
		data := e.read("status/prod").Data
		assert.Equal(t, "failed", data["state"])
		assert.Contains(t, data["storage_error"], "the disk is full")

		storage.refuse.Store(false)
		e.pass(time.Minute) // stores it, though nobody reads
		assert.NotContains(t, e.read("status/prod").Data, "storage_error")
		e.restart()
		e.creds("prod")
		assert.Equal(t, calls+1, e.exchanges())
		until(2, 0, 5)
		e.creds("prod") // with the refresh token that was held
	})
}

func TestPromise3AWriteThatFailsForAMomentIsNotNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		storage.refuse.Store(true)
		time.AfterFunc(200*time.Millisecond, func() { storage.refuse.Store(false) })
		e.creds("prod")
	})
}

func TestPromise3WhileStorageFailsAGoodTokenIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.write("config/kensho/prod", keyPair())
		until(0, 50, 0)
		storage.refuse.Store(true)
		resp := e.creds("prod")
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "cannot be stored")
		assert.Equal(t, "degraded", e.read("status/prod").Data["state"])
		storage.refuse.Store(false)
		time.Sleep(10 * time.Second)
		assert.Empty(t, e.creds("prod").Warnings)
		assert.Equal(t, 2, e.exchanges())
	})
}

func TestPromise3AnOperatorsWriteWinsOverAHeldRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.sim.Behave(vendorsim.Conduct{Rotate: true})
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		until(1, 0, 5)
		storage.refuse.Store(true)
		e.refused("creds/prod")
		storage.refuse.Store(false)

		e.write("config/kensho/prod", map[string]any{"request_timeout": 20})
		e.creds("prod") // the held one was carried over, as the write did not name one
		storage.refuse.Store(true)
		until(2, 0, 5)
		e.refused("creds/prod")
		storage.refuse.Store(false)
		e.sim.AddRefreshToken("link-streaming", "the-operators-own")
		e.write("config/kensho/prod", map[string]any{"refresh_token": "the-operators-own"})
		e.pass(2 * time.Minute)
		calls := e.sim.Calls()
		assert.Contains(t, calls[len(calls)-1].URL, "the-operators-own")
		until(3, 0, 5)
		e.creds("prod")
	})
}

func TestPromise3ARefreshTokenReplacedByAVerificationIsNotLostWithTheWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.sim.Behave(vendorsim.Conduct{Rotate: true})
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		storage.refuse.Store(true)
		_, status, _ := e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"request_timeout": 20})
		assert.Equal(t, http.StatusInternalServerError, status)
		storage.refuse.Store(false)
		e.pass(time.Minute)
		e.restart()
		until(1, 0, 5)
		e.creds("prod")
		assert.Equal(t, 10, e.read("config/kensho/prod").Data["request_timeout"])
	})
}

func TestPromise4AVendorsBadDayCostsNothingWhileTheTokenLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		token := e.creds("prod").Data["access_token"]
		e.sim.Behave(down())
		until(0, 46, 0)
		for time.Until(time.Date(2000, 1, 1, 0, 59, 55, 0, time.UTC)) > 0 {
			resp := e.creds("prod")
			require.Equal(t, token, resp.Data["access_token"])
			require.Len(t, resp.Warnings, 1)
			assert.Contains(t, resp.Warnings[0], "503 Service Unavailable: down")
			assert.Contains(t, resp.Warnings[0], "next attempt at")
			require.Equal(t, "degraded", e.read("status/prod").Data["state"])
			time.Sleep(10 * time.Second)
		}
		until(1, 0, 1)
		status, message := e.refused("creds/prod")
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Contains(t, message, "next attempt at 2000-01-01T01:")
		assert.Equal(t, "failed", e.read("status/prod").Data["state"])

		e.sim.Behave(vendorsim.Conduct{})
		time.Sleep(6 * time.Minute)
		assert.Empty(t, e.creds("prod").Warnings)
		data := e.read("status/prod").Data
		assert.Equal(t, "ok", data["state"])
		assert.Equal(t, 0, data["consecutive_failures"])
		assert.Contains(t, data["last_error"], "503", "the last error stays to be read")
		assert.NotContains(t, data, "next_attempt_time")
	})
}

func TestPromise4AttemptsBackOffWhoeverAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "verify": false})
		var attempts []time.Time
		e.sim.Behave(vendorsim.Conduct{Fault: func(*http.Request) http.HandlerFunc {
			attempts = append(attempts, time.Now())
			return vendorsim.Answer(500, "")
		}})
		for range 5000 {
			e.refused("creds/prod")
			time.Sleep(500 * time.Millisecond)
		}
		require.Greater(t, len(attempts), 12)
		want := time.Second
		for i := 1; i < len(attempts); i++ {
			gap := attempts[i].Sub(attempts[i-1])
			assert.GreaterOrEqual(t, gap, want*8/10, "attempt %d", i)
			assert.LessOrEqual(t, gap, want*12/10+500*time.Millisecond, "attempt %d", i)
			want = min(2*want, 5*time.Minute)
		}
	})
}

func TestPromise4RetryAfterIsObeyedUpToAnHour(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"90":                            90 * time.Second,
		"86400":                         time.Hour,
		"Sat, 01 Jan 2000 00:20:00 GMT": 10 * time.Minute,
		"Sat, 01 Jan 2000 00:00:00 GMT": time.Second, // past: as if there were none
		"soon":                          time.Second,
		"":                              time.Second,
	} {
		t.Run(header, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "verify": false})
				until(0, 10, 0)
				e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Throttle(header))})
				e.refused("creds/prod")
				e.sim.Behave(vendorsim.Conduct{})
				time.Sleep(want * 79 / 100)
				if want > time.Second {
					time.Sleep(want * 20 / 100)
				}
				e.refused("creds/prod")
				assert.Equal(t, 1, e.exchanges())
				time.Sleep(want * 42 / 100)
				e.creds("prod")
			})
		})
	}
}

func TestPromise4AReaderWaitsAShortTimeForASlowVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		token := e.creds("prod").Data["access_token"]
		until(0, 50, 0)
		e.sim.Behave(vendorsim.Conduct{Latency: 8 * time.Second})
		for i, longest := range []time.Duration{2 * time.Second, 0, 0} {
			asked := time.Now()
			resp := e.creds("prod")
			assert.Equal(t, token, resp.Data["access_token"])
			require.Len(t, resp.Warnings, 1)
			assert.Contains(t, resp.Warnings[0], "has not answered yet")
			assert.LessOrEqual(t, time.Since(asked), longest, "reader %d", i)
		}
		time.Sleep(7 * time.Second)
		assert.NotEqual(t, token, e.creds("prod").Data["access_token"], "the answer came all the same")
		assert.Equal(t, 2, e.exchanges())
	})
}

func TestPromise5ARejectedCredentialIsTriedEveryFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.sim.RevokeCredential(refreshToken)
		until(1, 0, 5)
		before := e.exchanges()
		for range 3600 {
			status, message := e.refused("creds/prod")
			require.Equal(t, http.StatusBadRequest, status)
			require.Contains(t, message, "write a new one to config/kensho/prod")
			time.Sleep(time.Second)
		}
		assert.Equal(t, before+12, e.exchanges(), "in an hour")
	})
}

func TestPromise5AWriteOrARefreshClearsARejection(t *testing.T) {
	for name, mend := range map[string]func(*engine){
		"write": func(e *engine) {
			e.sim.AddRefreshToken("link-streaming", "a-new-one")
			e.write("config/kensho/prod", map[string]any{"refresh_token": "a-new-one"})
		},
		"refresh": func(e *engine) {
			e.sim.AddRefreshToken("link-streaming", refreshToken)
			e.write("refresh/prod", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
				e.sim.RevokeCredential(refreshToken)
				until(1, 0, 5)
				e.refused("creds/prod")
				mend(e)
				e.creds("prod")
				assert.Equal(t, "ok", e.read("status/prod").Data["state"])
			})
		})
	}
}

func TestPromise6NoSecretLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		var log bytes.Buffer
		e.logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &log})
		e.restart()
		storage := e.moody()
		var seen strings.Builder
		look := func() {
			for _, path := range []string{"status/prod", "config/kensho/prod", "config/", "status/"} {
				op := logical.Operation(logical.ReadOperation)
				if strings.HasSuffix(path, "/") {
					op = logical.ListOperation
				}
				resp, _, message := e.request(op, path, nil)
				fmt.Fprintln(&seen, message)
				if resp != nil {
					fmt.Fprintln(&seen, resp.Data, resp.Warnings)
				}
			}
		}
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		for _, fault := range []http.HandlerFunc{vendorsim.Echo, vendorsim.Reset, vendorsim.Hang, vendorsim.Answer(200, `{"accessToken":"canary`), vendorsim.Answer(200, refreshToken)} {
			e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(fault)})
			_, _, message := e.request(logical.UpdateOperation, "refresh/prod", nil)
			fmt.Fprintln(&seen, message)
			_, _, message = e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": refreshToken + "x"})
			fmt.Fprintln(&seen, message)
			look()
		}
		e.sim.Behave(vendorsim.Conduct{})
		e.write("refresh/prod", nil)
		token := e.creds("prod").Data["access_token"].(string)
		storage.refuse.Store(true)
		until(1, 10, 0)
		require.Error(t, e.tick()) // which cannot store what the vendor answered
		e.refused("creds/prod")
		look()

		assert.NotEmpty(t, log.String())
		for _, text := range []string{log.String(), seen.String()} {
			assert.Contains(t, text, "prod")
			for _, secret := range []string{refreshToken, "canary", token} {
				assert.NotContains(t, text, secret)
			}
		}
	})
}

func TestPromise7AnUnreadCredentialStaysAlive(t *testing.T) {
	for name, test := range map[string]struct {
		data  map[string]any
		alive bool
	}{
		"by default":        {map[string]any{}, true},
		"every six days":    {map[string]any{"keepalive_interval": "144h"}, true},
		"stored unchecked":  {map[string]any{"verify": false}, true},
		"with no keepalive": {map[string]any{"keepalive_interval": 0}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				data := map[string]any{"refresh_token": refreshToken}
				for field, value := range test.data {
					data[field] = value
				}
				e.write("config/kensho/prod", data)
				for range 20 {
					e.pass(23 * time.Hour)
					e.restart()
				}
				e.pass(2 * time.Minute)
				_, status, _ := e.request(logical.ReadOperation, "creds/prod", nil)
				assert.Equal(t, test.alive, status == http.StatusOK)
				if name == "by default" {
					assert.InDelta(t, 20, e.exchanges(), 2, "about one a day")
				}
			})
		})
	}
}

func TestPromise7KeepalivesAreSpreadOverTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		const many = 96
		for i := range many {
			token := fmt.Sprintf("refresh-token-%d", i)
			e.sim.AddRefreshToken("link-streaming", token)
			e.write(fmt.Sprintf("config/kensho/c%d", i), map[string]any{"refresh_token": token})
		}
		e.pass(24 * time.Hour)
		busiest := 0
		for range 24 {
			before := e.exchanges()
			e.pass(time.Hour)
			busiest = max(busiest, e.exchanges()-before)
		}
		assert.InDelta(t, 3*many, e.exchanges(), many/4, "one to verify each, and about one a day")
		assert.Less(t, busiest, many/4, "in any hour")
	})
}

func TestPromise7AKeepaliveLongerThanTheCredentialLivesIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		_, status, message := e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": refreshToken, "keepalive_interval": "8d"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "keepalive_interval: must be under 7 days")
	})
}

func TestPromise8AnExchangeInFlightEndsWithWhatItBelongsTo(t *testing.T) {
	for name, change := range map[string]func(*engine){
		"write": func(e *engine) {
			e.write("config/kensho/prod", map[string]any{"refresh_token": "another-refresh-token"})
		},
		"refresh": func(e *engine) { e.write("refresh/prod", nil) },
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

func TestPromise8WhatWasKnownIsVoidThoughItCannotBeDeleted(t *testing.T) {
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

func TestPromise8ARefreshThatStorageDoesNotTakeSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.write("config/kensho/prod", keyPair())
		e.creds("prod")
		storage.refuse.Store(true)
		e.sim.Behave(down())
		_, status, _ := e.request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Equal(t, http.StatusInternalServerError, status, "a restart would bring the token back")
		assert.Equal(t, 1, e.exchanges())
	})
}

func TestPromise5AReaderDuringARefreshGetsItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		e.sim.RevokeCredential(clientID)
		until(1, 0, 5)
		e.refused("creds/prod") // and for five minutes
		e.sim.AddClient(clientID, &privateKey().PublicKey, "")
		e.sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
		var operator sync.WaitGroup
		operator.Go(func() { e.write("refresh/prod", nil) })
		time.Sleep(time.Second)
		e.creds("prod")
		operator.Wait()
		assert.Equal(t, 3, e.exchanges())
	})
}

func TestPromise8ARefreshThatFailsHasForgottenTheTokenAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		leaked := e.creds("prod").Data["access_token"]
		e.sim.Behave(down())
		_, status, _ := e.request(logical.UpdateOperation, "refresh/prod", nil)
		assert.Equal(t, http.StatusServiceUnavailable, status)
		e.refused("creds/prod")
		e.restart()
		e.refused("creds/prod")
		e.sim.Behave(vendorsim.Conduct{})
		time.Sleep(6 * time.Minute)
		assert.NotEqual(t, leaked, e.creds("prod").Data["access_token"])
	})
}

func TestPromise9AnAgentGetsAFreshTokenEachTimeItComesBack(t *testing.T) {
	for _, part := range []float64{0.85, 0.90, 0.95} {
		for _, lifetime := range []time.Duration{20 * time.Second, 5 * time.Minute, time.Hour, 24 * time.Hour} {
			t.Run(fmt.Sprintf("%s after %.2f", lifetime, part), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newEngine(t)
					e.sim.Behave(vendorsim.Conduct{KeyPairLifetime: lifetime})
					e.write("config/kensho/prod", keyPair())
					seen := map[any]bool{}
					for range 10 {
						resp := e.creds("prod")
						assert.False(t, seen[resp.Data["access_token"]], "the same token again")
						seen[resp.Data["access_token"]] = true
						time.Sleep(time.Duration(part * float64(resp.Secret.TTL)))
					}
					assert.Equal(t, 10, e.exchanges())
				})
			})
		}
	}
}

func TestPromise9AFutileRefreshIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.Behave(vendorsim.Conduct{Sticky: true, Latency: 300 * time.Millisecond})
		e.write("config/kensho/prod", keyPair())
		for range 3600 {
			e.creds("prod")
			time.Sleep(10 * time.Second)
		}
		issued, _ := e.sim.Issued()
		assert.InDelta(t, 10, issued, 1, "ten hours of hourly tokens")
		assert.LessOrEqual(t, e.exchanges(), 2*issued, "one that was futile for each")
	})
}

func TestPromise9BeforeTheFullHourKenshoIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		for range 3600 {
			e.creds("prod")
			time.Sleep(10 * time.Second)
		}
		assert.InDelta(t, 10, e.exchanges(), 1, "in ten hours")
	})
}

func TestPromise10AGoodTokenSurvivesARestartWithItsHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		until(0, 50, 0)
		e.creds("prod")
		e.sim.Behave(down())
		until(1, 40, 0)
		before := e.creds("prod")
		require.NotEmpty(t, before.Warnings)
		status := e.read("status/prod").Data
		calls := e.exchanges()

		e.restart()
		assert.Equal(t, status, e.read("status/prod").Data)
		after := e.creds("prod")
		assert.Equal(t, before.Data, after.Data)
		assert.Equal(t, before.Warnings, after.Warnings)
		assert.Equal(t, calls, e.exchanges(), "the vendor is left alone as it was")
	})
}

func TestPromise11TokensInUseAreRenewedAheadOfReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/used", keyPair())
		e.write("config/kensho/unused", keyPair())
		e.creds("used")
		verified := e.exchanges()
		e.pass(44 * time.Minute)
		assert.Equal(t, verified, e.exchanges())
		e.pass(3 * time.Minute)
		assert.Equal(t, verified+1, e.exchanges(), "with a quarter of its life left")
		e.pass(3 * time.Hour)
		assert.Equal(t, verified+1, e.exchanges(), "nobody has read that one")

		e.creds("used")
		e.creds("used") // an hour of Kensho's other kind follows
		e.write("config/kensho/hourly", map[string]any{"refresh_token": refreshToken})
		e.creds("hourly")
		asked := e.exchanges()
		e.pass(61 * time.Minute)
		assert.Equal(t, asked+2, e.exchanges(), "each was renewed once")
		instantly := time.Now()
		e.creds("hourly")
		assert.Zero(t, time.Since(instantly))
	})
}

func TestPromise11ASweepIsBoundedInTimeAndNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		for i := range 300 {
			token := fmt.Sprintf("refresh-token-%d", i)
			e.sim.AddRefreshToken("link-streaming", token)
			name := fmt.Sprintf("c%d", i)
			e.write("config/kensho/"+name, map[string]any{"refresh_token": token})
			e.creds(name)
		}
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(9 * time.Second)
			w.WriteHeader(http.StatusServiceUnavailable)
		})})
		until(1, 0, 5)
		began := time.Now()
		require.NoError(t, e.tick())
		assert.LessOrEqual(t, time.Since(began), 30*time.Second)
		assert.LessOrEqual(t, e.sim.MostInFlight(), 16)
		assert.Greater(t, e.sim.MostInFlight(), 1)

		e.sim.Behave(vendorsim.Conduct{Latency: 100 * time.Millisecond})
		e.pass(7 * time.Minute)
		for i := range 300 {
			assert.Equal(t, "ok", e.read(fmt.Sprintf("status/c%d", i)).Data["state"])
		}
	})
}

func TestPromise11OnlyTheActiveNodeSweeps(t *testing.T) {
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary, consts.ReplicationDRSecondary} {
		t.Run(fmt.Sprint(state.StateStrings()), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.write("config/kensho/prod", keyPair())
				e.creds("prod")
				e.system.ReplicationStateVal = state
				e.pass(3 * time.Hour)
				assert.Equal(t, 1, e.exchanges())
				if state == consts.ReplicationDRSecondary {
					return
				}
				for op, path := range map[logical.Operation]string{
					logical.ReadOperation: "creds/prod", logical.UpdateOperation: "refresh/prod", logical.DeleteOperation: "config/kensho/prod",
				} {
					_, err := e.backend.HandleRequest(t.Context(), &logical.Request{Operation: op, Path: path, Storage: e.storage})
					assert.ErrorIs(t, err, logical.ErrReadOnly, "%s is forwarded", path)
				}
			})
		})
	}
}

func TestPromise12ACachedReadDoesNoStorageAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.creds("prod")
		before := storage.calls.Load()
		for range 100 {
			e.creds("prod")
		}
		assert.Equal(t, before, storage.calls.Load())
	})
}

func TestAStatusTellsHowACredentialIsDoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.Behave(vendorsim.Conduct{Skew: 90 * time.Second})
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "verify": false})
		assert.Equal(t, map[string]any{
			"provider": "kensho", "state": "unused", "exchanges": 0, "consecutive_failures": 0, "clock_skew": 0,
			"credential_updated_time": "2000-01-01T00:00:00Z",
		}, e.read("status/prod").Data)

		until(0, 30, 0)
		e.creds("prod")
		assert.Equal(t, map[string]any{
			"provider": "kensho", "state": "ok", "exchanges": 1, "consecutive_failures": 0, "clock_skew": 90,
			"credential_updated_time": "2000-01-01T00:00:00Z",
			"expire_time":             "2000-01-01T00:58:29Z",
			"last_exchange_time":      "2000-01-01T00:30:00Z",
			"credential_expire_time":  "2000-01-08T00:30:00Z",
		}, e.read("status/prod").Data)

		resp, status, _ := e.request(logical.ListOperation, "status/", nil)
		require.Equal(t, http.StatusOK, status)
		assert.Equal(t, []string{"prod"}, resp.Data["keys"])
		status, message := e.refused("status/nobody")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `"nobody" is no credential`)
	})
}

func TestARefreshForgetsTheTokenAndExchangesNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		older := e.creds("prod").Data["access_token"]
		until(0, 10, 0)
		resp, status, message := e.request(logical.UpdateOperation, "refresh/prod", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, map[string]any{"expire_time": "2000-01-01T01:10:00Z", "provider": "kensho"}, resp.Data)
		assert.NotEqual(t, older, e.creds("prod").Data["access_token"])
		assert.Equal(t, 2, e.exchanges())

		_, status, _ = e.request(logical.UpdateOperation, "refresh/nobody", nil)
		assert.Equal(t, http.StatusBadRequest, status)
	})
}

func TestAClockThatIsOffIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		var log bytes.Buffer
		e.logger = hclog.New(&hclog.LoggerOptions{Output: &log})
		e.restart()
		e.sim.Behave(vendorsim.Conduct{Skew: -5 * time.Minute})
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken, "verify": false})
		for range 5 {
			e.creds("prod")
			time.Sleep(time.Hour)
		}
		assert.Equal(t, 1, strings.Count(log.String(), "clock"), "once, and not with each exchange")
	})
}
