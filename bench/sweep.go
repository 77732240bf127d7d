package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	// rollback is how long to wait for a sweep. Vault's rollback, which calls it for every
	// mount, runs once a minute.
	rollback = 65 * time.Second

	// patience is the number of rollbacks to wait for.
	patience = 3

	// sweepRenewals is how many renewals a sweep runs at once.
	sweepRenewals = 16

	// renewedLifetime is the lifetime of the tokens that a sweep renews: short enough that their
	// renewal window has begun at the rollback.
	renewedLifetime = time.Minute

	// scrapes is how often the metrics are read.
	scrapes = 5
)

// sweeps are the number and the total duration of a mount's sweeps so far.
type sweeps struct {
	count, seconds float64
}

// sweeps measures a sweep with no renewal due, and one with renewals due for 1 % of the
// credentials.
func (w *world) sweeps(ctx context.Context, mount string, s *scale) (err error) {
	w.say("waiting for sweeps")
	if s.SweepIdle, err = w.idleSweep(ctx, mount); err != nil {
		return err
	}
	s.Due = w.credentials / 100
	s.SweepDue, err = w.dueSweep(ctx, mount, s.Due)
	return err
}

// idleSweep returns how many milliseconds a sweep takes that calls no vendor.
func (w *world) idleSweep(ctx context.Context, mount string) (float64, error) {
	for range patience {
		calls := w.vendor.Count()
		before, err := w.swept(ctx, mount)
		if err != nil {
			return 0, err
		}
		if err := pause(ctx, rollback); err != nil {
			return 0, err
		}
		after, err := w.swept(ctx, mount)
		if err != nil {
			return 0, err
		}
		if n := after.count - before.count; n > 0 && w.vendor.Count() == calls {
			return 1e3 * (after.seconds - before.seconds) / n, nil
		}
	}
	return 0, fmt.Errorf("in %s, there was no sweep without renewals", patience*rollback)
}

// dueSweep returns how many milliseconds a sweep takes that renews tokens. It adds their
// credentials after all others, and deletes them at the end.
func (w *world) dueSweep(ctx context.Context, mount string, due int) (float64, error) {
	err := each(due, func(n int) error {
		n += w.credentials
		if err := w.write(ctx, mount, n, map[string]any{"access_expiry": int(renewedLifetime.Seconds()), "verify": false}); err != nil {
			return err
		}
		// The first read exchanges. The second makes the engine renew the token, because it
		// lets a token expire that was not read again after it was issued.
		for range 2 {
			if _, err := w.read(ctx, mount+"/token", n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	before, err := w.swept(ctx, mount)
	if err != nil {
		return 0, err
	}
	calls := w.vendor.Count()
	w.vendor.Behave(vendorsim.Conduct{Latency: vendorsTime})
	defer w.vendor.Behave(vendorsim.Conduct{})
	for deadline := time.Now().Add(patience * rollback); w.vendor.Count() < calls+due; {
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("sweeps renewed %d of %d tokens in %s", w.vendor.Count()-calls, due, patience*rollback)
		}
		if err := pause(ctx, time.Second/10); err != nil {
			return 0, err
		}
	}
	// The vendor has the last requests, but has not answered them yet. An earlier sweep
	// without renewals adds next to nothing to the total.
	if err := pause(ctx, vendorsTime+time.Second); err != nil {
		return 0, err
	}
	after, err := w.swept(ctx, mount)
	if err != nil {
		return 0, err
	}
	if after.count == before.count {
		return 0, errors.New("tokens were renewed, but not by a sweep")
	}
	err = each(due, func(n int) error {
		_, err := w.client.Logical().DeleteWithContext(ctx, mount+"/config/sitecore/"+name(w.credentials+n))
		return err
	})
	return 1e3 * (after.seconds - before.seconds), err
}

// swept reads the sweeps so far from a mount's metrics.
func (w *world) swept(ctx context.Context, mount string) (sweeps, error) {
	r := newReader(w.server)
	defer r.close()
	text, err := r.body(ctx, mount+"/metrics")
	if err != nil {
		return sweeps{}, err
	}
	return parseSweeps(text)
}

func parseSweeps(metrics []byte) (s sweeps, err error) {
	for metric, value := range map[string]*float64{
		"tokenbroker_sweep_duration_seconds_count ": &s.count,
		"tokenbroker_sweep_duration_seconds_sum ":   &s.seconds,
	} {
		_, rest, found := bytes.Cut(metrics, []byte("\n"+metric))
		if !found {
			return s, fmt.Errorf("the metrics have no %s", metric)
		}
		line, _, _ := strings.Cut(string(rest), "\n")
		if *value, err = strconv.ParseFloat(line, 64); err != nil {
			return s, err
		}
	}
	return s, nil
}

// scrape measures the duration and the size of a read of a mount's metrics, and the plugin's
// memory after it.
func (w *world) scrape(ctx context.Context, mount string, s *scale) error {
	r := newReader(w.server)
	defer r.close()
	var times []float64
	for range scrapes {
		started := time.Now()
		text, err := r.body(ctx, mount+"/metrics")
		if err != nil {
			return err
		}
		times = append(times, milliseconds(time.Since(started)))
		s.ScrapeSize = float64(len(text)) / (1 << 20)
	}
	s.Scrape = median(times)
	var err error
	s.AfterScrape, err = w.pluginResident()
	return err
}
