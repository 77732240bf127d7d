// Command bench measures the engine in a real Vault server and compares it with a plugin that
// does nothing. It needs wrk. `bench storm` measures what follows when the tokens of many
// credentials expire together.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

const (
	// atMost bounds the whole run.
	atMost = 2 * time.Hour

	// defaultRounds and defaultDuration are the minimum for meaningful results. Many short
	// turns are better than a few long ones: the machine changes less within a round, and the
	// interval of the median is narrower.
	defaultRounds   = 25
	defaultDuration = time.Second

	// raft is the storage of a production server.
	raft = "raft"
)

// A bench holds the settings of a run.
type bench struct {
	vault, engine, yardstick string // paths of the binaries
	peer                     string // path of another engine; "" for none

	onlyReads   bool
	rounds      int
	duration    time.Duration // of a turn
	credentials int
	largest     int // credentials of which 1 % are read
	readers     int
	mounts      int
	settle      time.Duration // more than the minute between Vault's rollbacks

	machine machine
	log     *os.File // of the servers
}

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if len(args) > 0 && args[0] == "storm" {
		return runStorms(ctx, args[1:])
	}
	return runBench(ctx, args)
}

// runBench compares the engine with the yardstick.
func runBench(ctx context.Context, args []string) (err error) {
	b := &bench{credentials: 10_000, largest: 100_000, readers: 1_000, mounts: 200, settle: 75 * time.Second}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&b.vault, "vault", "", "the `path` of a vault or bao binary")
	flags.StringVar(&b.engine, "engine", "", "the `path` of the plugin")
	flags.StringVar(&b.yardstick, "yardstick", "", "the `path` of the plugin that does nothing")
	flags.IntVar(&b.rounds, "rounds", defaultRounds, "how many turns each side gets")
	flags.DurationVar(&b.duration, "duration", defaultDuration, "how long a turn is, in whole seconds")
	result := flags.String("json", "", "the `file` to write all figures to")
	docs := flags.String("docs", "", "the `folder` of performance.md, to rewrite the page and its plot")
	flags.BoolVar(&b.onlyReads, "reads", false, "measure only the reads beside the yardstick, and rewrite no page")
	flags.StringVar(&b.peer, "peer", "", "the `path` of another engine, openbao-plugin-secrets-oauthapp, whose cached read is measured too")
	quick := flags.Bool("quick", false, "check that the benchmark works: few and small measurements, and no page rewritten")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *quick {
		b.rounds, b.duration, b.credentials, b.largest, b.mounts, b.settle = 2, time.Second, 500, 2_000, 10, 2*time.Second
		*docs = ""
	}
	if b.onlyReads {
		*docs = ""
	}
	if *docs != "" && (b.rounds < defaultRounds || b.duration < defaultDuration) {
		return fmt.Errorf("-docs needs at least %d rounds of %s", defaultRounds, defaultDuration)
	}
	if b.rounds < 1 || b.duration < time.Second {
		return errors.New("-rounds must be at least 1 and -duration at least 1s")
	}
	ctx, end, err := b.begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = end(err) }()
	r, err := b.measure(ctx)
	if err != nil {
		return err
	}
	return r.publish(*result, *docs)
}

// begin makes the paths of the binaries absolute, describes the machine, and opens the log of the
// servers. The returned context is that of the run. Call end with its error.
func (b *bench) begin(ctx context.Context) (run context.Context, end func(error) error, err error) {
	for _, binary := range []*string{&b.vault, &b.engine, &b.yardstick, &b.peer} {
		if *binary == "" {
			continue
		}
		if *binary, err = filepath.Abs(*binary); err != nil {
			return nil, nil, err
		}
	}
	run, cancel := context.WithTimeout(ctx, atMost)
	if b.machine, err = describe(run, b.vault); err == nil {
		b.log, err = os.CreateTemp("", "bench-*.log")
	}
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return run, func(err error) error {
		cancel()
		return b.keepLog(err)
	}, nil
}

// keepLog removes the log of the servers, or adds its path to err.
func (b *bench) keepLog(err error) error {
	closed := b.log.Close()
	if err == nil {
		return cmp.Or(closed, os.Remove(b.log.Name()))
	}
	return fmt.Errorf("%w\nserver log: %s", err, b.log.Name())
}

func (b *bench) measure(ctx context.Context) (*report, error) {
	r := &report{Machine: b.machine, Time: time.Now().UTC(), Rounds: b.rounds, Seconds: b.duration.Seconds()}
	for _, storage := range []struct {
		name  string
		start starter
	}{{"dev", vaultserver.StartDev}, {raft, vaultserver.StartRaft}} {
		found, err := b.compareStorage(ctx, storage.name, storage.start)
		if err != nil {
			return nil, err
		}
		r.Comparisons = append(r.Comparisons, found...)
	}
	if b.peer != "" {
		found, err := b.comparePeer(ctx)
		if err != nil {
			return nil, err
		}
		r.Peer = []comparison{found}
	}
	if b.onlyReads {
		return r, nil
	}
	var err error
	if r.Names, err = b.many(ctx, &r.Scale); err != nil {
		return nil, err
	}
	if err = b.large(ctx, &r.Scale.Large); err != nil {
		return nil, err
	}
	if r.Scale.Storms, err = b.storms(ctx); err != nil {
		return nil, err
	}
	return r, b.idle(ctx, &r.Scale)
}

// say prints progress to standard error.
func (b *bench) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
