package guarantees_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee2ThousandReadersAtExpiryShareOneExchange(t *testing.T) {
	for name, data := range map[string]map[string]any{"kensho": {"refresh_token": engine.RefreshToken}, "key pair": engine.KeyPairFields()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Write("config/kensho/prod", data)
				expire, err := time.Parse(time.RFC3339, e.Creds("prod").Data["expire_time"].(string))
				require.NoError(t, err)
				before := e.Exchanges()
				e.Sim.Behave(vendorsim.Conduct{Latency: 500 * time.Millisecond})
				time.Sleep(time.Until(expire))

				var readers sync.WaitGroup
				var served atomic.Int64
				for range 1000 {
					readers.Go(func() {
						e.Creds("prod")
						served.Add(1)
					})
				}
				readers.Wait()
				assert.EqualValues(t, 1000, served.Load())
				assert.Equal(t, before+1, e.Exchanges())
			})
		})
	}
}

func TestGuarantee6NoSecretLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		var log engine.Log
		e.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &log})
		e.Restart()
		storage := e.BreakStorage()
		var seen strings.Builder
		readAll := func() {
			for _, path := range []string{"status/prod", "config/kensho/prod", "config/", "status/"} {
				op := logical.Operation(logical.ReadOperation)
				if strings.HasSuffix(path, "/") {
					op = logical.ListOperation
				}
				resp, _, message := e.Request(op, path, nil)
				fmt.Fprintln(&seen, message)
				if resp != nil {
					fmt.Fprintln(&seen, resp.Data, resp.Warnings)
				}
			}
		}
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		for _, fault := range []http.HandlerFunc{vendorsim.Echo, vendorsim.Reset, vendorsim.Hang, vendorsim.Answer(200, `{"accessToken":"canary`), vendorsim.Answer(200, engine.RefreshToken)} {
			e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(fault)})
			_, _, message := e.Request(logical.UpdateOperation, "refresh/prod", nil)
			fmt.Fprintln(&seen, message)
			_, _, message = e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken + "x"})
			fmt.Fprintln(&seen, message)
			readAll()
		}
		e.Sim.Behave(vendorsim.Conduct{})
		e.Write("refresh/prod", nil)
		token := e.Creds("prod").Data["access_token"].(string)
		storage.Refuse.Store(true)
		engine.Until(1, 10, 0)
		require.Error(t, e.Tick()) // the vendor's answer cannot be stored
		e.Refused("creds/prod")
		readAll()

		assert.NotEmpty(t, log.String())
		for _, text := range []string{log.String(), seen.String()} {
			assert.Contains(t, text, "prod")
			for _, secret := range []string{engine.RefreshToken, "canary", token} {
				assert.NotContains(t, text, secret)
			}
		}
	})
}

func TestGuarantee2ReadsRefreshesAndWritesHaveOneExchangeInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		engine.Until(0, 50, 0)
		e.Sim.Behave(vendorsim.Conduct{Latency: time.Second})
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() { e.Creds("prod") })
			all.Go(func() { e.Write("refresh/prod", nil) })
			all.Go(func() { e.Write("config/kensho/prod", map[string]any{"request_timeout": 10 + i, "verify": true}) })
		}
		all.Wait()
		assert.Equal(t, 1, e.Sim.MostInFlight())
	})
}

func TestGuarantee12CachedReadDoesNoStorageAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		storage := e.BreakStorage()
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Creds("prod")
		before := len(storage.Calls())
		for range 100 {
			e.Creds("prod")
		}
		assert.Len(t, storage.Calls(), before)
	})
}

// After a restart, a read loads only its own name. The background work of the first minute
// loads the others.
func TestGuarantee12FirstReadAfterARestartLoadsOnlyItsOwnName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		for _, name := range []string{"first", "second", "third"} {
			e.Write("config/sitecore/"+name, map[string]any{"api_key": engine.APIKey})
		}
		exchanges := e.Exchanges()
		e.Restart()
		storage := e.BreakStorage()
		e.Creds("first")
		for _, call := range storage.Calls() {
			if call.Key != "vendor-in-use/" && call.Key != "host/" { // which vendors there are, and which hosts have a limit
				assert.Contains(t, call.Key, "first", "%s %s", call.Op, call.Key)
			}
		}
		e.Creds("second")
		e.Creds("third")
		e.Pass(time.Minute)
		before := len(storage.Calls())
		e.Creds("second")
		e.Creds("third")
		for _, call := range storage.Calls()[before:] { // a read may load a config or role, but no state
			assert.False(t, strings.HasPrefix(call.Key, "state/"), "%s %s", call.Op, call.Key)
		}
		assert.Equal(t, exchanges, e.Exchanges())
	})
}

func TestGuarantee2ReadersShareOneExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		engine.Until(1, 0, 5)
		before := e.Exchanges()
		e.Sim.Behave(vendorsim.Conduct{Latency: 500 * time.Millisecond})

		var readers sync.WaitGroup
		for range 100 {
			readers.Go(func() { e.Creds("prod") })
		}
		readers.Wait()
		assert.Equal(t, before+1, e.Exchanges())
		assert.Equal(t, 1, e.Sim.MostInFlight())
	})
}
