//go:build e2e

package e2e

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// A consenting mount has credentials whose refresh tokens people's consents yield.
type consenting struct {
	*mount
	browser context.Context
}

// newConsenting returns a mount whose callback browsers reach at a URL.
func newConsenting(t *testing.T, m *mount, callback string) *consenting {
	t.Helper()
	m.addConsentClient(callback)
	return &consenting{m, newBrowser(t)}
}

// addConsentClient adds the client that people consent to.
func (m *mount) addConsentClient(callback string) {
	m.sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: "saas", Secret: "saas-client-secret-0123", Scopes: []string{"openid", "read"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants:      []string{vendorsim.RefreshTokenGrant, vendorsim.AuthorizationCodeGrant, vendorsim.DeviceCodeGrant},
		RedirectURI: callback, Rotate: true,
	})
}

// add stores a credential that a person must consent to.
func (c *consenting) add(name, callback string) {
	c.t.Helper()
	c.write("config/oauth2/"+name, map[string]any{
		"issuer": vendorsim.URL(c.base, vendorsim.OAuthIssuer), "client_id": "saas", "client_secret": "saas-client-secret-0123",
		"auth_style": "client_secret_basic", "grant_type": "refresh_token", "scope": "openid,read", "redirect_uri": callback,
	})
}

// begin returns the URL for the browser of a person.
func (c *consenting) begin(name string) string {
	c.t.Helper()
	secret, err := c.root.Logical().WriteWithContext(c.t.Context(), c.path+"/authorize/"+name, map[string]any{"claims": "email"})
	require.NoError(c.t, err)
	return secret.Data["authorization_url"].(string)
}

// newBrowser starts a browser, without its connections to its makers.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	require.NoError(t, err)
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(2*time.Minute),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-background-networking", true))
	allocator, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	browser, closeBrowser := chromedp.NewContext(allocator)
	t.Cleanup(closeBrowser)
	require.NoError(t, chromedp.Do(browser))
	return browser
}

// A person has a window of a browser with cookies of its own.
type person struct {
	*testing.T
	window context.Context
}

func (c *consenting) person() *person {
	window, cancel := chromedp.NewContext(c.browser, chromedp.WithNewBrowserContext())
	c.t.Cleanup(cancel)
	require.NoError(c.t, chromedp.Do(window)) // without a time limit, which would be that of the browser
	window, cancel = context.WithTimeout(window, 5*time.Minute)
	c.t.Cleanup(cancel)
	return &person{c.t, window}
}

// decide opens the vendor's page, logs in and clicks a button, and returns the heading of the page on which
// the browser ends.
func (p *person) decide(at, email, button string) string {
	p.Helper()
	require.NoError(p, chromedp.Do(p.window, chromedp.Navigate(at), chromedp.SetValue(`input[name="person"]`, email), chromedp.Click(button)))
	return p.heading()
}

// heading waits for the page of callback, and returns its heading.
func (p *person) heading() string {
	p.Helper()
	require.NoError(p, chromedp.Do(p.window, chromedp.WaitVisible("main h1")))
	text, err := chromedp.Run(p.window, chromedp.Text("main h1"))
	require.NoError(p, err)
	return text
}

func (p *person) evaluate(script string) string {
	p.Helper()
	text, err := chromedp.Run(p.window, chromedp.Evaluate[string](script))
	require.NoError(p, err)
	return text
}

func TestAPersonConsentsInARealBrowser(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartDev)
	m := own.enable(t, "kensho")
	callback := m.server.Address + "/v1/kensho/callback"
	c := newConsenting(t, m, callback)
	c.add("prod", callback)

	alice := c.person()
	assert.Equal(t, "Consent was not given", alice.decide(c.begin("prod"), "alice@example.com", "#refuse"))
	assert.Contains(t, alice.evaluate(`document.querySelector("#reason").textContent`), "The person refused.")
	assert.Equal(t, "refused", c.read("authorize/prod").Data["state"])

	at := c.begin("prod")
	_, err := own.root.Sys().ReloadPluginWithContext(t.Context(), &api.ReloadPluginInput{Plugin: pluginName})
	require.NoError(t, err)
	assert.Equal(t, "Connected", alice.decide(at, "alice@example.com", "#allow"))
	assert.Equal(t, "rgb(11, 107, 46)", alice.evaluate(`getComputedStyle(document.querySelector("h1")).color`), "the policy allows the page's own style")
	assert.Equal(t, "0", alice.evaluate(`String(document.scripts.length)`))
	assert.Equal(t, map[string]any{"email": "alice@example.com"}, c.read("authorize/prod").Data["claims"])
	require.NoError(t, chromedp.Do(alice.window, chromedp.Reload()))
	assert.Equal(t, "This link was used already", alice.heading(), "reloaded")
	c.creds("prod")

	d := m.deploy("app")
	cmd := m.server.Command(t.Context(), "", "agent", "-config=file.hcl", "-exit-after-auth")
	cmd.Dir = d.dir
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, string(output))
	token, err := os.ReadFile(filepath.Join(d.dir, "kensho-token"))
	require.NoError(t, err)
	assert.True(t, m.sim.Accepts(string(token)))
	assert.Empty(t, m.sim.Violations())
}

// Vault is behind a proxy that adds a prefix to its paths, and the mount is nested.
func TestTwoPeopleConsentAtOnceBehindAProxy(t *testing.T) {
	t.Parallel()
	m := enable(t, "team/eu/saas")
	target, err := url.Parse(m.server.Address)
	require.NoError(t, err)
	proxy := httptest.NewServer(http.StripPrefix("/vault", httputil.NewSingleHostReverseProxy(target)))
	t.Cleanup(proxy.Close)
	callback := proxy.URL + "/vault/v1/team/eu/saas/callback"
	c := newConsenting(t, m, callback)
	people := map[string]*person{"alice+eu@example.com": c.person(), "bob@example.com": c.person()}
	begun := map[string]string{}
	for name := range people {
		c.add(name, callback)
		begun[name] = c.begin(name)
	}
	tokens := map[string]bool{}
	for name, p := range people {
		assert.Equal(t, "Connected", p.decide(begun[name], name, "#allow"))
		assert.Equal(t, name, p.evaluate(`document.querySelector("#name").textContent`))
	}
	for name := range people {
		assert.Equal(t, map[string]any{"email": name}, c.read("authorize/" + name).Data["claims"])
		tokens[c.creds(name).Data["access_token"].(string)] = true
	}
	assert.Len(t, tokens, 2)
	assert.Empty(t, m.sim.Violations())

	// The mount's answer can have headers in addition to the page's own policy.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, callback, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, http.StatusBadRequest, resp.StatusCode)
	assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	assert.Equal(t, "text/html; charset=utf-8", resp.Header.Get("Content-Type"))
}
