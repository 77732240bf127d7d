package faults_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

func TestFaultsOfTheVendorCostNothingWhileATokenIsValid(t *testing.T) {
	t.Run("unavailable", func(t *testing.T) {
		playFaults(t, "vendor: unavailable", passingFaults(), func(c *vendorCell) { c.failTwice(unavailable) })
	})
	t.Run("invalid response", func(t *testing.T) {
		playFaults(t, "vendor: invalid response", invalidResponseFaults(), func(c *vendorCell) { c.failTwice(invalidResponse) })
	})
	t.Run("rejected", func(t *testing.T) {
		playFaults(t, "vendor: rejects the credential", rejectingFaults(), func(c *vendorCell) { c.failTwice(rejected) })
	})
}

// failTwice injects the fault for two attempts, and checks that the credential recovers.
func (c *vendorCell) failTwice(o outcome) {
	c.T.Helper()
	c.inject()
	c.failOnce(o)
	for _, call := range c.Sim.Calls() {
		assert.NotContains(c.T, call.URL, "elsewhere.example", "a redirect is not followed")
	}
	if c.fault.losesGrant != nil && c.fault.losesGrant(c.kind) {
		c.restore()
		c.checkLostCredential()
		return
	}
	c.failOnce(o)
	c.restore()
	c.checkRecovered()
}

