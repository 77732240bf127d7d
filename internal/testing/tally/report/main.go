// Command report prints the rows of a file that fault tests have recorded as a table. It fails
// if a fault caused damage, or if nothing was tried.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: report FILE")
	}
	rows, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var text strings.Builder
	text.WriteString("fault\ttried\tinvalid tokens\tcredentials lost\treads failed\tleaks\tnote\n")
	add := func(r tally.Row) {
		fmt.Fprintf(&text, "%s\t%d\t%d\t%d\t%d\t%d\t%s\n", r.Fault, r.Tried, r.Invalid, r.Lost, r.Failed, r.Leaks, r.Note)
	}
	total := tally.Row{Fault: "total"}
	for line := range bytes.Lines(rows) {
		var r tally.Row
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		add(r)
		total.Tried += r.Tried
		total.Invalid += r.Invalid
		total.Lost += r.Lost
		total.Failed += r.Failed
		total.Leaks += r.Leaks
	}
	add(total)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if _, err := io.WriteString(table, text.String()); err != nil {
		return err
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if total.Tried == 0 || total.Invalid+total.Lost+total.Failed+total.Leaks > 0 {
		return errors.New("a fault caused damage, or nothing was tried")
	}
	return nil
}
