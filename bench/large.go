package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

const (
	// readPart is the part of the credentials that are read.
	readPart = 100

	// unread begins the metric with the number of credentials that the plugin has yet to read after its start.
	unread = `tokenbroker_credentials{state="unread"`

	// loading is how long the plugin may take to read all of them, in its sweeps.
	loading = 30 * time.Minute
)

// A large holds the figures of a mount with very many credentials, of which 1 % are read.
type large struct {
	Credentials int     `json:"credentials"`
	Loading     float64 `json:"loading_s"`    // from the start of the plugin until it has read each credential once
	Resident    float64 `json:"resident_mib"` // the plugin, after that
	SweepIdle   float64 `json:"sweep_with_nothing_due_ms"`
	Scrape      float64 `json:"scrape_ms"`
	ScrapeSize  float64 `json:"scrape_mib"`
	AfterScrape float64 `json:"resident_after_scrape_mib"`
	FirstRead   float64 `json:"first_read_ms"`
	FirstOfOne  float64 `json:"first_read_of_one_ms"`
	AfterFirst  float64 `json:"resident_after_read_mib"`
}

// large measures a mount with very many credentials, most of which nobody reads.
func (b *bench) large(ctx context.Context, l *large) error {
	const all, one = "large", "one"
	l.Credentials = b.largest
	return b.in(ctx, vaultserver.StartDev, func(w *world) error {
		b.say("storing %d credentials", b.largest)
		if err := w.fill(ctx, one, 1); err != nil {
			return err
		}
		if err := w.mount(ctx, all, engine); err != nil {
			return err
		}
		err := each(b.largest, func(n int) error { return w.write(ctx, all, n, map[string]any{"verify": false}) })
		if err != nil {
			return err
		}
		if err := w.firstReads(ctx, one, all, &l.FirstRead, &l.FirstOfOne, &l.AfterFirst); err != nil {
			return err
		}
		started := time.Now()
		err = each(b.largest/readPart, func(n int) error {
			_, err := w.read(ctx, all+"/token", n*readPart)
			return err
		})
		if err != nil {
			return err
		}
		b.say("waiting until the plugin has read all credentials")
		if err := w.loaded(ctx, all); err != nil {
			return err
		}
		l.Loading = time.Since(started).Seconds()
		if l.SweepIdle, err = w.idleSweep(ctx, all); err != nil {
			return err
		}
		if l.Resident, err = w.pluginResident(); err != nil {
			return err
		}
		var s scale
		if err := w.scrape(ctx, all, &s); err != nil {
			return err
		}
		l.Scrape, l.ScrapeSize, l.AfterScrape = s.Scrape, s.ScrapeSize, s.AfterScrape
		return nil
	})
}

// loaded waits until the plugin has read each credential of a mount.
func (w *world) loaded(ctx context.Context, mount string) error {
	r := newReader(w.server)
	defer r.close()
	for deadline := time.Now().Add(loading); ; {
		before, err := w.swept(ctx, mount)
		if err != nil {
			return err
		}
		text, err := r.body(ctx, mount+"/metrics")
		if err != nil {
			return err
		}
		if before.count > 0 && !bytes.Contains(text, []byte(unread)) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("in %s, the plugin has not read all credentials", loading)
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// sizes returns the rows of the table of sizes.
func (l large) sizes() table {
	if l.Credentials == 0 {
		return nil
	}
	return table{
		{fmt.Sprintf("plugin with %d credentials, 1 %% of them read", l.Credentials), mib(l.Resident)},
		{"the same, after a scrape of its metrics", mib(l.AfterScrape)},
		{"the same, after a restart and one read", mib(l.AfterFirst)},
		{"scrape of their metrics", fmt.Sprintf("%.0f ms, %.1f KiB of text", l.Scrape, l.ScrapeSize*1024)},
		{"sweep over them with nothing to renew", fmt.Sprintf("%.1f ms", l.SweepIdle)},
		{"from the start until each of them was read once in the background", fmt.Sprintf("%.0f s", l.Loading)},
		{"first read after a restart, with as many", fmt.Sprintf("%.0f ms", l.FirstRead)},
	}
}

// goals returns the goals of a mount with very many credentials.
func (l large) goals() []goal {
	if l.Credentials == 0 {
		return nil
	}
	what := fmt.Sprintf("%d credentials, 1 %% of them read: ", l.Credentials)
	return []goal{
		atMostIn(what+"resident memory of the plugin", l.Resident, maxLarge, "MiB"),
		atMostIn(what+"sweep with nothing to renew", l.SweepIdle, maxSweep, "ms"),
		atMostIn(what+"first read after a restart, relative to one credential", l.FirstRead/l.FirstOfOne, maxFirst, ""),
	}
}
