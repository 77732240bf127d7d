package guarantees_test

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

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee11TokensInUseAreRenewedAheadOfReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/used", engine.KeyPairFields())
		e.Write("config/kensho/unused", engine.KeyPairFields())
		e.Creds("used")
		verified := e.Exchanges()
		e.Pass(44 * time.Minute)
		assert.Equal(t, verified, e.Exchanges())
		e.Pass(3 * time.Minute)
		assert.Equal(t, verified+1, e.Exchanges(), "renewed with a quarter of its lifetime left")
		e.Pass(3 * time.Hour)
		assert.Equal(t, verified+1, e.Exchanges(), "the renewed token has no reader")

		e.Creds("used")
		e.Creds("used")
		e.Write("config/kensho/hourly", map[string]any{"refresh_token": engine.RefreshToken})
		e.Creds("hourly")
		asked := e.Exchanges()
		e.Pass(61 * time.Minute)
		assert.Equal(t, asked+2, e.Exchanges(), "each was renewed once")
		instantly := time.Now()
		e.Creds("hourly")
		assert.Zero(t, time.Since(instantly))
	})
}

func TestGuarantee11AgentDoesNotWaitForTheVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM(), "verify": false})
		e.Sim.Behave(vendorsim.Conduct{Latency: 1500 * time.Millisecond})
		lease := e.Creds("prod").Secret.TTL
		for i := range 8 {
			e.Pass(lease * 9 / 10)
			asked := time.Now()
			lease = e.Creds("prod").Secret.TTL
			if i > 0 { // the first read does not mark the token as in use
				assert.Zero(t, time.Since(asked))
			}
		}
	})
}

func TestGuarantee11HangingVendorBlocksNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		for i := range 300 {
			token := fmt.Sprintf("refresh-token-%d", i)
			e.Sim.AddRefreshToken("link-streaming", token)
			e.Write(fmt.Sprintf("config/kensho/c%d", i), map[string]any{"refresh_token": token})
			e.Creds(fmt.Sprintf("c%d", i))
		}
		e.Write("config/kensho/healthy", engine.KeyPairFields())
		engine.Until(0, 30, 0)
		e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
			if r.Host == "kensho.okta.com" {
				return nil
			}
			return vendorsim.Hang
		}})
		e.Pass(35 * time.Minute)
		for range 3 {
			e.Creds("healthy")
			e.Creds("healthy")
			issued, _ := e.Sim.Issued()
			e.Pass(80 * time.Minute)
			again, _ := e.Sim.Issued()
			assert.Greater(t, again, issued, "the token is renewed in the background")
		}
	})
}

// deafTransport makes requests to one host ignore their context and hang until the test ends,
// while isDeaf is set.
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

func TestGuarantee11EndlessRenewalsBlockNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		deaf := &deafTransport{RoundTripper: e.Transport, host: "api.rfksrv.com", end: make(chan struct{})}
		t.Cleanup(func() { close(deaf.end) })
		e.Transport = deaf
		e.Restart()
		for i := range 50 { // about three times as many as a sweep renews at once
			e.Write(fmt.Sprintf("config/sitecore/c%d", i), map[string]any{"api_key": engine.APIKey, "access_expiry": "30m"})
			e.Creds(fmt.Sprintf("c%d", i))
		}
		e.Write("config/kensho/healthy", engine.KeyPairFields())
		deaf.isDeaf.Store(true)
		for range 5 {
			token := engine.TokenOf(e.Creds("healthy"))
			e.Pass(50 * time.Minute) // of the token's hour, with a sweep each minute
			calls := e.Exchanges()
			assert.NotEqual(t, token, engine.TokenOf(e.Creds("healthy")), "the token was renewed in the background")
			assert.Equal(t, calls, e.Exchanges(), "the read made no exchange")
		}
	})
}

func TestGuarantee11PastedTokenIsNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		engine.Until(0, 20, 0)
		e.Write("config/kensho/prod", map[string]any{"access_token": "pasted-access-token"})
		e.Read("creds/prod")
		e.Pass(3 * time.Hour)
		assert.Equal(t, 0, e.Read("status/prod").Data["consecutive_failures"])
	})
}

