package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

const (
	// warmUp is how long each side is read before its first turn.
	warmUp = time.Second

	// slack is how many bytes the two sides' answers may differ by: a ttl has more
	// digits at one time than at another.
	slack = 16
)

// A turn is what the reads of a few seconds came to.
type turn struct {
	Reads     float64 `json:"reads_per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	ServerCPU float64 `json:"server_cpu_us_per_read"`
	PluginCPU float64 `json:"plugin_cpu_us_per_read"`
}

// A measure is one of a turn's figures.
type measure func(turn) float64

func reads(t turn) float64     { return t.Reads }
func p50(t turn) float64       { return t.P50 }
func p99(t turn) float64       { return t.P99 }
func serverCPU(t turn) float64 { return t.ServerCPU }
func pluginCPU(t turn) float64 { return t.PluginCPU }

// A comparison is a subject and what it is compared with, a turn of each in a round.
type comparison struct {
	What    string `json:"what"`
	Subject []turn `json:"subject"`
	Base    []turn `json:"base"`
}

// ratios are subject to base, round by round: a machine that drifts from one round to
// the next changes both.
func (c comparison) ratios(of measure) []float64 {
	ratios := make([]float64, len(c.Subject))
	for i := range ratios {
		ratios[i] = of(c.Subject[i]) / of(c.Base[i])
	}
	return ratios
}

func (c comparison) ratio(of measure) float64 { return median(c.ratios(of)) }

func medianOf(turns []turn, of measure) float64 {
	values := make([]float64, len(turns))
	for i, t := range turns {
		values[i] = of(t)
	}
	return median(values)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// A side is what is read in a turn: so many names below a path.
type side struct {
	path   string
	names  int
	plugin string // its binary
}

// compare has the two sides take turns, the one first that was last in the round before.
func (w *world) compare(ctx context.Context, what string, subject, base side) (comparison, error) {
	c := comparison{What: what, Subject: make([]turn, w.rounds), Base: make([]turn, w.rounds)}
	for _, s := range []side{subject, base} {
		if _, err := w.turn(ctx, s, warmUp); err != nil {
			return c, err
		}
	}
	for round := range w.rounds {
		one := func() (err error) { c.Subject[round], err = w.turn(ctx, subject, w.duration); return err }
		other := func() (err error) { c.Base[round], err = w.turn(ctx, base, w.duration); return err }
		if round%2 == 1 {
			one, other = other, one
		}
		if err := one(); err != nil {
			return c, err
		}
		if err := other(); err != nil {
			return c, err
		}
		w.say("%s: round %d of %d: %.0f reads/s, %.3f of %.0f", what, round+1, w.rounds,
			c.Subject[round].Reads, c.Subject[round].Reads/c.Base[round].Reads, c.Base[round].Reads)
	}
	return c, nil
}

func (w *world) turn(ctx context.Context, s side, d time.Duration) (turn, error) {
	plugin, err := pluginProcess(w.server, s.plugin)
	if err != nil {
		return turn{}, err
	}
	var before, after [2]time.Duration
	if before, err = cpuTimes(w.server.ID(), plugin); err != nil {
		return turn{}, err
	}
	l, err := w.wrk(ctx, w.server.Address+"/v1/"+s.path+"/", w.server.Token, s.names, d)
	if err != nil {
		return turn{}, fmt.Errorf("%s: %w", s.path, err)
	}
	if after, err = cpuTimes(w.server.ID(), plugin); err != nil {
		return turn{}, err
	}
	perRead := func(process int) float64 {
		return float64((after[process] - before[process]).Microseconds()) / float64(l.Requests)
	}
	t := turn{
		Reads: float64(l.Requests) / (float64(l.Duration) / 1e6),
		P50:   float64(l.P50) / 1e3, P99: float64(l.P99) / 1e3,
		ServerCPU: perRead(0), PluginCPU: perRead(1),
	}
	if t.PluginCPU == 0 {
		return turn{}, errors.New("a turn is too short to tell what CPU time the plugin took")
	}
	return t, nil
}

func cpuTimes(server, plugin int) (times [2]time.Duration, err error) {
	for i, pid := range [2]int{server, plugin} {
		if times[i], err = cpuTime(pid); err != nil {
			return times, err
		}
	}
	return times, nil
}

// compareStorage compares the engine with the yardstick, leased and unleased.
func (b *bench) compareStorage(ctx context.Context, storage string, start starter) (found []comparison, err error) {
	return found, b.in(ctx, start, func(w *world) error {
		if err := w.fill(ctx, engine, 1); err != nil {
			return err
		}
		if err := w.mount(ctx, yardstick, yardstick); err != nil {
			return err
		}
		for _, path := range []string{"creds", "token"} {
			if err := w.sameShape(ctx, path); err != nil {
				return err
			}
			c, err := w.compare(ctx, path+"/, "+storage,
				side{path: filepath.Join(engine, path), names: 1, plugin: b.engine},
				side{path: filepath.Join(yardstick, path), names: 1, plugin: b.yardstick})
			if err != nil {
				return err
			}
			found = append(found, c)
		}
		return nil
	})
}

// sameShape makes sure that the yardstick answers as much as the engine.
func (w *world) sameShape(ctx context.Context, path string) error {
	var sizes [2]int
	for i, mount := range []string{engine, yardstick} {
		secret, err := w.read(ctx, mount+"/"+path, 0)
		if err != nil {
			return err
		}
		answer, err := json.Marshal(secret)
		if err != nil {
			return err
		}
		// Mounts' names are in lease IDs.
		sizes[i] = len(answer) - len(mount)
	}
	if difference := sizes[0] - sizes[1]; max(difference, -difference) > slack {
		return fmt.Errorf("%s/: the engine answers %d bytes and the yardstick %d", path, sizes[0], sizes[1])
	}
	return nil
}
