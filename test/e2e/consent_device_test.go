//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/test/internal/openid"
)

// beginOnDevice begins a consent on another device, and returns the response.
func (c *consenting) beginOnDevice(name string) map[string]any {
	c.t.Helper()
	secret, err := c.root.Logical().WriteWithContext(c.t.Context(), c.path+"/authorize/"+name, map[string]any{"flow": "device", "claims": "email"})
	require.NoError(c.t, err)
	return secret.Data
}

// decide logs in on the provider's page for devices, and clicks a button.
func (p *person) decide(button string) {
	p.Helper()
	p.enter(openid.Password)
	p.do(chromedp.Click(button), chromedp.WaitVisible(`//*[contains(., "You can now return to the device")]`))
}

// One person enters the code, and another one opens the address that has it.
func TestPeopleDecideOnAnotherDevice(t *testing.T) {
	t.Parallel()
	c := newConsenting(t, enable(t, "devices"), w.server.Address, time.Hour)
	c.add(alice)
	c.add(bob)

	begun, p := c.beginOnDevice(alice), newPerson(t, alice)
	p.do(chromedp.Navigate(begun["verification_uri"].(string)),
		chromedp.SetValue("#user_code", begun["user_code"].(string)), chromedp.Click(`button[type="submit"]`))
	p.decide("button.green")

	begun, p = c.beginOnDevice(bob), newPerson(t, bob)
	p.do(chromedp.Navigate(begun["verification_uri_complete"].(string)))
	p.decide("button.red")

	for name, state := range map[string]string{alice: "connected", bob: "refused"} { // at the provider's interval of 5 s
		require.Eventually(t, func() bool { return c.state(name) != "pending" }, patience, 100*time.Millisecond)
		assert.Equal(t, state, c.state(name))
	}
	c.assertConnected(alice, alice)
}
