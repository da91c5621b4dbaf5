package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// A Benchmark is one thing to measure.
type Benchmark struct {
	Name, Short string
	run         func(*benchRun, context.Context) error
}

// Benchmarks are all that there are, in the order in which they run.
var Benchmarks = []Benchmark{
	{"append", "Append one event a request from 64 publishers, and batches of 1,000", (*benchRun).append},
	{"sync", "Fetch a log into a local copy", (*benchRun).sync},
	{"replay", "Read a log from its beginning over one stream", (*benchRun).replay},
	{"fanout", "Send events to 100 and to 1,000 subscribers", (*benchRun).fanout},
	{"readers", "Send events to 1,000 readers, one of which never reads and one is slow", (*benchRun).readers},
	{"idle", "Hold 2,000 idle subscribers", (*benchRun).idle},
	{"state", "Read the state of 10,000 storages at random moments", (*benchRun).state},
	{"open", "Open a log, and read one storage", (*benchRun).open},
	{"reconcile", "Find the missing events of a log", (*benchRun).reconcile},
	{"match", "Match an event against a million subscriptions", (*benchRun).match},
}

// Config configures a Run.
type Config struct {
	Events   int                             // in a log that is read, and the most that are appended
	Time     time.Duration                   // for how long events are appended one by one
	Server   string                          // that is measured; if empty, one of its own
	Progress func(name string, part float64) // is told how far some work is
}

// Run measures works and returns the results.
func Run(ctx context.Context, cfg Config, works []Benchmark) (results []Result, err error) {
	dir, err := os.MkdirTemp("", "rstream-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &benchRun{cfg: cfg, dir: dir}
	for _, w := range works {
		if err := w.run(r, ctx); err != nil {
			return nil, fmt.Errorf("bench %s: %w", w.Name, err)
		}
	}
	return r.results, nil
}

// A benchRun is one run of the command.
type benchRun struct {
	cfg     Config
	dir     string
	log     *filledLog // see filled
	results []Result
}

func (r *benchRun) progress(name string, part float64) { r.cfg.Progress(name, part) }
