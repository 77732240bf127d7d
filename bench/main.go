// Command bench measures the engine in a real server, beside a plugin that does nothing.
// It needs wrk.
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
	// atMost is how long all of it may take.
	atMost = 2 * time.Hour

	// defaultRounds and defaultDuration are the fewest and the shortest turns that say
	// something. Many short ones are better than a few long ones: less happens between
	// those of one round, and the interval of their median is narrower.
	defaultRounds   = 25
	defaultDuration = time.Second

	// raft is how a server stores that is not for trying out.
	raft = "raft"
)

// A bench is what is to be measured, and how.
type bench struct {
	vault, engine, yardstick string // binaries

	rounds      int
	duration    time.Duration // of a turn
	credentials int
	readers     int
	mounts      int
	settle      time.Duration // Vault's rollbacks come once a minute

	machine machine
	log     *os.File // the servers'
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	b := &bench{credentials: 10_000, readers: 1_000, mounts: 200, settle: 75 * time.Second}
	flag.StringVar(&b.vault, "vault", "", "the `path` of a vault or bao binary")
	flag.StringVar(&b.engine, "engine", "", "the `path` of the plugin")
	flag.StringVar(&b.yardstick, "yardstick", "", "the `path` of the plugin that does nothing")
	flag.IntVar(&b.rounds, "rounds", defaultRounds, "how many turns each side gets")
	flag.DurationVar(&b.duration, "duration", defaultDuration, "how long a turn is, in whole seconds")
	result := flag.String("json", "", "the `file` to write all figures to")
	docs := flag.String("docs", "", "the `folder` of performance.md, to rewrite the page and its plot")
	quick := flag.Bool("quick", false, "check that the benchmark works: few and small measurements, and no page rewritten")
	flag.Parse()
	if *quick {
		b.rounds, b.duration, b.credentials, b.mounts, b.settle = 2, time.Second, 500, 10, 2*time.Second
		*docs = ""
	}
	if *docs != "" && (b.rounds < defaultRounds || b.duration < defaultDuration) {
		return fmt.Errorf("-docs needs at least %d rounds of %s", defaultRounds, defaultDuration)
	}
	if b.rounds < 1 || b.duration < time.Second {
		return errors.New("-rounds must be at least 1 and -duration at least 1s")
	}
	for _, binary := range []*string{&b.vault, &b.engine, &b.yardstick} {
		if *binary, err = filepath.Abs(*binary); err != nil {
			return err
		}
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	if b.machine, err = describe(ctx, b.vault); err != nil {
		return err
	}
	if b.log, err = os.CreateTemp("", "bench-*.log"); err != nil {
		return err
	}
	defer func() { err = b.keepLog(err) }()
	r, err := b.measure(ctx)
	if err != nil {
		return err
	}
	return r.publish(*result, *docs)
}

// keepLog removes the servers' log, unless something failed.
func (b *bench) keepLog(err error) error {
	closed := b.log.Close()
	if err == nil {
		return cmp.Or(closed, os.Remove(b.log.Name()))
	}
	return fmt.Errorf("%w\nThe servers' log is in %s", err, b.log.Name())
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
	var err error
	if r.Names, err = b.many(ctx, &r.Scale); err != nil {
		return nil, err
	}
	if r.Scale.Storms, err = b.storms(ctx); err != nil {
		return nil, err
	}
	return r, b.idle(ctx, &r.Scale)
}

// say tells of progress.
func (b *bench) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
