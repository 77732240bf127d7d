package faults_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestFaultHarmlessAnswersAreAccepted(t *testing.T) {
	playFaults(t, "vendor: unusual but valid answers", harmlessFaults(), (*vendorCell).accept)
}

// harmlessFaults returns answers that differ from the documentation but are unambiguous.
func harmlessFaults() []vendorFault {
	return []vendorFault{
		{name: "tokens of 64 KiB", appliesTo: hasToken, inject: func(c *vendorsim.Conduct, _ *vendorsim.Sim, _ kindOfCredential) { c.TokenSize = 64 << 10 },
			check: func(_ *vendorCell, resp *logical.Response) string {
				if size := len(engine.TokenOf(resp)); size != 64<<10 {
					return fmt.Sprintf("the token is %d bytes long", size)
				}
				return ""
			}},
		{name: "undocumented members", appliesTo: hasToken, inject: amendAnswer(func(answer map[string]any, _ kindOfCredential) {
			answer["id_token"], answer["error"], answer["nested"] = nil, nil, map[string]any{"accessToken": 7}
		})},
		{name: "error false", inject: withMembers(map[string]any{"error": false})},
		{name: "error an empty object", inject: withMembers(map[string]any{"error": map[string]any{}})},
		{name: "token type a number", inject: withMembers(map[string]any{"token_type": 7})},
		{name: "token type in a list", inject: withMembers(map[string]any{"token_type": []string{"Bearer"}})},
		{name: "scope an object", inject: withMembers(map[string]any{"scope": map[string]any{}})},
		{name: "expiry of the refresh token zero", inject: withMembers(map[string]any{"refreshTokenExpiry": 0})},
		{name: "refresh token a number", inject: withMembers(map[string]any{"refresh_token": 7, "refreshToken": 7}), appliesTo: func(k kindOfCredential) bool { return !rotates(k) }},
		{name: "a byte order mark", inject: func(c *vendorsim.Conduct, sim *vendorsim.Sim, _ kindOfCredential) {
			c.Fault = vendorsim.Always(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, "\ufeff")
				sim.Late(0)(withoutStatus{w}, r)
			})
		}},
		{name: "201", inject: func(c *vendorsim.Conduct, sim *vendorsim.Sim, _ kindOfCredential) {
			c.Fault = vendorsim.Always(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusCreated)
				sim.Late(0)(withoutStatus{w}, r)
			})
		}},
		{name: "expiry a string", inject: withExpiry(func(lifetime float64) any { return fmt.Sprint(int(lifetime)) }), appliesTo: statesExpiry, check: leasedFor(kindLifetime)},
		{name: "expiry a fraction", inject: withExpiry(func(lifetime float64) any { return lifetime - 0.5 }), appliesTo: statesExpiry, check: leasedFor(kindLifetime)},
		{name: "expiry a fraction in a string", inject: withExpiry(func(lifetime float64) any { return fmt.Sprintf("%.2f", lifetime-0.25) }), appliesTo: statesExpiry, check: leasedFor(kindLifetime)},
		{name: "expiry in powers of ten", inject: withExpiry(func(lifetime float64) any { return json.RawMessage(fmt.Sprintf("%e", lifetime)) }), appliesTo: statesExpiry, check: leasedFor(kindLifetime)},
		// Without a stated lifetime, the next source of expiry counts: the requested expiry,
		// default_ttl, or an hour for Kensho's key pairs.
		{name: "expiry null", inject: withExpiry(func(float64) any { return nil }), appliesTo: statesExpiry, check: leasedFor(kindLifetime, time.Hour)},
		{name: "expiry false", inject: withExpiry(func(float64) any { return false }), appliesTo: statesExpiry, check: leasedFor(kindLifetime, time.Hour)},
		{name: "expiry an object", inject: withExpiry(func(float64) any { return map[string]any{"seconds": 7} }), appliesTo: statesExpiry, check: leasedFor(kindLifetime, time.Hour)},
		{name: "expiry empty", inject: withExpiry(func(float64) any { return "" }), appliesTo: statesExpiry, check: leasedFor(kindLifetime, time.Hour)},
		{name: "expiry true", inject: withExpiry(func(float64) any { return true }), appliesTo: statesExpiry, check: leasedFor(kindLifetime, time.Hour)},
		{name: "expiry an object", inject: withExpiry(func(float64) any { return map[string]any{"seconds": 7} }), appliesTo: statesExpiry, check: leasedFor(kindLifetime, time.Hour)},
		{name: "time a string", inject: withTime(func(real time.Time, _ kindOfCredential) any { return fmt.Sprint(real.Unix()) }), appliesTo: statesUnix, check: leasedFor(kindLifetime)},
		{name: "time a fraction", inject: withTime(func(real time.Time, _ kindOfCredential) any { return float64(real.Unix()) + 0.75 }), appliesTo: statesUnix, check: leasedFor(kindLifetime)},
		{name: "time in another zone", inject: withTime(func(real time.Time, _ kindOfCredential) any {
			return real.In(time.FixedZone("", 19800)).Format(time.RFC3339)
		}), appliesTo: statesDate, check: leasedFor(kindLifetime)},
		{name: "time without a zone", inject: withTime(func(real time.Time, _ kindOfCredential) any { return real.UTC().Format("2006-01-02T15:04:05") }), appliesTo: statesDate, check: leasedFor(kindLifetime)},
		{name: "time a fraction of a second", inject: withTime(func(real time.Time, _ kindOfCredential) any { return real.UTC().Format(time.RFC3339Nano) }), appliesTo: statesDate, check: leasedFor(kindLifetime)},
		// default_ttl replaces an invalid lifetime.
		{name: "expiry negative", inject: withExpiry(func(lifetime float64) any { return -lifetime }), appliesTo: hasDefault, check: leasedFor(kindLifetime)},
		{name: "expiry zero", inject: withExpiry(func(float64) any { return 0 }), appliesTo: hasDefault, check: leasedFor(kindLifetime)},
		{name: "expiry a word", inject: withExpiry(func(float64) any { return "never" }), appliesTo: hasDefault, check: leasedFor(kindLifetime)},
		// A huge lifetime is cut to ten years, and the lease to the mount's maximum lease TTL.
		{name: "expiry huge", inject: withExpiry(func(float64) any { return 1e300 }), appliesTo: statesExpiry, check: leasedForMaximum, overstates: true},
		{name: "expiry huge, in a string", inject: withExpiry(func(float64) any { return "99999999999999999999" }), appliesTo: statesExpiry, check: leasedForMaximum, overstates: true},
		{name: "expiry beyond floating point", inject: withExpiry(func(float64) any { return json.RawMessage("1e999") }), appliesTo: statesExpiry, check: leasedForMaximum, overstates: true},
	}
}

