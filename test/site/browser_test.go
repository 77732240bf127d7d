//go:build e2e

package site

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
	"vault-plugin-secrets-tokenbroker/test/internal/chromium"
)

// The widths of a phone and of a desktop, in CSS pixels.
const phone, desktop = 360, 1280

// patience is the most time that a test may spend on a page.
const patience = 5 * time.Minute

// window is a window of a browser, and a server of the site.
type window struct {
	*testing.T
	browser         *chromium.Browser
	context.Context // for the page that is open
	address         string
	console         *console
}

// console collects the errors that a page reports.
type console struct {
	sync.Mutex
	errors []string
}

func (c *console) listen(event any) {
	c.Lock()
	defer c.Unlock()
	switch event := event.(type) {
	case *runtime.EventExceptionThrown:
		c.errors = append(c.errors, event.ExceptionDetails.Text)
	case *runtime.EventConsoleAPICalled:
		if event.Type == runtime.ConsoleAPICalledTypeError || event.Type == runtime.ConsoleAPICalledTypeWarning {
			c.errors = append(c.errors, string(event.Type))
		}
	case *log.EventEntryAdded:
		c.errors = append(c.errors, event.Entry.Text+" "+event.Entry.URL)
	}
}

// openWindow serves the site below a path, as GitHub Pages does, and opens a window of a browser.
func openWindow(t *testing.T) *window {
	t.Helper()
	folder := os.Getenv("SITE")
	require.NotEmpty(t, folder, "run make site-test, which sets SITE")
	server := httptest.NewServer(http.StripPrefix("/project/", http.FileServer(http.Dir(folder))))
	t.Cleanup(server.Close)
	// The browser's processes write after the end of the first, which would fail the cleanup of t.TempDir.
	data, err := os.MkdirTemp("", "site-") //nolint:usetesting // see above
	require.NoError(t, err)
	require.NoError(t, process.RemoveAtExit(data))
	browser, err := chromium.Start(data)
	require.NoError(t, err)
	t.Cleanup(browser.Close)
	w := &window{t, browser, nil, server.URL + "/project/", &console{}}
	require.NoError(t, chromedp.Listen(browser, w.console.listen))
	return w
}

// open opens a page of the site.
func (w *window) open(page string, steps ...chromedp.Action[chromedp.Void]) {
	w.Helper()
	limited, cancel := context.WithTimeout(w.browser, patience)
	w.Cleanup(cancel)
	w.Context = limited
	w.do(append(steps, chromedp.Navigate(w.address+page))...)
}

func (w *window) do(steps ...chromedp.Action[chromedp.Void]) {
	w.Helper()
	require.NoError(w, chromedp.Do(w.Context, steps...))
}

