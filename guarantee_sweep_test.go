package tokenbroker_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee11TokensInUseAreRenewedAheadOfReaders(t *testing.T) {
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

func TestGuarantee11AnAgentDoesNotWaitForTheVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"client_id": clientID, "private_key": privateKeyPEM(), "verify": false})
		e.sim.Behave(vendorsim.Conduct{Latency: 1500 * time.Millisecond})
		lease := e.creds("prod").Secret.TTL
		for i := range 8 {
			e.pass(lease * 9 / 10)
			asked := time.Now()
			lease = e.creds("prod").Secret.TTL
			if i > 0 { // whoever asks for the first time may never come back
				assert.Zero(t, time.Since(asked))
			}
		}
	})
}

func TestGuarantee11AVendorWhoHangsHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		for i := range 300 {
			token := fmt.Sprintf("refresh-token-%d", i)
			e.sim.AddRefreshToken("link-streaming", token)
			e.write(fmt.Sprintf("config/kensho/c%d", i), map[string]any{"refresh_token": token})
			e.creds(fmt.Sprintf("c%d", i))
		}
		e.write("config/kensho/healthy", keyPair())
		until(0, 30, 0)
		e.sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if r.Host == "kensho.okta.com" {
				return nil
			}
			return vendorsim.Hang
		}})
		e.pass(35 * time.Minute)
		for range 3 {
			e.creds("healthy")
			e.creds("healthy")
			issued, _ := e.sim.Issued()
			e.pass(80 * time.Minute)
			again, _ := e.sim.Issued()
			assert.Greater(t, again, issued, "renewed in the background")
		}
	})
}

// A deafTransport has the requests to one host never end, whatever their context says, from
// when it is deaf until the test ends.
type deafTransport struct {
	http.RoundTripper
	host   string
	isDeaf atomic.Bool
	end    chan struct{}
}

func (d *deafTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if d.isDeaf.Load() && r.URL.Host == d.host {
		<-d.end
		return nil, errors.New("the test ends")
	}
	return d.RoundTripper.RoundTrip(r)
}

func TestGuarantee11RenewalsThatNeverEndHoldUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		deaf := &deafTransport{RoundTripper: e.transport, host: "api.rfksrv.com", end: make(chan struct{})}
		t.Cleanup(func() { close(deaf.end) })
		e.transport = deaf
		e.restart()
		for i := range 50 { // three times as many as a sweep renews at once
			e.write(fmt.Sprintf("config/sitecore/c%d", i), map[string]any{"api_key": apiKey, "access_expiry": "30m"})
			e.creds(fmt.Sprintf("c%d", i))
		}
		e.write("config/kensho/healthy", keyPair())
		deaf.isDeaf.Store(true)
		for range 5 {
			token := tokenOf(e.creds("healthy"))
			e.pass(50 * time.Minute) // of the hour that it is valid for, with a sweep each minute
			calls := e.exchanges()
			assert.NotEqual(t, token, tokenOf(e.creds("healthy")), "it was renewed in the background")
			assert.Equal(t, calls, e.exchanges(), "and not by the read")
		}
	})
}

func TestGuarantee11APastedTokenIsLeftToDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		until(0, 20, 0)
		e.write("config/kensho/prod", map[string]any{"access_token": "pasted-access-token"})
		e.read("creds/prod")
		e.pass(3 * time.Hour)
		assert.Equal(t, 0, e.read("status/prod").Data["consecutive_failures"])
	})
}

func TestGuarantee11ASweepIsBoundedInTimeAndNumber(t *testing.T) {
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

func TestGuarantee11OnlyTheActiveNodeSweeps(t *testing.T) {
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

// Guarantee 16: what fails, and nobody asks for any more, is left alone.
func TestGuarantee16AScopeThatNobodyAsksForIsLeftOnceItFails(t *testing.T) {
	for name, test := range map[string]struct {
		reader string
		fails  vendorsim.Conduct
	}{
		"a role that was deleted":  {"nerd", refuseScopeBy(nerdScope, vendorsim.Answer(http.StatusInternalServerError, "oops"))},
		"the credential's own":     {"prod", down()},
		"a role, at an ill vendor": {"nerd", down()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newNarrowedEngine(t)
				until(2, 0, 0)
				e.sim.Behave(test.fails)
				e.refused("creds/" + test.reader)
				calls := e.exchanges()
				e.pass(12 * time.Minute)
				tried := e.exchanges() - calls
				assert.Greater(t, tried, 2, "somebody may come back")
				e.refused("creds/" + test.reader)
				e.pass(12 * time.Minute)
				assert.Greater(t, e.exchanges()-calls, tried, "as did this one")
				_, status, message := e.request(logical.DeleteOperation, "roles/nerd", nil)
				require.Equal(t, http.StatusOK, status, message)
				e.pass(6 * time.Minute)
				calls = e.exchanges()
				e.pass(24 * time.Hour)
				assert.Equal(t, calls, e.exchanges())

				e.sim.Behave(vendorsim.Conduct{})
				e.write("roles/nerd", map[string]any{"config": "prod", "scope": nerdScope})
				e.creds(test.reader)
				e.pass(50 * time.Minute)
				e.creds(test.reader)
				e.pass(50 * time.Minute)
				assert.Equal(t, "ok", e.read("status/prod").Data["state"])
			})
		})
	}
}

// Guarantee 4: the token of a reader who comes once in its lifetime is renewed after an outage.
func TestAValidTokenIsTriedForThoughItsReaderComesSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		old := tokenOf(e.creds("prod"))
		until(0, 44, 0)
		e.sim.Behave(down())
		e.pass(10 * time.Minute)
		e.sim.Behave(vendorsim.Conduct{})
		e.pass(5 * time.Minute)
		instantly := time.Now()
		assert.NotEqual(t, old, tokenOf(e.creds("prod")))
		assert.Zero(t, time.Since(instantly))
	})
}
