// Package chromium starts a browser for tests.
package chromium

import (
	"context"
	"os/exec"
	"time"

	"github.com/chromedp/chromedp"
)

// A Browser is a running Chromium. As a context, it is the parent of those of its windows.
type Browser struct {
	context.Context
	Close context.CancelFunc
}

// Start starts a browser that does not connect to its makers. Its files go to the folder data.
func Start(data string) (*Browser, error) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		return nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(data), chromedp.WSURLReadTimeout(2*time.Minute),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-auto-reload", true), // of error pages
		// Without the cache, the buttons back and forward send requests.
		chromedp.Flag("disable-features", "Translate,BlinkGenPropertyTrees,BackForwardCache"))
	allocator, endProcess := chromedp.NewExecAllocator(context.Background(), options...)
	started, endBrowser := chromedp.NewContext(allocator)
	b := &Browser{started, func() { endBrowser(); endProcess() }}
	if err := chromedp.Do(started); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}