// failOnce makes an attempt that fails, and checks the response and the status. It then waits
// until the time of the next attempt, and checks that none is made before.
func (c *vendorCell) failOnce(o outcome) {
	c.T.Helper()
	before := c.Exchanges()
	c.failures++
	resp, status, message := c.read()
	if c.hasValidToken() { // the reader waits only briefly for the renewal
		c.checkValidTokenServed(resp, status, message)
	} else {
		c.checkRefused(o, status, message)
	}
	for range 400 { // the attempt may fail after its reader has an answer
		if c.status()["consecutive_failures"] == c.failures {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	failed := time.Now()
	calls := c.Exchanges()
	require.Greater(c.T, calls, before, "the vendor was called")

	next := c.checkStatus(o, failed)
	c.checkReadDuringPause(o, next)
	shortest, _ := c.pauses(o)
	time.Sleep(shortest - 150*time.Millisecond)
	require.NoError(c.T, c.Tick())
	c.checkReadDuringPause(o, next)
	_, status, _ = c.request(logical.ReadOperation, "token/prod", nil)
	assert.Equal(c.T, c.hasValidToken(), status == http.StatusOK)
	assert.Equal(c.T, calls, c.Exchanges(), "no exchange is made until %s", next)
	time.Sleep(time.Until(next))
}

// pauses returns the shortest and the longest time from this failure to the next attempt.
func (c *vendorCell) pauses(o outcome) (shortest, longest time.Duration) {
	pause := o.pause
	if o.jitter > 0 {
		pause <<= c.failures - 1
	}
	jitter := time.Duration(o.jitter * float64(pause))
	// A Retry-After that is a date is in whole seconds.
	return max(pause-jitter, c.fault.retryAfter-time.Second), max(pause+jitter, c.fault.retryAfter)
}

// checkStatus checks that the status shows the failure, and returns its next_attempt_time.
func (c *vendorCell) checkStatus(o outcome, failed time.Time) time.Time {
	c.T.Helper()
	data := c.status()
	state := "failed"
	if c.hasValidToken() {
		state = "degraded"
	}
	assert.Equal(c.T, state, data["state"])
	assert.Contains(c.T, data["last_error"], c.fault.says)
	assert.Equal(c.T, c.failures, data["consecutive_failures"])
	require.Contains(c.T, data, "last_error_time", "the fault must fail the exchange")
	at, err := time.Parse(time.RFC3339, data["last_error_time"].(string))
	require.NoError(c.T, err)
	assert.WithinRange(c.T, at, failed.Add(-time.Second-50*time.Millisecond), failed)
	next, err := time.Parse(time.RFC3339, data["next_attempt_time"].(string))
	require.NoError(c.T, err)
	shortest, longest := c.pauses(o)
	assert.WithinRange(c.T, next, failed.Add(shortest-50*time.Millisecond), failed.Add(longest+time.Second))
	return next
}

// checkReadDuringPause reads a token while the engine backs off, and checks the response.
func (c *vendorCell) checkReadDuringPause(o outcome, next time.Time) {
	c.T.Helper()
	resp, status, message := c.readForLonger()
	if !c.hasValidToken() {
		c.checkRefused(o, status, message)
		if o != rejected {
			assert.Contains(c.T, message, "; next attempt at "+next.Format(time.RFC3339))
		}
		return
	}
	c.checkValidTokenServed(resp, status, message)
	if assert.Len(c.T, resp.Warnings, 1) {
		assert.Contains(c.T, resp.Warnings[0], "the vendor issues no newer token (")
		assert.Contains(c.T, resp.Warnings[0], c.fault.says)
		assert.Contains(c.T, resp.Warnings[0], "; next attempt at "+next.Format(time.RFC3339))
	}
}

func (c *vendorCell) checkValidTokenServed(resp *logical.Response, status int, message string) {
	c.T.Helper()
	if status != http.StatusOK {
		c.counts.failed.Add(1)
		require.Fail(c.T, "guarantee 4: no token was served although one is valid", "%d %s", status, message)
	}
	assert.Equal(c.T, c.token, engine.TokenOf(resp), "the valid token is served")
	c.served(resp)
}

func (c *vendorCell) checkRefused(o outcome, status int, message string) {
	c.T.Helper()
	assert.Equal(c.T, o.status, status, message)
	assert.Contains(c.T, message, o.says)
	assert.Contains(c.T, message, c.fault.says)
	if o == rejected {
		assert.Contains(c.T, message, "; write a new one to "+c.config(), "guarantee 5: the error names the fix")
	}
}

// checkRecovered checks that a read makes an exchange and gets a new token without a warning.
func (c *vendorCell) checkRecovered() {
	c.T.Helper()
	last, calls := c.token, c.Exchanges()
	resp, status, message := c.read()
	if status != http.StatusOK {
		c.counts.failed.Add(1)
		require.Fail(c.T, "no token was served although the vendor has recovered", "%d %s", status, message)
	}
	assert.Empty(c.T, resp.Warnings)
	assert.NotEqual(c.T, last, engine.TokenOf(resp))
	assert.Greater(c.T, c.Exchanges(), calls)
	c.served(resp)
	data := c.status()
	assert.Equal(c.T, "ok", data["state"])
	assert.Equal(c.T, 0, data["consecutive_failures"])
	assert.NotContains(c.T, data, "next_attempt_time")

	calls = c.Exchanges()
	resp, _, _ = c.request(logical.ReadOperation, "creds/prod", nil)
	assert.Equal(c.T, c.token, engine.TokenOf(resp))
	assert.Equal(c.T, calls, c.Exchanges(), "the new token is cached")
}

// checkLostCredential checks a credential whose rotated refresh token was in an answer that never
// arrived. No engine can avoid that loss, unless the vendor accepts a second use of the old token.
// The engine must serve the valid token until it expires, report the rejection with the path to
// write to, and work again after that write.
func (c *vendorCell) checkLostCredential() {
	c.T.Helper()
	c.fault.says = ""
	resp, status, message := c.read()
	if c.hasValidToken() {
		c.checkValidTokenServed(resp, status, message)
		resp, status, message = c.readForLonger()
		c.checkValidTokenServed(resp, status, message)
		assert.NotEmpty(c.T, resp.Warnings)
	} else {
		c.checkRefused(rejected, status, message)
	}
	assert.Contains(c.T, []string{"degraded", "failed"}, c.status()["state"])
	c.counts.lost.Add(1)

	c.kind.register(c.Sim, nextOddToken)
	c.write(map[string]any{"refresh_token": nextOddToken})
	last := c.token
	resp, status, message = c.request(logical.ReadOperation, "creds/prod", nil)
	require.Equal(c.T, http.StatusOK, status, message)
	assert.NotEqual(c.T, last, engine.TokenOf(resp))
	c.served(resp)
	assert.Equal(c.T, "ok", c.status()["state"])
	for range 2 { // the second refresh uses the rotated refresh token
		_, status, message = c.request(logical.UpdateOperation, "refresh/prod", nil)
		require.Equal(c.T, http.StatusOK, status, message)
	}
}
