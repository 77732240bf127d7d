//go:build e2e

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/test/internal/chromium"
	"vault-plugin-secrets-tokenbroker/test/internal/openid"
)

// theBrowser is started by the first test that needs it.
var theBrowser struct {
	sync.Mutex
	*chromium.Browser
}

// sharedBrowser returns the browser that the tests share.
func sharedBrowser(t *testing.T) *chromium.Browser {
	t.Helper()
	theBrowser.Lock()
	defer theBrowser.Unlock()
	if theBrowser.Browser == nil {
		var err error
		theBrowser.Browser, err = chromium.Start(filepath.Join(os.Getenv("GOTMPDIR"), "chromium"))
		require.NoError(t, err)
	}
	return theBrowser.Browser
}

// closeBrowser ends the browser, if it has been started.
func closeBrowser() {
	theBrowser.Lock()
	defer theBrowser.Unlock()
	if theBrowser.Browser != nil {
		theBrowser.Close()
	}
}

// A person has a window of the browser with cookies of its own. The address is also the name at the provider.
type person struct {
	*testing.T
	email  string
	window context.Context
}

// newPerson opens a window, which is closed when the test ends.
func newPerson(t *testing.T, email string) *person {
	t.Helper()
	window, cancel := chromedp.NewContext(sharedBrowser(t), chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(window)) // without a time limit, which would be that of the browser
	window, cancel = context.WithTimeout(window, patience)
	t.Cleanup(cancel)
	return &person{t, email, window}
}

func (p *person) do(steps ...chromedp.Action[chromedp.Void]) {
	p.Helper()
	require.NoError(p, chromedp.Do(p.window, steps...))
}

// text waits for an element of the page, and returns its text.
func (p *person) text(selector string) string {
	p.Helper()
	text, err := chromedp.Run(p.window, chromedp.Text(selector))
	require.NoError(p, err)
	return text
}

func (p *person) evaluate(script string) string {
	p.Helper()
	text, err := chromedp.Run(p.window, chromedp.Evaluate[string](script))
	require.NoError(p, err)
	return text
}

// open opens the provider's login page, and enters the address and a password.
func (p *person) open(at, password string) {
	p.Helper()
	p.do(chromedp.Navigate(at))
	p.enter(password)
}

// enter logs in on the page that is shown.
func (p *person) enter(password string) {
	p.Helper()
	p.do(chromedp.SetValue("#username", p.email), chromedp.SetValue("#password", password), chromedp.Click(`button[type="submit"]`))
}

// logIn opens the provider's login page, and logs in. The provider then asks for consent.
func (p *person) logIn(at string) {
	p.Helper()
	p.open(at, openid.Password)
	p.do(chromedp.WaitVisible("#allow"))
}

// click clicks a button of the provider's page, and checks the page of callback on which the browser ends.
func (p *person) click(button, heading string, status int) {
	p.Helper()
	p.do(chromedp.Click(button))
	p.endsOn(heading, status)
}

// endsOn waits for the page of callback, and checks its heading and status.
func (p *person) endsOn(heading string, status int) {
	p.Helper()
	assert.Equal(p, heading, p.text("main h1"))
	assert.Equal(p, status, p.status())
}

// status returns the status with which the page came.
func (p *person) status() int {
	p.Helper()
	status, err := chromedp.Run(p.window, chromedp.Evaluate[int](`performance.getEntriesByType("navigation")[0].responseStatus`))
	require.NoError(p, err)
	return status
}

// address waits until the address bar has an address that begins with prefix, whatever the page, and returns it.
func (p *person) address(prefix string) (address string) {
	p.Helper()
	require.Eventually(p, func() bool {
		history, err := chromedp.Run(p.window, chromedp.NavigationEntries())
		if err == nil {
			address = history.Entries[history.CurrentIndex].URL
		}
		return err == nil && strings.HasPrefix(address, prefix)
	}, patience, 50*time.Millisecond)
	return address
}

// picture takes a picture of the page for the documentation, and writes it to the folder that E2E_SCREENSHOTS
// names, if it does (`make screenshots`).
func (p *person) picture(name string) {
	p.Helper()
	p.do(chromedp.EmulateViewport(640, 320))
	content, err := chromedp.Run(p.window, chromedp.CaptureScreenshot())
	require.NoError(p, err)
	require.Less(p, len(content), 40_000)
	if folder := os.Getenv("E2E_SCREENSHOTS"); folder != "" {
		require.NoError(p, os.WriteFile(filepath.Join(folder, name+".png"), content, 0o644))
	}
}
