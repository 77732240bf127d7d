package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

const (
	// restarts are how many times the plugin is killed for its first read.
	restarts = 5

	// notice is what a server takes to notice that, on a busy machine too.
	notice = 2 * time.Second
)

// A scale is what the engine is when there is much of it.
type scale struct {
	Credentials   int     `json:"credentials"`
	Resident      float64 `json:"resident_mib"`              // the plugin's, with all of them cached
	Scrape        float64 `json:"scrape_ms"`                 // of the mount's metrics
	ScrapeSize    float64 `json:"scrape_mib"`                // the text
	AfterScrape   float64 `json:"resident_after_scrape_mib"` // the plugin's
	SweepIdle     float64 `json:"sweep_with_nothing_due_ms"`
	Due           int     `json:"due"`                     // one in a hundred, beside all others
	SweepDue      float64 `json:"sweep_with_due_ms"`       // one that renews those
	FirstRead     float64 `json:"first_read_ms"`           // after a restart
	FirstAlone    float64 `json:"first_read_of_one_ms"`    // with one credential in the mount
	AfterFirst    float64 `json:"resident_after_read_mib"` // the plugin's, after the first read
	Storms        []storm `json:"storms"`
	Mounts        int     `json:"mounts"`
	PerMount      float64 `json:"plugin_kib_per_mount"`
	ServersPer    float64 `json:"server_kib_per_mount"`
	YardsticksPer float64 `json:"yardstick_plugin_kib_per_mount"` // what the SDK takes, whatever the plugin
}

// many compares many names with one, and looks at the plugin with all of them.
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
		var first, alone, resident []float64
		for range restarts {
			took, _, err := w.firstRead(ctx, one, all)
			if err != nil {
				return err
			}
			alone = append(alone, took)
			took, after, err := w.firstRead(ctx, all, one)
			if err != nil {
				return err
			}
			first, resident = append(first, took), append(resident, after)
		}
		s.FirstRead, s.FirstAlone, s.AfterFirst = median(first), median(alone), median(resident)
		return nil
	})
}

// pluginResident is the engine's memory in MiB.
func (w *world) pluginResident() (float64, error) {
	pid, err := pluginProcess(w.server, w.engine)
	if err != nil {
		return 0, err
	}
	kib, err := resident(pid)
	return kib / 1024, err
}

// firstRead kills the plugin, and measures how many milliseconds the read takes that
// starts it again, and its memory then in MiB. The other mount is read too, after that:
// Vault 1.19 does not recover one that missed a whole process.
func (w *world) firstRead(ctx context.Context, mount, other string) (took, resident float64, err error) {
	for range restarts {
		if _, err := w.server.KillPlugins(); err != nil {
			return 0, 0, err
		}
		// Until the server has noticed, it sends requests to where nobody is.
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
		w.say("a rollback was there before the first read: once more")
	}
	return 0, 0, fmt.Errorf("the plugin was started by something else %d times", restarts)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// idle looks at what mounts take in memory that nobody uses, when the server's rollbacks
// have come over each: the engine's, and then the yardstick's.
func (b *bench) idle(ctx context.Context, s *scale) error {
	s.Mounts = b.mounts
	return b.in(ctx, vaultserver.StartDev, func(w *world) error {
		// The first of each has the process started.
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

// A memory is what processes have resident, in KiB.
type memory struct{ server, engine, yardstick float64 }

// grown is the memory with many more mounts of a plugin.
func (w *world) grown(ctx context.Context, plugin string) (memory, error) {
	w.say("mounting %s %d times", plugin, w.mounts)
	for n := range w.mounts {
		if err := w.mount(ctx, plugin+"-"+name(n), plugin); err != nil {
			return memory{}, err
		}
	}
	return w.settled(ctx)
}

// settled is the memory after a while.
func (w *world) settled(ctx context.Context) (m memory, err error) {
	w.say("leaving the server alone for %s", w.settle)
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