func evaluate[T any](w *window, script string) T {
	w.Helper()
	value, err := chromedp.Run(w.Context, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	require.NoError(w, err)
	return value
}

// picture writes a picture of the window to the folder that SITE_PICTURES names, if it does.
func (w *window) picture(page string, width string) {
	w.Helper()
	folder := os.Getenv("SITE_PICTURES")
	if folder == "" {
		return
	}
	content, err := chromedp.Run(w.Context, chromedp.CaptureScreenshot())
	require.NoError(w, err)
	name := strings.ReplaceAll(strings.TrimSuffix(page, path.Ext(page)), "/", "-") + "-" + width + ".png"
	require.NoError(w, os.WriteFile(filepath.Join(folder, name), content, 0o600))
}

// brokenImages loads the images, also those that are not in the window, and has the addresses of those
// that cannot be shown.
const brokenImages = `Promise.all([...document.images].map((image) => {
	image.loading = "eager";
	return image.decode().then(() => [], () => [image.src]);
})).then((broken) => broken.flat())`

// assertNothingFromOutside asserts that the page has loaded only files of the site, without an error.
func (w *window) assertNothingFromOutside(page string) {
	w.Helper()
	for _, loaded := range evaluate[[]string](w, `performance.getEntriesByType("resource").map((entry) => entry.name)`) {
		assert.True(w, strings.HasPrefix(loaded, w.address) || strings.HasPrefix(loaded, "data:"), "%s loads %s", page, loaded)
	}
	w.console.Lock()
	defer w.console.Unlock()
	assert.Empty(w, w.console.errors, page)
	w.console.errors = nil
}

func TestEachPageFitsAPhoneAndADesktop(t *testing.T) {
	w := openWindow(t)
	for page := range readPages(t) {
		w.open(page, chromedp.EmulateViewport(phone, 740))
		assert.Empty(t, evaluate[[]string](w, brokenImages), page)
		assert.Equal(t, phone, evaluate[int](w, "innerWidth"))
		assert.LessOrEqual(t, evaluate[int](w, "document.documentElement.scrollWidth"), phone, page)
		w.picture(page, "phone")
		w.do(chromedp.EmulateViewport(desktop, 900))
		assert.LessOrEqual(t, evaluate[int](w, "document.documentElement.scrollWidth"), desktop, page)
		w.picture(page, "desktop")

		w.assertNothingFromOutside(page)
		assert.NotEmpty(t, evaluate[int](w, "document.styleSheets[0].cssRules.length"), page)
	}
}

// visible has the names of the vendors that the catalogue shows.
const visible = `[...document.querySelectorAll("main h2")].filter((heading) => heading.checkVisibility()).map((heading) => heading.id)`

func TestTheSearchShowsOnlyTheVendorsThatMatch(t *testing.T) {
	w := openWindow(t)
	w.open("docs/vendors.html")
	all := evaluate[[]string](w, visible)
	assert.Greater(t, len(all), 100)

	w.do(chromedp.SendKeys("#search", "sales"))
	some := evaluate[[]string](w, visible)
	assert.Contains(t, some, "salesforce")
	assert.Less(t, len(some), len(all)/4)
	shown := evaluate[string](w, `[...document.querySelectorAll("main h2 ~ *")].filter((element) => element.checkVisibility() && !element.matches("form, footer")).map((element) => element.textContent).join(" ")`)
	assert.NotContains(t, shown, "BlackRock Aladdin", "a section is hidden with its heading")
	for _, name := range some {
		section := evaluate[string](w, `(() => { let text = ""; for (let e = document.getElementById("`+name+`"); e && (!text || !e.matches("h2, footer")); e = e.nextElementSibling) text += e.textContent; return text.toLowerCase() })()`)
		assert.Contains(t, section, "sales", name)
	}

	w.do(chromedp.SendKeys("#search", "force JWT"))
	assert.Equal(t, []string{"salesforce", "sfcc"}, evaluate[[]string](w, visible), "words in any order, and letters of any case")
	assert.Equal(t, "2 of "+evaluate[string](w, `String(document.querySelectorAll("main h2").length)`)+" vendors", evaluate[string](w, `document.querySelector("output").value`))

	w.do(chromedp.SendKeys("#search", " nothing-has-this-word"))
	assert.Empty(t, evaluate[[]string](w, visible))
	evaluate[bool](w, `document.querySelector("form").reset(), document.querySelector("#search").dispatchEvent(new Event("input"))`)
	assert.Equal(t, all, evaluate[[]string](w, visible))
}

// search replaces the words of the search.
func (w *window) search(words string) {
	w.Helper()
	evaluate[string](w, `document.querySelector("#search").value = ""`)
	w.do(chromedp.SendKeys("#search", words))
}

// introduction shows whether the catalogue shows its introduction.
const introduction = `document.querySelector('main p a[href$="definitions.html"]').checkVisibility()`

// The introduction names the vendors with pages of their own, and those that are missing.
func TestTheSearchKeepsAnIntroductionThatHelps(t *testing.T) {
	w := openWindow(t)
	w.open("docs/vendors.html")
	for words, shown := range map[string]bool{
		"kensho": true, "Sitecore": true, "oauth2": true, "msci": true, "nothing-has-this-word": true, "salesforce": false,
	} {
		w.search(words)
		assert.Equal(t, shown, evaluate[bool](w, introduction), words)
		assert.False(t, evaluate[bool](w, `document.querySelector(".sections").checkVisibility()`), words)
	}
}

// covered is the number of pixels of a section that the search covers.
const covered = `document.querySelector(".search").getBoundingClientRect().bottom - document.querySelector(":target").getBoundingClientRect().top`

func TestTheSearchLeavesASectionVisibleToWhichALinkLeads(t *testing.T) {
	w := openWindow(t)
	w.open("docs/vendors.html#salesforce", chromedp.EmulateViewport(phone, 740))
	require.Positive(t, evaluate[int](w, "Math.round(scrollY)"))
	assert.LessOrEqual(t, evaluate[float64](w, covered), 0.0)

	w.search("adobe")
	assert.NotContains(t, evaluate[[]string](w, visible), "zoom")
	evaluate[bool](w, `new Promise((followed) => { addEventListener("hashchange", () => followed(true)); location.hash = "zoom" })`)
	assert.Contains(t, evaluate[[]string](w, visible), "zoom")
	assert.Empty(t, evaluate[string](w, `document.querySelector("#search").value`))
	assert.LessOrEqual(t, evaluate[float64](w, covered), 0.0)
	assert.Less(t, evaluate[float64](w, `document.querySelector(":target").getBoundingClientRect().top`), 370.0)
}