// withMembers makes the vendor change members of its answer.
func withMembers(members map[string]any) injector {
	return amendAnswer(func(answer map[string]any, _ kindOfCredential) { maps.Copy(answer, members) })
}

// withoutStatus is a ResponseWriter whose status has already been written.
type withoutStatus struct{ http.ResponseWriter }

func (withoutStatus) WriteHeader(int) {}

// leasedFor returns a check that the lease is as long as one of some lifetimes less the margin,
// within two seconds: a stated time, and the vendor's clock, are in whole seconds.
func leasedFor(lifetimes ...time.Duration) func(*vendorCell, *logical.Response) string {
	return func(_ *vendorCell, resp *logical.Response) string {
		for _, lifetime := range lifetimes {
			if lifetime-30*time.Second-resp.Secret.TTL <= 2*time.Second && resp.Secret.TTL <= lifetime-30*time.Second {
				return ""
			}
		}
		return fmt.Sprintf("the lease is for %s", resp.Secret.TTL)
	}
}

// leasedForMaximum checks that the token expires in ten years, and that the lease is as long as
// the mount's maximum lease TTL.
func leasedForMaximum(c *vendorCell, resp *logical.Response) string {
	const tenYears = 10 * 365 * 24 * time.Hour
	if expires := resp.Data["expire_time"]; expires != time.Now().Add(tenYears).UTC().Format(time.RFC3339) {
		return fmt.Sprintf("expire_time is %s", expires)
	}
	if resp.Secret.TTL != c.System.MaxLeaseTTLVal {
		return fmt.Sprintf("the lease is for %s", resp.Secret.TTL)
	}
	return ""
}

// accept injects the fault, and checks that a read gets a new token all the same.
func (c *vendorCell) accept() {
	c.T.Helper()
	last, calls := c.token, c.Exchanges()
	c.inject()
	resp, status, message := c.read()
	if status != http.StatusOK {
		c.counts.failed.Add(1)
		require.Fail(c.T, "no token was served although the answer has one", "%d %s", status, message)
	}
	assert.Greater(c.T, c.Exchanges(), calls)
	assert.NotEqual(c.T, last, engine.TokenOf(resp))
	assert.Empty(c.T, resp.Warnings)
	assert.True(c.T, c.Sim.Accepts(engine.TokenOf(resp)))
	if c.fault.check != nil {
		assert.Empty(c.T, c.fault.check(c, resp))
	}
	data := c.status()
	assert.Equal(c.T, "ok", data["state"])
	assert.Equal(c.T, 0, data["consecutive_failures"])

	// What the answer left in storage, such as a refresh token, works for the next exchange.
	c.restore()
	_, status, message = c.request(logical.UpdateOperation, "refresh/prod", nil)
	require.Equal(c.T, http.StatusOK, status, message)
	resp, status, message = c.request(logical.ReadOperation, "creds/prod", nil)
	require.Equal(c.T, http.StatusOK, status, message)
	if !c.fault.overstates {
		c.served(resp)
	}
}
