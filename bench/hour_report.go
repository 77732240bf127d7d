package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	agents "vault-plugin-secrets-tokenbroker/internal/testing/storm"
	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

const (
	maxLast      = 1.2 // the last reader, relative to the least possible
	maxThrottled = 5   // % of the requests to the vendor
	maxUnlimited = 1.5 // s, the last reader of a vendor without a limit that takes 300 ms
	maxHourSize  = 100 // MiB, the plugin with 1,000 credentials

	// defaultMoments is the least number for which medianInterval has 95 % without the extremes.
	defaultMoments = 9
)

// An hourReport holds the results of `bench storm`.
type hourReport struct {
	Machine   machine       `json:"machine"`
	Time      time.Time     `json:"time"`
	Storage   string        `json:"storage"`
	Scenarios []hourResults `json:"scenarios"`
	Goals     []goal        `json:"goals"`
}

// An hourResults holds the results of a scenario, in the order of their moments.
type hourResults struct {
	scenario
	Hours []hour `json:"hours"`
}

// runStorms measures what follows when the tokens of many credentials expire together.
func runStorms(ctx context.Context, args []string) (err error) {
	b := &bench{}
	flags := flag.NewFlagSet("bench storm", flag.ContinueOnError)
	flags.StringVar(&b.vault, "vault", "", "the `path` of a vault or bao binary")
	flags.StringVar(&b.engine, "engine", "", "the `path` of the plugin")
	limited := scenario{Latency: 20 * time.Millisecond, Period: 70 * time.Second}
	flags.IntVar(&limited.Credentials, "credentials", 1_000, "how many credentials there are, each with an Agent")
	flags.Float64Var(&limited.Rate.PerSecond, "rate", 100, "how many requests a second the vendor accepts")
	flags.IntVar(&limited.Rate.Burst, "burst", 100, "how many requests the vendor accepts at once after a pause")
	flags.DurationVar(&limited.Rate.Window, "window", 0, "count requests in windows of this `length`, instead of -burst")
	flags.BoolVar(&limited.Rate.RetryAfter, "retry-after", false, "let the vendor send Retry-After")
	flags.DurationVar(&limited.Latency, "latency", limited.Latency, "how long the vendor takes to answer")
	flags.DurationVar(&limited.Period, "period", limited.Period, "the time after which all tokens expire together again, more than a storm takes")
	moments := flags.Int("storms", defaultMoments, "how many storms to measure for each vendor")
	storage := flags.String("storage", "dev", "dev or raft")
	result := flags.String("json", "", "the `file` to write all figures to")
	docs := flags.String("docs", "", "the `folder` of capacity.md, to rewrite the page")
	quick := flags.Bool("quick", false, "check that the benchmark works: few and small storms, and no page rewritten")
	if err := flags.Parse(args); err != nil {
		return err
	}
	unlimited := scenario{Credentials: limited.Credentials, Latency: 300 * time.Millisecond, Period: 25 * time.Second}
	busy := scenario{Credentials: 3 * limited.Credentials, Latency: limited.Latency, Period: 35 * time.Second}
	if *quick {
		limited.Credentials, limited.Rate.PerSecond, limited.Rate.Burst, limited.Period = 50, 20, 20, 20*time.Second
		unlimited.Credentials, unlimited.Period = 50, 15*time.Second
		busy.Credentials, busy.Period = 100, 15*time.Second
		*moments, *docs = 1, ""
	}
	start := map[string]starter{"dev": vaultserver.StartDev, raft: vaultserver.StartRaft}[*storage]
	switch {
	case start == nil:
		return errors.New("-storage must be dev or raft")
	case *moments < 1 || limited.Credentials < 1:
		return errors.New("-storms and -credentials must be at least 1")
	case limited.Rate.PerSecond <= 0 || limited.Period < 10*time.Second || limited.Period < limited.least():
		return errors.New("-rate must be more than 0, and -period at least 10s and more than a storm takes")
	case *docs != "" && *moments < defaultMoments:
		return fmt.Errorf("-docs needs at least %d storms", defaultMoments)
	}
	limited.Name = fmt.Sprintf("%d credentials, %g requests a second", limited.Credentials, limited.Rate.PerSecond)
	for _, s := range []*scenario{&unlimited, &busy} {
		s.Name = fmt.Sprintf("%d credentials, no limit, vendor response time %s", s.Credentials, s.Latency)
	}

	ctx, end, err := b.begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = end(err) }()
	r := &hourReport{Machine: b.machine, Time: time.Now().UTC(), Storage: *storage}
	for _, s := range []scenario{limited, unlimited, busy} {
		found, err := b.hours(ctx, s, start, *moments)
		if err != nil {
			return err
		}
		r.Scenarios = append(r.Scenarios, hourResults{s, found})
	}
	return r.publish(*result, *docs)
}

