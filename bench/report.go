package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A report holds all results of a run.
type report struct {
	Machine     machine      `json:"machine"`
	Time        time.Time    `json:"time"`
	Rounds      int          `json:"rounds"`
	Seconds     float64      `json:"turn_seconds"`
	Comparisons []comparison `json:"comparisons"`
	Peer        []comparison `json:"peer,omitempty"` // no goal depends on it
	Names       []comparison `json:"names"`
	Scale       scale        `json:"scale"`
	Goals       []goal       `json:"goals"`
}

// publish prints the report. It writes it as JSON to file, and updates the page and the plot
// in docs, unless the respective path is empty.
func (r *report) publish(file, docs string) error {
	r.Goals = r.goals()
	if err := printTables(os.Stdout, r.heading(), r.tables()); err != nil {
		return err
	}
	if err := writeJSON(file, r); err != nil || docs == "" {
		return err
	}
	if err := r.plot(filepath.Join(docs, plotFile)); err != nil {
		return err
	}
	return update(filepath.Join(docs, "performance.md"), "bench", r.markdown())
}

// writeJSON writes a report to a file, unless its name is empty.
func writeJSON(file string, report any) error {
	if file == "" {
		return nil
	}
	content, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(content, '\n'), 0o644)
}

// A table is a header followed by rows.
type table [][]string

var comparisonHeader = []string{"", "reads/s", "ratio", "95 %", "p50 ms", "p99 ms", "server µs", "plugin µs", "ratio", "95 %"}

// comparisonTable shows the medians of the base and of the subject for each figure. Ratios are
// the medians of the ratios within rounds, with their intervals.
func comparisonTable(comparisons ...comparison) table {
	t := table{comparisonHeader}
	for _, c := range comparisons {
		pair := func(of measure, format string) string {
			return fmt.Sprintf(format+" → "+format, medianOf(c.Base, of), medianOf(c.Subject, of))
		}
		speed, cpu := c.ratio(reads), c.ratio(pluginCPU)
		t = append(t, []string{
			c.What,
			pair(reads, "%.0f"),
			fmt.Sprintf("%.3f", speed.Median), speed.Interval.String(),
			pair(p50, "%.1f"), pair(p99, "%.1f"), pair(serverCPU, "%.0f"), pair(pluginCPU, "%.1f"),
			fmt.Sprintf("%.3f", cpu.Median), cpu.Interval.String(),
		})
	}
	return t
}

func (r *report) comparisonTable() table {
	all := slices.Concat(r.Comparisons, r.Peer)
	for _, c := range r.Names {
		c.What = fmt.Sprintf("one name → %d, %s", r.Scale.Credentials, c.What)
		all = append(all, c)
	}
	return comparisonTable(all...)
}

func goalTable(goals []goal) table {
	t := table{{"goal", "target", "measured", "met"}}
	for _, g := range goals {
		t = append(t, []string{g.What, g.target(), g.got(), g.verdict()})
	}
	return t
}

func (r *report) stormTable() table {
	t := table{{"path", "exchanges", "p50 ms", "p99 ms", "max ms"}}
	for _, s := range r.Scale.Storms {
		t = append(t, []string{s.Path + "/", fmt.Sprint(s.Exchanges), fmt.Sprintf("%.0f", s.P50), fmt.Sprintf("%.0f", s.P99), fmt.Sprintf("%.0f", s.Longest)})
	}
	return t
}

func (r *report) sizes() table {
	s := r.Scale
	return append(table{
		{"size", ""},
		{fmt.Sprintf("plugin with %d credentials, all cached", s.Credentials), mib(s.Resident)},
		{"the same, after a scrape of its metrics", mib(s.AfterScrape)},
		{"the same, after a restart and one read", mib(s.AfterFirst)},
		{fmt.Sprintf("scrape of the metrics of %d credentials", s.Credentials), fmt.Sprintf("%.0f ms, %.1f MiB of text", s.Scrape, s.ScrapeSize)},
		{fmt.Sprintf("sweep over %d credentials with nothing to renew", s.Credentials), fmt.Sprintf("%.1f ms", s.SweepIdle)},
		{fmt.Sprintf("sweep that renews %d more credentials", s.Due), fmt.Sprintf("%.0f ms, of which the vendor takes %.0f ms", s.SweepDue, vendorsShare(s.Due))},
		{fmt.Sprintf("first read after a restart, with %d credentials", s.Credentials), fmt.Sprintf("%.0f ms", s.FirstRead)},
		{"first read after a restart, with one credential", fmt.Sprintf("%.0f ms", s.FirstOfOne)},
		{fmt.Sprintf("each of %d idle mounts", s.Mounts), fmt.Sprintf("%.0f KiB in the plugin, %.0f KiB in the server", s.PerMount, s.ServersPer)},
		{fmt.Sprintf("each of %d idle mounts of the yardstick", s.Mounts), fmt.Sprintf("%.0f KiB in the plugin, all of it from the SDK", s.YardsticksPer)},
	}, s.Large.sizes()...)
}

