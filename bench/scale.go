package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

const (
	// restarts is how often the first read after a restart is measured, and how often each
	// measurement is tried.
	restarts = 5

	// notice is how long the server may take to notice that the plugin was killed, on a busy
	// machine.
	notice = 2 * time.Second
)

// A scale holds the figures of many credentials, readers or mounts.
type scale struct {
	Credentials   int     `json:"credentials"`
	Resident      float64 `json:"resident_mib"`              // the plugin, with all tokens cached
	Scrape        float64 `json:"scrape_ms"`                 // a read of the mount's metrics
	ScrapeSize    float64 `json:"scrape_mib"`                // the text of the metrics
	AfterScrape   float64 `json:"resident_after_scrape_mib"` // the plugin, after that read
	SweepIdle     float64 `json:"sweep_with_nothing_due_ms"`
	Due           int     `json:"due"`                     // 1 % of Credentials, in addition to them
	SweepDue      float64 `json:"sweep_with_due_ms"`       // a sweep that renews these
	FirstRead     float64 `json:"first_read_ms"`           // after a restart
	FirstOfOne    float64 `json:"first_read_of_one_ms"`    // the same, with one credential in the mount
	AfterFirst    float64 `json:"resident_after_read_mib"` // the plugin, after the first read
	Storms        []storm `json:"storms"`
	Mounts        int     `json:"mounts"`
	PerMount      float64 `json:"plugin_kib_per_mount"`
	ServersPer    float64 `json:"server_kib_per_mount"`
	YardsticksPer float64 `json:"yardstick_plugin_kib_per_mount"` // the SDK's part, which every plugin has
	Large         large   `json:"large"`
}

// many compares reads of many names with reads of one, and measures the plugin with all of
// them in its cache.
func (b *bench) many(ctx context.Context, s *scale) (names []comparison, err error) {
	const all, one = "many", "one"
	s.Credentials = b.credentials
	return names, b.in(ctx, vaultserver.StartDev, func(w *world) error {
		b.say("storing and reading %d credentials", b.credentials)
		if err := w.fill(ctx, all, b.credentials); err != nil {
			return err
		}
		if err := w.fill(ctx, one, 1); err != nil {
			return err
		}
		for _, path := range []string{"creds", "token"} {
			subject := side{path: filepath.Join(all, path), names: b.credentials, plugin: b.engine}
			base := subject
			base.names = 1
			c, err := w.compare(ctx, path+"/, dev", subject, base)
			if err != nil {
				return err
			}
			names = append(names, c)
		}
		if s.Resident, err = w.pluginResident(); err != nil {
			return err
		}
		if err := w.scrape(ctx, all, s); err != nil {
			return err
		}
		if err := w.sweeps(ctx, all, s); err != nil {
			return err
		}
		return w.firstReads(ctx, one, all, &s.FirstRead, &s.FirstOfOne, &s.AfterFirst)
	})
}

// firstReads measures the first read after a restart of a mount with one credential and of one with many, and the
// resident memory after the latter.
func (w *world) firstReads(ctx context.Context, one, all string, ofAll, ofOne, resident *float64) error {
	var first, firstOfOne, after []float64
	for range restarts {
		took, _, err := w.firstRead(ctx, one, all)
		if err != nil {
			return err
		}
		firstOfOne = append(firstOfOne, took)
		took, mib, err := w.firstRead(ctx, all, one)
		if err != nil {
			return err
		}
		first, after = append(first, took), append(after, mib)
	}
	*ofAll, *ofOne, *resident = median(first), median(firstOfOne), median(after)
	return nil
}

// pluginResident returns the resident memory of the engine's process in MiB.
func (w *world) pluginResident() (float64, error) {
	pid, err := pluginProcess(w.server, w.engine)
	if err != nil {
		return 0, err
	}
	kib, err := resident(pid)
	return kib / 1024, err
}

// firstRead kills the plugin, and returns how many milliseconds the read takes that restarts
// it, and its resident memory in MiB after that. It then reads the other mount too, because
// Vault 1.19 does not recover a mount that was never used during a whole process.
func (w *world) firstRead(ctx context.Context, mount, other string) (took, resident float64, err error) {
	for range restarts {
		if _, err := w.server.KillPlugins(); err != nil {
			return 0, 0, err
		}
		// Until it notices, the server sends requests to the killed process.
		if err := pause(ctx, notice); err != nil {
			return 0, 0, err
		}
		running, err := pluginProcesses(w.server, w.engine)
		if err != nil {
			return 0, 0, err
		}
		started := time.Now()
		if _, err := w.read(ctx, mount+"/token", 0); err != nil {
			return 0, 0, err
		}
		took = milliseconds(time.Since(started))
		if resident, err = w.pluginResident(); err != nil {
			return 0, 0, err
		}
		if _, err := w.read(ctx, other+"/token", 0); err != nil {
			return 0, 0, err
		}
		if len(running) == 0 {
			return took, resident, nil
		}
		w.say("a rollback restarted the plugin before the first read; repeating")
	}
	return 0, 0, fmt.Errorf("in %d attempts, a rollback restarted the plugin before the first read", restarts)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// idle measures the memory of unused mounts after the server's rollback has been through all of
// them, first for the engine and then for the yardstick.
func (b *bench) idle(ctx context.Context, s *scale) error {
	s.Mounts = b.mounts
	return b.in(ctx, vaultserver.StartDev, func(w *world) error {
		// The first mount of a plugin starts its process.
		for _, plugin := range []string{engine, yardstick} {
			if err := w.mount(ctx, plugin, plugin); err != nil {
				return err
			}
		}
		before, err := w.settled(ctx)
		if err != nil {
			return err
		}
		engines, err := w.grown(ctx, engine)
		if err != nil {
			return err
		}
		yardsticks, err := w.grown(ctx, yardstick)
		if err != nil {
			return err
		}
		per := func(before, after float64) float64 { return (after - before) / float64(b.mounts) }
		s.PerMount, s.ServersPer = per(before.engine, engines.engine), per(before.server, engines.server)
		s.YardsticksPer = per(engines.yardstick, yardsticks.yardstick)
		return nil
	})
}

// A memory holds the resident memory of each process in KiB.
type memory struct{ server, engine, yardstick float64 }

// grown mounts a plugin many times and returns the memory after that.
func (w *world) grown(ctx context.Context, plugin string) (memory, error) {
	w.say("mounting %s %d times", plugin, w.mounts)
	for n := range w.mounts {
		if err := w.mount(ctx, plugin+"-"+name(n), plugin); err != nil {
			return memory{}, err
		}
	}
	return w.settled(ctx)
}

// settled waits until rollbacks have been through all mounts, and returns the memory.
func (w *world) settled(ctx context.Context) (m memory, err error) {
	w.say("waiting %s for rollbacks", w.settle)
	if err := pause(ctx, w.settle); err != nil {
		return m, err
	}
	if m.server, err = resident(w.server.ID()); err != nil {
		return m, err
	}
	for binary, kib := range map[string]*float64{w.engine: &m.engine, w.yardstick: &m.yardstick} {
		pid, err := pluginProcess(w.server, binary)
		if err != nil {
			return m, err
		}
		if *kib, err = resident(pid); err != nil {
			return m, err
		}
	}
	return m, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