func (r *hourReport) publish(file, docs string) error {
	r.Goals = r.goals()
	if err := printTables(os.Stdout, r.heading(), r.tables()); err != nil {
		return err
	}
	if err := writeJSON(file, r); err != nil || docs == "" {
		return err
	}
	block := r.heading() + "\n"
	for _, t := range r.tables() {
		block += "\n" + t.markdown()
	}
	return update(filepath.Join(docs, "capacity.md"), "storm", block)
}

func (r *hourReport) heading() string {
	moments := len(r.Scenarios[0].Hours)
	return fmt.Sprintf("%s: %d storms of each scenario, %s server.\n%s.", r.Time.Format(time.DateOnly), moments, r.Storage, r.Machine)
}

// A figure selects one figure of a storm.
type figure func(hour) float64

// never is a time in seconds that is longer than any goal.
const never = 1e6

// last returns when the last reader had its token; never if one got none.
func last(h hour) float64 {
	if h.Unserved > 0 {
		return never
	}
	return h.Last
}

func throttled(h hour) float64 { return 100 * h.ThrottledPart() }
func hasty(h hour) float64     { return float64(h.Hasty + h.Unserved) }
func size(h hour) float64      { return h.Resident }

// over returns the median of a figure over all storms.
func (s hourResults) over(of figure) ratio {
	values := make([]float64, len(s.Hours))
	for i, h := range s.Hours {
		values[i] = of(h)
	}
	return newRatio(values)
}

// goals returns the goals for the scenario with a limit, and for the first one without.
func (r *hourReport) goals() []goal {
	most := func(s hourResults, what string, of figure, limit float64, unit string) goal {
		m := s.over(of)
		return goal{What: s.Name + ": " + what, Measured: m.Median, Interval: &m.Interval, Limit: limit, unit: unit}.judged()
	}
	limited, unlimited := r.Scenarios[0], r.Scenarios[1]
	return []goal{
		most(limited, "the last reader has its token", last, maxLast*limited.least().Seconds(), "s"),
		most(limited, "throttled requests", throttled, maxThrottled, "%"),
		most(limited, fmt.Sprintf("reads that fail and could wait %s", agents.Patience), hasty, 0, "exchange"),
		most(unlimited, "the last reader has its token", last, maxUnlimited, "s"),
		most(unlimited, "resident memory of the plugin", size, maxHourSize, "MiB"),
	}
}

func (r *hourReport) tables() []table {
	columns := []struct {
		name, number string
		of           figure
	}{
		{"median reader, s", "%.1f", func(h hour) float64 { return h.Median }},
		{"p90, s", "%.1f", func(h hour) float64 { return h.P90 }},
		{"last, s", "%.1f", last},
		{"exchanges/s", "%.0f", func(h hour) float64 { return float64(h.Accepted) / last(h) }},
		{"requests", "%.0f", func(h hour) float64 { return float64(h.Accepted + h.Throttled) }},
		{"throttled, %", "%.1f", throttled},
		{"vendor idle, s", "%.1f", func(h hour) float64 { return h.Idle }},
		{"failed reads", "%.0f", func(h hour) float64 { return float64(h.Failed) }},
		{"readers without a token", "%.0f", func(h hour) float64 { return float64(h.Unserved) }},
		{"resident, MiB", "%.0f", size},
	}
	first := table{{"the first storm, of an unknown vendor", "last, s", "throttled, %", "failed reads", "resident, MiB"}}
	for _, s := range r.Scenarios {
		h := s.Hours[0]
		first = append(first, []string{s.Name, fmt.Sprintf("%.1f", last(h)), fmt.Sprintf("%.1f", throttled(h)), strconv.Itoa(h.Failed), fmt.Sprintf("%.0f", size(h))})
	}
	header := []string{"scenario", "least, s"}
	for _, c := range columns {
		header = append(header, c.name)
	}
	t := table{header}
	for _, s := range r.Scenarios {
		row := []string{s.Name, fmt.Sprintf("%.2f", s.least().Seconds())}
		for _, c := range columns {
			m := s.over(c.of)
			row = append(row, fmt.Sprintf(c.number, m.Median)+" ("+m.Interval.format(c.number)+")")
		}
		t = append(t, row)
	}
	return []table{goalTable(r.Goals), t, first}
}
