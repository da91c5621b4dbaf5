package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/rstream-dev/rstream/client"
)

// A Benchmark is one benchmark of Run.
type Benchmark struct {
	Name, Short string
	Long        string // if empty, Short says it all
	run         func(*runner, context.Context) error
}

// Benchmarks lists all benchmarks in the order in which they run.
var Benchmarks = []Benchmark{
	{Name: "append", Short: "Append one event a request, and batches of 1,000", run: (*runner).benchAppend},
	{Name: "put", Short: "Append the lines of a file with \"rstream put --from\"", Long: putHelp, run: (*runner).benchPut},
	{Name: "sync", Short: "Fetch a log into a local copy", run: (*runner).benchSync},
	{Name: "topics", Short: "Fetch 14, 50 and 100 topics one after another, and 50 at once", Long: topicsHelp, run: (*runner).benchTopics},
	{Name: "forget", Short: "Remove a topic from a local copy", Long: forgetHelp, run: (*runner).benchForget},
	{Name: "consume", Short: "Start processes for events, and ask workers", Long: consumeHelp, run: (*runner).benchConsume},
	{Name: "replay", Short: "Read a log from its beginning over one stream", run: (*runner).benchReplay},
	{Name: "fanout", Short: "Send events to 100 and to 1,000 subscribers", run: (*runner).benchFanout},
	{Name: "readers", Short: "Send events to 1,000 readers, one of which never reads", run: (*runner).benchReaders},
	{Name: "idle", Short: "Hold 2,000 idle subscribers", run: (*runner).benchIdle},
	{Name: "state", Short: "Read the state of 10,000 storages at random moments", Long: stateHelp, run: (*runner).benchState},
	{Name: "open", Short: "Open a log, and read one storage", run: (*runner).benchOpen},
	{Name: "disk", Short: "Store events in a file, and drop most of them again", Long: diskHelp, run: (*runner).benchDisk},
	{Name: "reconcile", Short: "Find the missing events of a log", run: (*runner).benchReconcile},
	{Name: "match", Short: "Match an event against a million subscriptions", run: (*runner).benchMatch},
}

// Config configures a Run.
type Config struct {
	Events   int                              // events in a log that is read, and the most that are appended
	Time     time.Duration                    // how long to append events one by one
	Server   string                           // URL of the server to measure; if empty, Run starts one
	Access   client.Config                    // of clients of Server: its Token, Header and TLS are used
	Environ  []string                         // the same credentials for programs that use Server
	Progress func(name string, part float64)  // called as a step proceeds; part goes from 0 to 1
	Note     func(format string, args ...any) // called with each thing not measured, and why
}

// Run runs benchmarks and returns the results.
func Run(ctx context.Context, cfg Config, benchmarks []Benchmark) (results []Result, err error) {
	dir, err := os.MkdirTemp("", "rstream-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &runner{cfg: cfg, dir: dir}
	ctx = cfg.withAccess(ctx)
	for _, b := range benchmarks {
		if err := b.run(r, ctx); err != nil {
			return nil, fmt.Errorf("bench %s: %w", b.Name, err)
		}
	}
	return r.results, nil
}

// A runner holds the state of one Run.
type runner struct {
	cfg     Config
	dir     string
	log     *filledLog // see openFilled
	results []Result
}

func (r *runner) reportProgress(name string, part float64) { r.cfg.Progress(name, part) }
