package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	// warmUp is how long each side is read before the first round.
	warmUp = time.Second

	// slack is the number of bytes by which the responses of the two sides may differ. The
	// number of digits of a ttl varies.
	slack = 16
)

// A turn is the result of reading one side for the duration of a turn.
type turn struct {
	Reads     float64 `json:"reads_per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	ServerCPU float64 `json:"server_cpu_us_per_read"`
	PluginCPU float64 `json:"plugin_cpu_us_per_read"`
}

// A measure selects one figure of a turn.
type measure func(turn) float64

func reads(t turn) float64     { return t.Reads }
func p50(t turn) float64       { return t.P50 }
func p99(t turn) float64       { return t.P99 }
func serverCPU(t turn) float64 { return t.ServerCPU }
func pluginCPU(t turn) float64 { return t.PluginCPU }

// measures are the measures by their JSON names in a turn.
var measures = map[string]measure{
	"reads_per_second":       reads,
	"p50_ms":                 p50,
	"p99_ms":                 p99,
	"server_cpu_us_per_read": serverCPU,
	"plugin_cpu_us_per_read": pluginCPU,
}

// A comparison holds the turns of a subject and of the base that it is compared with, one of
// each per round.
type comparison struct {
	What    string           `json:"what"`
	Subject []turn           `json:"subject"`
	Base    []turn           `json:"base"`
	Ratios  map[string]ratio `json:"ratios"` // by the names of measures
}

// ratio returns the ratio of the subject to the base.
func (c comparison) ratio(of measure) ratio {
	rounds := make([]float64, len(c.Subject))
	for i := range rounds {
		rounds[i] = of(c.Subject[i]) / of(c.Base[i])
	}
	return newRatio(rounds)
}

func medianOf(turns []turn, of measure) float64 {
	values := make([]float64, len(turns))
	for i, t := range turns {
		values[i] = of(t)
	}
	return median(values)
}

// A side is what a turn reads: a number of names below a path.
type side struct {
	path   string
	names  int
	plugin string // path of the plugin's binary
}

// compare measures both sides in every round, and swaps their order from round to round.
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
	c.Ratios = map[string]ratio{}
	for name, of := range measures {
		c.Ratios[name] = c.ratio(of)
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
	return turn{
		Reads: float64(l.Requests) / (float64(l.Duration) / 1e6),
		P50:   float64(l.P50) / 1e3, P99: float64(l.P99) / 1e3,
		ServerCPU: perRead(0), PluginCPU: perRead(1),
	}, nil
}

func cpuTimes(server, plugin int) (times [2]time.Duration, err error) {
	for i, pid := range [2]int{server, plugin} {
		if times[i], err = cpuTime(pid); err != nil {
			return times, err
		}
	}
	return times, nil
}

// compareStorage compares the engine with the yardstick on one storage, at creds/ and token/.
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

// sameShape returns an error unless the yardstick and the engine return responses of the same
// shape and about the same size.
func (w *world) sameShape(ctx context.Context, path string) error {
	var (
		shapes [2]string
		sizes  [2]int
	)
	for i, mount := range []string{engine, yardstick} {
		secret, err := w.read(ctx, mount+"/"+path, 0)
		if err != nil {
			return err
		}
		answer, err := json.Marshal(secret)
		if err != nil {
			return err
		}
		shapes[i] = shape(secret)
		// Lease IDs contain the name of the mount.
		sizes[i] = len(answer) - len(mount)
	}
	if shapes[0] != shapes[1] {
		return fmt.Errorf("%s/: the engine returns %s; the yardstick returns %s", path, shapes[0], shapes[1])
	}
	if difference := sizes[0] - sizes[1]; max(difference, -difference) > slack {
		return fmt.Errorf("%s/: the engine returns %d bytes; the yardstick returns %d", path, sizes[0], sizes[1])
	}
	return nil
}

// shape describes a response: its lease, its warnings, and its fields with their kinds.
func shape(secret *api.Secret) string {
	words := []string{fmt.Sprintf("lease %t, renewable %t, %d warnings", secret.LeaseID != "" && secret.LeaseDuration > 0,
		secret.Renewable, len(secret.Warnings))}
	for _, field := range slices.Sorted(maps.Keys(secret.Data)) {
		words = append(words, field+" "+kind(secret.Data[field]))
	}
	return strings.Join(words, ", ")
}

// kind returns the JSON type of a value. For a list, it includes the types of the elements.
func kind(value any) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case json.Number, float64:
		return "number"
	case []any:
		kinds := map[string]bool{}
		for _, one := range v {
			kinds[kind(one)] = true
		}
		return fmt.Sprint("list of ", slices.Sorted(maps.Keys(kinds)))
	}
	return "object"
}
