// Command report prints the rows that tests have recorded, of a file that it is given, as
// one table. It fails if anything came of the faults, or if nothing was tried.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"vault-plugin-secrets-tokenbroker/internal/tally"
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
	file, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer file.Close()
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "fault\ttried\tserved dead\tcredentials lost\treads failed\tleaks\tnote")
	total := tally.Row{Fault: "in all"}
	print := func(r tally.Row) {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%s\n", r.Fault, r.Tried, r.Dead, r.Lost, r.Failed, r.Leaks, r.Note)
	}
	for decoder := json.NewDecoder(file); ; {
		var r tally.Row
		if err := decoder.Decode(&r); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		print(r)
		total.Tried += r.Tried
		total.Dead += r.Dead
		total.Lost += r.Lost
		total.Failed += r.Failed
		total.Leaks += r.Leaks
	}
	print(total)
	if err := table.Flush(); err != nil {
		return err
	}
	if total.Tried == 0 || total.Dead+total.Lost+total.Failed+total.Leaks > 0 {
		return errors.New("the faults have left something behind, or nothing was tried")
	}
	return nil
}
