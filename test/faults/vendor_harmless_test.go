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

func TestFaultsThatDoNoHarmAreTakenAsTheyAreMeant(t *testing.T) {
	playFaults(t, "vendor: odd, and no harm", harmlessFaults(), (*vendorCell).takes)
}

// harmlessFaults are answers that are not as documented, and clear all the same.
func harmlessFaults() []vendorFault {
	return []vendorFault{
		{name: "tokens of 64 KiB", strike: func(c *vendorsim.Conduct, _ *vendorsim.Sim, _ kindOfCredential) { c.TokenSize = 64 << 10 },
			check: func(_ *vendorCell, resp *logical.Response) string {
				if size := len(engine.TokenOf(resp)); size != 64<<10 {
					return fmt.Sprintf("the token is %d bytes long", size)
				}
				return ""
			}},
		{name: "members that nobody documents", strike: amending(func(answer map[string]any, _ kindOfCredential) {
			answer["id_token"], answer["error"], answer["nested"] = nil, nil, map[string]any{"accessToken": 7}
		})},
		{name: "an error of false", strike: withMembers(map[string]any{"error": false})},
		{name: "an error of nothing", strike: withMembers(map[string]any{"error": map[string]any{}})},
		{name: "token type a number", strike: withMembers(map[string]any{"token_type": 7})},
		{name: "token type in a list", strike: withMembers(map[string]any{"token_type": []string{"Bearer"}})},
		{name: "scope an object", strike: withMembers(map[string]any{"scope": map[string]any{}})},
		{name: "expiry of the refresh token zero", strike: withMembers(map[string]any{"refreshTokenExpiry": 0})},
		{name: "refresh token a number", strike: withMembers(map[string]any{"refresh_token": 7, "refreshToken": 7}), meets: func(k kindOfCredential) bool { return !rotates(k) }},
		{name: "a byte order mark", strike: func(c *vendorsim.Conduct, sim *vendorsim.Sim, _ kindOfCredential) {
			c.Fault = vendorsim.Always(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, "\ufeff")
				sim.Late(0)(headless{w}, r)
			})
		}},
		{name: "201", strike: func(c *vendorsim.Conduct, sim *vendorsim.Sim, _ kindOfCredential) {
			c.Fault = vendorsim.Always(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusCreated)
				sim.Late(0)(headless{w}, r)
			})
		}},
		{name: "expiry a string", strike: withExpiry(func(life float64) any { return fmt.Sprint(int(life)) }), meets: statesExpiry, check: livesFor(kindLife)},
		{name: "expiry a fraction", strike: withExpiry(func(life float64) any { return life - 0.5 }), meets: statesExpiry, check: livesFor(kindLife)},
		{name: "expiry a fraction in a string", strike: withExpiry(func(life float64) any { return fmt.Sprintf("%.2f", life-0.25) }), meets: statesExpiry, check: livesFor(kindLife)},
		{name: "expiry in powers of ten", strike: withExpiry(func(life float64) any { return json.RawMessage(fmt.Sprintf("%e", life)) }), meets: statesExpiry, check: livesFor(kindLife)},
		// Where the vendor does not tell, the next source of expiry speaks: what was asked
		// for, default_ttl, or an hour with Kensho's key pairs.
		{name: "expiry null", strike: withExpiry(func(float64) any { return nil }), meets: statesExpiry, check: livesFor(kindLife, time.Hour)},
		{name: "expiry false", strike: withExpiry(func(float64) any { return false }), meets: statesExpiry, check: livesFor(kindLife, time.Hour)},
		{name: "expiry an object", strike: withExpiry(func(float64) any { return map[string]any{"seconds": 7} }), meets: statesExpiry, check: livesFor(kindLife, time.Hour)},
		{name: "expiry empty", strike: withExpiry(func(float64) any { return "" }), meets: statesExpiry, check: livesFor(kindLife, time.Hour)},
		{name: "expiry true", strike: withExpiry(func(float64) any { return true }), meets: statesExpiry, check: livesFor(kindLife, time.Hour)},
		{name: "expiry an object", strike: withExpiry(func(float64) any { return map[string]any{"seconds": 7} }), meets: statesExpiry, check: livesFor(kindLife, time.Hour)},
		// default_ttl takes the place of what is no lifetime.
		{name: "expiry negative", strike: withExpiry(func(life float64) any { return -life }), meets: hasDefault, check: livesFor(kindLife)},
		{name: "expiry zero", strike: withExpiry(func(float64) any { return 0 }), meets: hasDefault, check: livesFor(kindLife)},
		{name: "expiry a word", strike: withExpiry(func(float64) any { return "never" }), meets: hasDefault, check: livesFor(kindLife)},
		// A vendor who promises the moon is believed for ten years, and the mount's maximum
		// holds for the lease. Nobody can know better.
		{name: "expiry huge", strike: withExpiry(func(float64) any { return 1e300 }), meets: statesExpiry, check: livesForever, lies: true},
		{name: "expiry huge, in a string", strike: withExpiry(func(float64) any { return "99999999999999999999" }), meets: statesExpiry, check: livesForever, lies: true},
		{name: "expiry beyond floating point", strike: withExpiry(func(float64) any { return json.RawMessage("1e999") }), meets: statesExpiry, check: livesForever, lies: true},
	}
}

// withMembers has members of an answer be others.
func withMembers(members map[string]any) strike {
	return amending(func(answer map[string]any, _ kindOfCredential) { maps.Copy(answer, members) })
}

// headless is an answer whose status has been written.
type headless struct{ http.ResponseWriter }

func (headless) WriteHeader(int) {}

// livesFor is whether a token has just been issued for one of some lifetimes, give or take
// a second, and is leased for it less the margin.
func livesFor(lifetimes ...time.Duration) func(*vendorCell, *logical.Response) string {
	return func(_ *vendorCell, resp *logical.Response) string {
		for _, life := range lifetimes {
			if life-30*time.Second-resp.Secret.TTL <= time.Second && resp.Secret.TTL <= life-30*time.Second {
				return ""
			}
		}
		return fmt.Sprintf("the lease is for %s", resp.Secret.TTL)
	}
}

func livesForever(c *vendorCell, resp *logical.Response) string {
	const tenYears = 10 * 365 * 24 * time.Hour
	if dies := resp.Data["expire_time"]; dies != time.Now().Add(tenYears).UTC().Format(time.RFC3339) {
		return fmt.Sprintf("the token is said to die at %s", dies)
	}
	if resp.Secret.TTL != c.System.MaxLeaseTTLVal {
		return fmt.Sprintf("the lease is for %s", resp.Secret.TTL)
	}
	return ""
}

// takes has the fault strike, and a token come all the same.
func (c *vendorCell) takes() {
	c.T.Helper()
	last, calls := c.token, c.Exchanges()
	c.strike()
	resp, status, message := c.ask()
	if status != http.StatusOK {
		c.counts.failed.Add(1)
		require.Fail(c.T, "there is a token in the answer", "%d %s", status, message)
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

	// And what it has left behind, such as a refresh token, is good for the next.
	c.recover()
	_, status, message = c.request(logical.UpdateOperation, "refresh/prod", nil)
	require.Equal(c.T, http.StatusOK, status, message)
	resp, status, message = c.request(logical.ReadOperation, "creds/prod", nil)
	require.Equal(c.T, http.StatusOK, status, message)
	if !c.fault.lies {
		c.served(resp)
	}
}
