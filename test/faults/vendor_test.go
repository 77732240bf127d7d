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

func TestFaultsOfTheVendorCostNothingWhileATokenLives(t *testing.T) {
	t.Run("unavailable", func(t *testing.T) {
		playFaults(t, "vendor: unavailable", passingFaults(), func(c *vendorCell) { c.fails(unavailable) })
	})
	t.Run("invalid response", func(t *testing.T) {
		playFaults(t, "vendor: invalid response", invalidResponseFaults(), func(c *vendorCell) { c.fails(invalidResponse) })
	})
	t.Run("rejected", func(t *testing.T) {
		playFaults(t, "vendor: rejects the credential", rejectingFaults(), func(c *vendorCell) { c.fails(rejected) })
	})
}

// fails has the fault strike, twice, and the vendor recover.
func (c *vendorCell) fails(o outcome) {
	c.T.Helper()
	c.strike()
	c.failsOnce(o)
	for _, call := range c.Sim.Calls() {
		assert.NotContains(c.T, call.URL, "elsewhere.example", "a redirect is not followed")
	}
	if c.fault.loses != nil && c.fault.loses(c.kind) {
		c.recover()
		c.mendsTheLost()
		return
	}
	c.failsOnce(o)
	c.recover()
	c.isWell()
}

// failsOnce makes an attempt that fails, looks at what there is to be seen of it, and
// waits until the next attempt may be made, to find that none is made before.
func (c *vendorCell) failsOnce(o outcome) {
	c.T.Helper()
	before := c.Exchanges()
	c.failures++
	resp, status, message := c.ask()
	if c.alive() { // who waits for a newer one for a short time alone
		c.servesTheGoodOne(resp, status, message)
	} else {
		c.refuses(o, status, message)
	}
	for range 400 { // until the attempt has failed, if its reader has not waited for that
		if c.status()["consecutive_failures"] == c.failures {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	failed := time.Now()
	calls := c.Exchanges()
	require.Greater(c.T, calls, before, "the vendor was called")

	next := c.showsTheFailure(o, failed)
	c.answersTheNext(o, next)
	shortest, _ := c.pauses(o)
	time.Sleep(shortest - 150*time.Millisecond)
	require.NoError(c.T, c.Tick())
	c.answersTheNext(o, next)
	_, status, _ = c.request(logical.ReadOperation, "token/prod", nil)
	assert.Equal(c.T, c.alive(), status == http.StatusOK)
	assert.Equal(c.T, calls, c.Exchanges(), "the vendor is left alone until %s, whoever asks", next)
	time.Sleep(time.Until(next))
}

// pauses are the shortest and the longest time from this failure to the next attempt.
func (c *vendorCell) pauses(o outcome) (shortest, longest time.Duration) {
	pause := o.pause
	if o.jitter > 0 {
		pause <<= c.failures - 1
	}
	jitter := time.Duration(o.jitter * float64(pause))
	// A wish that is a date is cut to the second.
	return max(pause-jitter, c.fault.retryAfter-time.Second), max(pause+jitter, c.fault.retryAfter)
}

// showsTheFailure has status tell of the failure, and returns when it says that the next
// attempt is.
func (c *vendorCell) showsTheFailure(o outcome, failed time.Time) time.Time {
	c.T.Helper()
	data := c.status()
	state := "failed"
	if c.alive() {
		state = "degraded"
	}
	assert.Equal(c.T, state, data["state"])
	assert.Contains(c.T, data["last_error"], c.fault.says)
	assert.Equal(c.T, c.failures, data["consecutive_failures"])
	at, err := time.Parse(time.RFC3339, data["last_error_time"].(string))
	require.NoError(c.T, err)
	assert.WithinRange(c.T, at, failed.Add(-time.Second-50*time.Millisecond), failed)
	next, err := time.Parse(time.RFC3339, data["next_attempt_time"].(string))
	require.NoError(c.T, err)
	shortest, longest := c.pauses(o)
	assert.WithinRange(c.T, next, failed.Add(shortest-50*time.Millisecond), failed.Add(longest+time.Second))
	return next
}

// answersTheNext reads a token while the vendor is left alone.
func (c *vendorCell) answersTheNext(o outcome, next time.Time) {
	c.T.Helper()
	resp, status, message := c.press()
	if !c.alive() {
		c.refuses(o, status, message)
		if o != rejected {
			assert.Contains(c.T, message, "; next attempt at "+next.Format(time.RFC3339))
		}
		return
	}
	c.servesTheGoodOne(resp, status, message)
	if assert.Len(c.T, resp.Warnings, 1) {
		assert.Contains(c.T, resp.Warnings[0], "the vendor issues no newer token (")
		assert.Contains(c.T, resp.Warnings[0], c.fault.says)
		assert.Contains(c.T, resp.Warnings[0], "; next attempt at ")
	}
}

func (c *vendorCell) servesTheGoodOne(resp *logical.Response, status int, message string) {
	c.T.Helper()
	if status != http.StatusOK {
		c.counts.failed.Add(1)
		require.Fail(c.T, "guarantee 4: a reader got nothing though there is a good token", "%d %s", status, message)
	}
	assert.Equal(c.T, c.token, engine.TokenOf(resp), "the good token")
	c.served(resp)
}

func (c *vendorCell) refuses(o outcome, status int, message string) {
	c.T.Helper()
	assert.Equal(c.T, o.status, status, message)
	assert.Contains(c.T, message, o.says)
	assert.Contains(c.T, message, c.fault.says)
	if o == rejected {
		assert.Contains(c.T, message, "; write a new one to "+c.config(), "guarantee 5: what to do about it")
	}
}

// isWell reads a token that is fresh, and finds nothing to complain of.
func (c *vendorCell) isWell() {
	c.T.Helper()
	last, calls := c.token, c.Exchanges()
	resp, status, message := c.ask()
	if status != http.StatusOK {
		c.counts.failed.Add(1)
		require.Fail(c.T, "a reader got nothing though the vendor is well", "%d %s", status, message)
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
	assert.Equal(c.T, calls, c.Exchanges(), "once in a token's life")
}

// mendsTheLost has a credential that cannot be exchanged any more be mended. Its refresh
// token was good for one exchange, which the vendor has done: the one that took its place
// went away with the answer, and neither has come down to anybody. No engine can help
// that, short of a vendor who forgives a second use. What it can do is to say so, by the
// name of what to write to, and to serve the good token for as long as there is one.
func (c *vendorCell) mendsTheLost() {
	c.T.Helper()
	c.fault.says = ""
	resp, status, message := c.ask()
	if c.alive() {
		c.servesTheGoodOne(resp, status, message)
		resp, status, message = c.press()
		c.servesTheGoodOne(resp, status, message)
		assert.NotEmpty(c.T, resp.Warnings)
	} else {
		c.refuses(rejected, status, message)
	}
	assert.Contains(c.T, []string{"degraded", "failed"}, c.status()["state"])
	c.counts.gone.Add(1)

	c.kind.know(c.Sim, nextOddToken)
	c.write(map[string]any{"refresh_token": nextOddToken})
	last := c.token
	resp, status, message = c.request(logical.ReadOperation, "creds/prod", nil)
	require.Equal(c.T, http.StatusOK, status, message)
	assert.NotEqual(c.T, last, engine.TokenOf(resp))
	c.served(resp)
	assert.Equal(c.T, "ok", c.status()["state"])
	for range 2 { // with what the vendor gives in its place, too
		_, status, message = c.request(logical.UpdateOperation, "refresh/prod", nil)
		require.Equal(c.T, http.StatusOK, status, message)
	}
}
