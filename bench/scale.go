package main

import (
	"context"
	"path/filepath"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/vaultserver"
)

const (
	// restarts are how many times the plugin is killed for its first read.
	restarts = 5

	// notice is what a server takes to notice that, on a busy machine too.
	notice = 2 * time.Second
)

// A scale is what the engine is when there is much of it.
type scale struct {
	Credentials int     `json:"credentials"`
	Resident    float64 `json:"resident_mib"`            // the plugin's, with all of them cached
	FirstRead   float64 `json:"first_read_ms"`           // after a restart
	FirstAlone  float64 `json:"first_read_of_one_ms"`    // with one credential in the mount
	AfterFirst  float64 `json:"resident_after_read_mib"` // the plugin's, after the first read
	Storms      []storm `json:"storms"`
	Mounts      int     `json:"mounts"`
	PerMount    float64 `json:"plugin_kib_per_mount"`
	ServersPer  float64 `json:"server_kib_per_mount"`
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
		var first, alone []float64
		for range restarts {
			if alone, err = w.firstRead(ctx, one, all, alone); err != nil {
				return err
			}
			if first, err = w.firstRead(ctx, all, one, first); err != nil {
				return err
			}
		}
		if s.AfterFirst, err = w.pluginResident(); err != nil {
			return err
		}
		s.FirstRead, s.FirstAlone = median(first), median(alone)
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

// firstRead kills the plugin, and adds how many milliseconds the read took that starts it
// again. The other mount is read too, after that: Vault 1.19 does not recover one that
// missed a whole process.
func (w *world) firstRead(ctx context.Context, mount, other string, times []float64) ([]float64, error) {
	if _, err := w.server.KillPlugins(); err != nil {
		return nil, err
	}
	// Until the server has noticed, it sends requests to where nobody is.
	if err := pause(ctx, notice); err != nil {
		return nil, err
	}
	started := time.Now()
	if _, err := w.read(ctx, mount+"/token", 0); err != nil {
		return nil, err
	}
	times = append(times, milliseconds(time.Since(started)))
	_, err := w.read(ctx, other+"/token", 0)
	return times, err
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// idle looks at what mounts take in memory that nobody uses, when the server's rollbacks
// have come over each.
func (b *bench) idle(ctx context.Context, s *scale) error {
	s.Mounts = b.mounts
	return b.in(ctx, vaultserver.StartDev, func(w *world) error {
		// The first has the process started.
		if err := w.fill(ctx, "first", 1); err != nil {
			return err
		}
		server, plugin, err := w.settled(ctx)
		if err != nil {
			return err
		}
		b.say("mounting the engine %d times", b.mounts)
		for n := range b.mounts {
			if err := w.mount(ctx, "idle-"+name(n), engine); err != nil {
				return err
			}
		}
		grownServer, grownPlugin, err := w.settled(ctx)
		if err != nil {
			return err
		}
		s.PerMount = (grownPlugin - plugin) / float64(b.mounts)
		s.ServersPer = (grownServer - server) / float64(b.mounts)
		return nil
	})
}

// settled is the resident memory of server and plugin in KiB, after a while.
func (w *world) settled(ctx context.Context) (server, plugin float64, err error) {
	w.say("leaving the server alone for %s", w.settle)
	if err := pause(ctx, w.settle); err != nil {
		return 0, 0, err
	}
	if server, err = resident(w.server.ID()); err != nil {
		return 0, 0, err
	}
	pid, err := pluginProcess(w.server, w.engine)
	if err != nil {
		return 0, 0, err
	}
	plugin, err = resident(pid)
	return server, plugin, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
