package guarantees_test

import (
	"fmt"
	"net/http"
	"strings"
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

func downHost(t *testing.T, e *engine.Engine, names int) {
	t.Helper()
	e.Sim.Behave(engine.Down())
	var all sync.WaitGroup
	for n := range names {
		all.Go(func() { e.Request(logical.ReadOperation, fmt.Sprint("creds/c", n), nil) })
	}
	all.Wait()
	require.Equal(t, "down", e.Read("hosts/" + oauthHost).Data["state"])
	go e.Request(logical.ReadOperation, fmt.Sprint("creds/c", names), nil) // the only request to the host waits
	synctest.Wait()
}

// A renewal for a min_ttl that is not sent must not use up the exchanges that min_ttl allows.
func TestGuarantee16ARenewalThatIsNotSentDoesNotCountForMinTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLimited(t, 11, 0)
		e.Write("refresh/api", nil)
		time.Sleep(3 * time.Minute)
		downHost(t, e, 10)
		for range 12 {
			e.ReadFor("token/api", "59m")
			time.Sleep(time.Millisecond)
		}
		e.Sim.Behave(vendorsim.Conduct{})
		e.Write("refresh/c0", nil) // the host answers again
		resp := e.ReadFor("token/api", "56m30s")
		assert.Empty(t, resp.Warnings)
	})
}

// The metadata request of a dedicated role that is not sent must not count as a failure of the role.
func TestGuarantee16AMetadataRequestThatIsNotSentIsNotAFailureOfTheRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLimited(t, 11, 0)
		e.Write("config/oauth2/found", with(engine.IssuerClient(), map[string]any{"verify": false}))
		e.Write("roles/own", map[string]any{"config": "found", "dedicated": true})
		e.Restart()
		downHost(t, e, 10)
		for range 6 {
			_, status, message := e.Request(logical.ReadOperation, "creds/own", nil)
			assert.Equal(t, http.StatusServiceUnavailable, status)
			t.Log(message)
			time.Sleep(20 * time.Millisecond)
		}
		e.Sim.Behave(vendorsim.Conduct{})
		e.Write("refresh/c0", nil) // the host answers again
		_, status, message := e.Request(logical.ReadOperation, "creds/own", nil)
		assert.Equal(t, http.StatusOK, status, message)
	})
}

// A read whose request is not sent must not write to storage each time.
func TestReadsThatSendNothingWriteNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Rotate: true})
		e.Write("config/kensho/rt", map[string]any{"refresh_token": engine.RefreshToken})
		e.Creds("rt")
		e.Write("hosts/link-streaming.kensho.com", map[string]any{"requests_per_second": 0.001})
		time.Sleep(3 * time.Hour)
		e.Write("refresh/rt", map[string]any{"drop": true})
		time.Sleep(2 * time.Second)
		e.Write("refresh/rt", map[string]any{"drop": true}) // the turn is used up for long
		time.Sleep(61 * time.Minute)                        // the token has expired
		e.Sim.Behave(vendorsim.Conduct{Rotate: true})
		for range 8 { // no turn is left for an hour
			e.Request(logical.UpdateOperation, "refresh/rt", nil)
		}
		storage := e.BreakStorage()
		calls := func() (writes int) {
			for _, call := range storage.Calls() {
				if call.Writes() {
					writes++
				}
			}
			return writes
		}
		time.Sleep(61 * time.Minute)
		written := calls()
		before := e.Exchanges()
		for range 100 {
			_, status, message := e.Request(logical.ReadOperation, "creds/rt", nil)
			assert.Equal(t, http.StatusServiceUnavailable, status, message)
			if status == 200 {
				break
			}
		}
		assert.Equal(t, before, e.Exchanges())
		assert.LessOrEqual(t, calls()-written, 3, "storage writes for 100 reads that send nothing")
	})
}

// A reader whose renewal is not sent should read again at the next attempt, and not each second.
func TestAReaderWhoseRenewalIsNotSentReadsAgainLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newLimited(t, 11, 0)
		e.Write("refresh/api", nil)
		time.Sleep(50 * time.Minute)
		downHost(t, e, 10)
		resp := e.Read("token/api")
		assert.Greater(t, resp.Data["ttl"], int64(1), resp.Warnings)
		time.Sleep(time.Minute)
	})
}

// A storage error of one limit must not drop the others.
func TestGuarantee15AStorageErrorOfOneLimitLeavesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("hosts/"+oauthHost, map[string]any{"requests_per_second": 1})
		e.Write("hosts/other.example", map[string]any{"requests_per_second": 1})
		s := e.BreakStorage()
		fault := func(c engine.StorageCall) engine.Fault {
			if strings.HasPrefix(c.Key, "host/other") {
				return engine.Fault{Err: fmt.Errorf("cannot decrypt")}
			}
			return engine.Fault{}
		}
		s.OnCall.Store(&fault)
		e.Restart()
		e.Creds("api")
		assert.EqualValues(t, 1, e.Read("hosts/" + oauthHost).Data["current_limit"])
	})
}
