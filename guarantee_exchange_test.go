package tokenbroker_test

import (
	"bytes"
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

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee2AThousandReadersAtTheMomentOfExpiryShareOneExchange(t *testing.T) {
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

func TestGuarantee6NoSecretLeaves(t *testing.T) {
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

func TestGuarantee2ThereIsOneExchangeInFlightWhoeverCausesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		until(0, 50, 0)
		e.sim.Behave(vendorsim.Conduct{Latency: time.Second})
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() { e.creds("prod") })
			all.Go(func() { e.write("refresh/prod", nil) })
			all.Go(func() { e.write("config/kensho/prod", map[string]any{"request_timeout": 10 + i, "verify": true}) })
		}
		all.Wait()
		assert.Equal(t, 1, e.sim.MostInFlight())
	})
}

func TestGuarantee12ACachedReadDoesNoStorageAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		storage := e.moody()
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.creds("prod")
		before := len(storage.calls())
		for range 100 {
			e.creds("prod")
		}
		assert.Len(t, storage.calls(), before)
	})
}

func TestGuarantee12AfterARestartAReadLoadsItsOwnNameAndTheBackgroundTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		for _, name := range []string{"first", "second", "third"} {
			e.write("config/sitecore/"+name, map[string]any{"api_key": apiKey})
		}
		exchanges := e.exchanges()
		e.restart()
		storage := e.moody()
		e.creds("first")
		for _, call := range storage.calls() {
			assert.Contains(t, call.key, "first", "%s %s", call.op, call.key)
		}
		e.pass(time.Minute)
		before := len(storage.calls())
		e.creds("second")
		e.creds("third")
		for _, call := range storage.calls()[before:] { // what the names stand for
			assert.False(t, strings.HasPrefix(call.key, "state/"), "%s %s", call.op, call.key)
		}
		assert.Equal(t, exchanges, e.exchanges())
	})
}