func TestGuarantee11SweepIsBoundedInTimeAndNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		for i := range 300 {
			token := fmt.Sprintf("refresh-token-%d", i)
			e.Sim.AddRefreshToken("link-streaming", token)
			name := fmt.Sprintf("c%d", i)
			e.Write("config/kensho/"+name, map[string]any{"refresh_token": token})
			e.Creds(name)
		}
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(9 * time.Second)
			w.WriteHeader(http.StatusServiceUnavailable)
		})})
		engine.Until(1, 0, 5)
		began := time.Now()
		require.NoError(t, e.Tick())
		assert.LessOrEqual(t, time.Since(began), 30*time.Second)
		assert.LessOrEqual(t, e.Sim.MostInFlight(), 16)
		assert.Greater(t, e.Sim.MostInFlight(), 1)

		e.Sim.Behave(vendorsim.Conduct{Latency: 100 * time.Millisecond})
		e.Pass(7 * time.Minute)
		for i := range 300 {
			assert.Equal(t, "ok", e.Read(fmt.Sprintf("status/c%d", i)).Data["state"])
		}
	})
}

func TestGuarantee11OnlyTheActiveNodeSweeps(t *testing.T) {
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary, consts.ReplicationDRSecondary} {
		t.Run(fmt.Sprint(state.StateStrings()), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Write("config/kensho/prod", engine.KeyPairFields())
				e.Creds("prod")
				e.System.ReplicationStateVal = state
				e.Pass(3 * time.Hour)
				assert.Equal(t, 1, e.Exchanges())
				if state == consts.ReplicationDRSecondary {
					return
				}
				for op, path := range map[logical.Operation]string{
					logical.ReadOperation: "creds/prod", logical.UpdateOperation: "refresh/prod", logical.DeleteOperation: "config/kensho/prod",
				} {
					_, err := e.Backend.HandleRequest(t.Context(), &logical.Request{Operation: op, Path: path, Storage: e.Storage})
					assert.ErrorIs(t, err, logical.ErrReadOnly, "%s is forwarded", path)
				}
			})
		})
	}
}

// Guarantee 16: the engine stops retrying a failing scope some minutes after its last read.
func TestGuarantee16UnusedFailingScopeIsNotRetried(t *testing.T) {
	for name, test := range map[string]struct {
		reader string
		fails  vendorsim.Conduct
	}{
		"a deleted role":          {"nerd", engine.RefuseScopeBy(engine.NerdScope, vendorsim.Answer(http.StatusInternalServerError, "oops"))},
		"the credential itself":   {"prod", engine.Down()},
		"a role during an outage": {"nerd", engine.Down()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewNarrowed(t)
				engine.Until(2, 0, 0)
				e.Sim.Behave(test.fails)
				e.Refused("creds/" + test.reader)
				calls := e.Exchanges()
				e.Pass(12 * time.Minute)
				tried := e.Exchanges() - calls
				assert.Greater(t, tried, 2, "retried for a while after the read")
				e.Refused("creds/" + test.reader)
				e.Pass(12 * time.Minute)
				assert.Greater(t, e.Exchanges()-calls, tried, "retried again after the second read")
				_, status, message := e.Request(logical.DeleteOperation, "roles/nerd", nil)
				require.Equal(t, http.StatusOK, status, message)
				e.Pass(6 * time.Minute)
				calls = e.Exchanges()
				e.Pass(24 * time.Hour)
				assert.Equal(t, calls, e.Exchanges())

				e.Sim.Behave(vendorsim.Conduct{})
				e.Write("roles/nerd", map[string]any{"config": "prod", "scope": engine.NerdScope})
				e.Creds(test.reader)
				e.Pass(50 * time.Minute)
				e.Creds(test.reader)
				e.Pass(50 * time.Minute)
				assert.Equal(t, "ok", e.Read("status/prod").Data["state"])
			})
		})
	}
}

// Guarantee 4: a token that is read once per lifetime is renewed after an outage.
func TestTokenOfARareReaderIsRenewedAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		old := engine.TokenOf(e.Creds("prod"))
		engine.Until(0, 44, 0)
		e.Sim.Behave(engine.Down())
		e.Pass(6 * time.Minute)
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(6 * time.Minute) // the longest back-off so far is 256 s and 20 %
		instantly := time.Now()
		assert.NotEqual(t, old, engine.TokenOf(e.Creds("prod")))
		assert.Zero(t, time.Since(instantly))
	})
}
