//go:build e2e

package e2e

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/test/internal/openid"
)

const alice, aliceEU, bob = "alice@example.com", "alice+eu@example.com", "bob@example.com"

// A consenting mount has credentials to which people consent at a real OpenID provider.
type consenting struct {
	*mount
	provider *openid.Provider
	callback string // the URL of callback, as browsers reach it
}

// newConsenting returns a mount that browsers reach at an address of Vault. The provider's access tokens have the
// given lifetime.
func newConsenting(t *testing.T, m *mount, address string, lifetime time.Duration) *consenting {
	t.Helper()
	c := &consenting{mount: m, callback: address + "/v1/" + m.path + "/callback"}
	c.provider = openid.Start(openid.Config{
		ClientID: "saas", ClientSecret: "saas-client-secret-0123", RedirectURI: c.callback,
		People: []string{alice, aliceEU, bob}, Lifetime: lifetime,
	})
	t.Cleanup(func() {
		c.provider.Close()
		m.outside.add(c.provider.Secrets()...) // of which none may have left the server
	})
	return c
}

// add stores a credential that a person must consent to.
func (c *consenting) add(name string) {
	c.t.Helper()
	c.write("config/oauth2/"+name, map[string]any{
		"issuer": c.provider.Issuer, "client_id": "saas", "client_secret": "saas-client-secret-0123",
		"grant_type": "refresh_token", "scope": "openid,email,offline_access", "redirect_uri": c.callback,
		"request_timeout": "1m", // for a test that holds the answer
	})
}

// begin returns the URL for the browser of a person.
func (c *consenting) begin(name string) string {
	c.t.Helper()
	secret, err := c.root.Logical().WriteWithContext(c.t.Context(), c.path+"/authorize/"+name, map[string]any{"claims": "email"})
	require.NoError(c.t, err)
	return secret.Data["authorization_url"].(string)
}

// state returns the state of the consent to a credential.
func (c *consenting) state(name string) any {
	c.t.Helper()
	secret, err := c.root.Logical().ReadWithContext(c.t.Context(), c.path+"/authorize/"+name)
	require.NoError(c.t, err)
	return secret.Data["state"]
}

// assertConnected checks that a credential is connected to a person, and yields a token of that person.
func (c *consenting) assertConnected(name, email string) {
	c.t.Helper()
	assert.Equal(c.t, "connected", c.state(name))
	status, err := c.root.Logical().ReadWithContext(c.t.Context(), c.path+"/status/"+name)
	require.NoError(c.t, err)
	assert.Equal(c.t, map[string]any{"email": email}, status.Data["consent"].(map[string]any)["claims"])
	creds, err := c.root.Logical().ReadWithContext(c.t.Context(), c.path+"/creds/"+name)
	require.NoError(c.t, err)
	owner, err := c.provider.Email(c.t.Context(), creds.Data["access_token"].(string))
	require.NoError(c.t, err)
	assert.Equal(c.t, email, owner)
}

// exchanges returns how many authorization codes the engine has exchanged.
func (c *consenting) exchanges() int { return c.provider.Exchanges("authorization_code") }

func TestAPersonConsentsAndAgentRendersTheToken(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartDev)
	m := own.enable(t, "kensho")
	c := newConsenting(t, m, m.server.Address, agentTokenLifetime)
	c.add("prod")
	p := newPerson(t, alice)

	p.open(c.begin("prod"), "a-wrong-password")
	p.do(chromedp.WaitVisible(`//p[contains(., "password wrong")]`))
	assert.Equal(t, "pending", c.state("prod"))
	p.enter(openid.Password)
	p.click("#allow", "Connected", http.StatusOK)
	assert.Equal(t, "rgb(11, 107, 46)", p.evaluate(`getComputedStyle(document.querySelector("h1")).color`), "the policy allows the page's own style")
	assert.Equal(t, "0", p.evaluate(`String(document.scripts.length)`))
	c.assertConnected("prod", alice)
	assert.Equal(t, 1, c.exchanges())

	d := m.deploy("app")
	d.run("agent", "-config=file.hcl")
	rendered := map[string]bool{}
	for deadline := time.Now().Add(patience); len(rendered) < 2; time.Sleep(100 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "Agent has rendered %d tokens", len(rendered))
		token, err := os.ReadFile(filepath.Join(d.dir, "kensho-token"))
		if os.IsNotExist(err) || rendered[string(token)] {
			continue
		}
		require.NoError(t, err)
		owner, err := c.provider.Email(t.Context(), string(token))
		require.NoError(t, err)
		assert.Equal(t, alice, owner)
		rendered[string(token)] = true
	}
	assert.Equal(t, 1, c.exchanges())
}

func TestAPersonRefusesAndThenConsents(t *testing.T) {
	t.Parallel()
	c := newConsenting(t, enable(t, "saas"), w.server.Address, time.Hour)
	c.add(alice)
	p := newPerson(t, alice)

	p.logIn(c.begin(alice))
	p.click("#refuse", "Consent was not given", http.StatusForbidden)
	assert.Contains(t, p.text("#reason"), "The person refused.")
	assert.Equal(t, "refused", c.state(alice))
	assert.Zero(t, c.exchanges())
	p.picture("consent-refused")

	p.logIn(c.begin(alice))
	p.click("#allow", "Connected", http.StatusOK)
	c.assertConnected(alice, alice)
	p.picture("consent-connected")
}