func mib(n float64) string { return fmt.Sprintf("%.0f MiB resident", n) }

// sizing returns the figures for capacity planning.
func (r *report) sizing() table {
	s := r.Scale
	perCredential := 1024 * (s.Resident - s.AfterFirst) / float64(s.Credentials)
	t := table{
		{"sizing", ""},
		{"memory of the plugin", fmt.Sprintf("%.0f MiB + %.1f KiB × credentials + %.0f KiB × mounts", s.AfterFirst, perCredential, s.PerMount)},
	}
	for _, c := range r.Comparisons {
		if strings.HasSuffix(c.What, raft) {
			both := medianOf(c.Subject, serverCPU) + medianOf(c.Subject, pluginCPU)
			t = append(t, []string{c.What + ": reads per second for each core of server and plugin", fmt.Sprintf("%.0f", 1e6/both)})
		}
	}
	return append(t,
		[]string{fmt.Sprintf("%d readers at expiry: p99 wait in addition to the vendor response time", s.Storms[0].Readers),
			fmt.Sprintf("%.0f ms", s.worst(func(s storm) float64 { return s.P99 })-milliseconds(vendorsTime))},
		[]string{"first read after a restart of the plugin", fmt.Sprintf("%.0f ms", s.FirstRead)})
}

func (r *report) tables() []table {
	if len(r.Names) == 0 { // only the reads were measured
		return []table{goalTable(r.Goals), r.comparisonTable()}
	}
	return []table{goalTable(r.Goals), r.comparisonTable(), r.stormTable(), r.sizes(), r.sizing()}
}

func (r *report) heading() string {
	return fmt.Sprintf("%s: %d rounds of %g s for each plugin.\n%s.", r.Time.Format(time.DateOnly), r.Rounds, r.Seconds, r.Machine)
}

// printTables prints a report for a terminal.
func printTables(w io.Writer, heading string, tables []table) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, err := fmt.Fprintln(out, heading)
	for _, t := range tables {
		_, failure := fmt.Fprintln(out)
		err = errors.Join(err, failure)
		for _, row := range t {
			_, failure := fmt.Fprintln(out, strings.ReplaceAll(strings.Join(row, "\t"), "**", ""))
			err = errors.Join(err, failure)
		}
		err = errors.Join(err, out.Flush())
	}
	return err
}

// markdown returns the results section of the page.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString(r.heading() + "\n")
	for i, t := range r.tables() {
		b.WriteString("\n" + t.markdown())
		if i == 1 {
			b.WriteString("\n![Reads per second, relative to the yardstick, per round](" + plotFile + ")\n")
		}
	}
	return b.String()
}

func (t table) markdown() string {
	var b strings.Builder
	for i, row := range t {
		b.WriteString("| " + strings.Join(row, " | ") + " |\n")
		if i == 0 {
			b.WriteString(strings.Repeat("| --- ", len(row)) + "|\n")
		}
	}
	return b.String()
}

// update replaces the results of a target of the Makefile on a page.
func update(page, target, block string) error {
	content, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	if content, err = rewrite(content, target, block); err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	return os.WriteFile(page, content, 0o644)
}

// rewrite replaces the text between the markers of a target by block.
func rewrite(page []byte, target, block string) ([]byte, error) {
	begin, end := marker(target, "begin"), marker(target, "end")
	before, rest, begun := strings.Cut(string(page), begin)
	_, after, ended := strings.Cut(rest, end)
	if !begun || !ended {
		return nil, fmt.Errorf("no section for results: add the lines %q and %q", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return []byte(before + begin + "\n" + block + "\n" + end + after), nil
}

func marker(target, which string) string { return "<!-- make " + target + ": " + which + " -->\n" }