// The page comes again with another status, and the code is exchanged once.
func TestABrowserThatReturnsAgainChangesNothing(t *testing.T) {
	t.Parallel()
	c := newConsenting(t, enable(t, "again"), w.server.Address, time.Hour)
	c.add(alice)
	p := newPerson(t, alice)
	p.logIn(c.begin(alice))
	p.click("#allow", "Connected", http.StatusOK)

	p.do(chromedp.Reload())
	p.endsOn("This link was used already", http.StatusConflict)
	p.do(chromedp.NavigateBack(), chromedp.WaitVisible("#allow"), chromedp.NavigateForward())
	p.endsOn("This link was used already", http.StatusConflict)
	assert.Equal(t, alice, p.text("#name"))
	c.assertConnected(alice, alice)
	assert.Equal(t, 1, c.exchanges())
}

// A front is a reverse proxy that has Vault at a prefix.
type front struct {
	*httptest.Server
	returns atomic.Int64 // requests for callback
}

func newFront(t *testing.T, vault, prefix string) *front {
	t.Helper()
	target, err := url.Parse(vault)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // a browser may drop a request
	to := http.StripPrefix(prefix, proxy)
	f := &front{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if filepath.Base(r.URL.Path) == "callback" {
			f.returns.Add(1)
		}
		to.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

// The second click comes while the engine exchanges the code of the first. The browser drops the first request.
func TestADoubleClickIsOneExchange(t *testing.T) {
	t.Parallel()
	f := newFront(t, w.server.Address, "")
	c := newConsenting(t, enable(t, "twice"), f.URL, time.Hour)
	c.add(alice)
	p := newPerson(t, alice)
	p.logIn(c.begin(alice))
	release := c.provider.Hold()
	t.Cleanup(release)
	box, err := chromedp.Run(p.window, chromedp.Dimensions("#allow"))
	require.NoError(t, err)
	click := chromedp.MouseClickXY(box.Content[0], box.Content[1])
	p.do(click)
	require.Eventually(t, func() bool { return c.exchanges() == 1 }, patience, 10*time.Millisecond)
	p.do(click)
	require.Eventually(t, func() bool { return f.returns.Load() >= 2 }, patience, 10*time.Millisecond)
	release()
	p.endsOn("This link was used already", http.StatusConflict)
	c.assertConnected(alice, alice)
	assert.Equal(t, 1, c.exchanges())
}

// Vault is behind a proxy that adds a prefix to its paths, and the mount is nested.
func TestTwoPeopleConsentAtOnceBehindAProxy(t *testing.T) {
	t.Parallel()
	f := newFront(t, w.server.Address, "/vault")
	c := newConsenting(t, enable(t, "team/a/tokenbroker"), f.URL+"/vault", time.Hour)
	people := []*person{newPerson(t, aliceEU), newPerson(t, bob)}
	for _, p := range people {
		c.add(p.email)
		p.logIn(c.begin(p.email))
	}
	var clicks sync.WaitGroup
	for _, p := range people {
		clicks.Go(func() { assert.NoError(t, chromedp.Do(p.window, chromedp.Click("#allow"))) })
	}
	clicks.Wait()
	for _, p := range people {
		p.endsOn("Connected", http.StatusOK)
		assert.Equal(t, p.email, p.text("#name"))
		c.assertConnected(p.email, p.email)
	}
	assert.Equal(t, 2, c.exchanges())

	// The mount's answer can have headers in addition to the page's own policy.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.callback, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, http.StatusBadRequest, resp.StatusCode)
	assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	assert.Equal(t, "text/html; charset=utf-8", resp.Header.Get("Content-Type"))
}

// No browser reaches this Vault, so that people paste the addresses. A code of another person yields nothing.
func TestAnAddressIsPastedFromTheBrowser(t *testing.T) {
	t.Parallel()
	unreachable := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(unreachable.Close)
	c := newConsenting(t, enable(t, "pasted-address"), unreachable.URL, time.Hour)
	returned := func(email string) *url.URL {
		c.add(email)
		p := newPerson(t, email)
		p.logIn(c.begin(email))
		p.do(chromedp.Click("#allow"))
		address, err := url.Parse(p.address(c.callback))
		require.NoError(t, err)
		return address
	}
	ofAlice, ofBob := returned(alice), returned(bob)

	mixed := *ofAlice
	mixed.RawQuery = url.Values{"state": {ofAlice.Query().Get("state")}, "code": {ofBob.Query().Get("code")}}.Encode()
	_, err := c.root.Logical().WriteWithContext(t.Context(), c.path+"/authorize/"+alice, map[string]any{"redirect": mixed.String()})
	assertStatus(t, http.StatusBadGateway, "invalid_grant", err)
	assert.Equal(t, "failed", c.state(alice))

	c.write("authorize/"+bob, map[string]any{"redirect": ofBob.String()})
	c.assertConnected(bob, bob)
}

// A consent that has begun outlives the plugin and the server.
func TestRestartsBetweenConsentAndCallback(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartRaft)
	c := newConsenting(t, own.enable(t, "saas"), own.server.Address, time.Hour)
	for _, name := range []string{alice, bob} {
		c.add(name)
	}

	p := newPerson(t, alice)
	p.logIn(c.begin(alice))
	killed, err := own.server.KillPlugins()
	require.NoError(t, err)
	require.Equal(t, 1, killed)
	awaitRead(t, own.root, "saas/status/"+alice) // until the server has noticed
	p.click("#allow", "Connected", http.StatusOK)
	c.assertConnected(alice, alice)

	p = newPerson(t, bob)
	p.logIn(c.begin(bob))
	require.NoError(t, own.server.Kill())
	p.do(chromedp.Click("#allow"))
	p.address(c.callback)
	require.NoError(t, own.server.Start(t.Context()))
	p.do(chromedp.Reload())
	p.endsOn("Connected", http.StatusOK)
	c.assertConnected(bob, bob)
	assert.Equal(t, 2, c.exchanges())
}
