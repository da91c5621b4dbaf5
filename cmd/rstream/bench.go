package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
)

type benchOptions struct {
	events int
	time   time.Duration
	server string // empty: one of its own
}

// A benchWork is one thing to measure.
type benchWork struct {
	name, short string
	run         func(*benchRun, context.Context) error
}

var benchWorks = []benchWork{
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

func newBenchCommand(a *app) *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:     "bench [COMMAND]",
		GroupID: groupTools,
		Short:   "Benchmark against the machine's limits",
		Long: `Benchmark a server and a client on this machine, in turns with the limit of each
benchmark: a handler that does nothing, a bare broadcaster, raw inserts into SQLite,
bytes from memory. The result is the ratio, and the command fails if a ratio misses its
goal. Without COMMAND, run all benchmarks, in a minute or two.

A goal applies to the ratio, or to the value if there is no limit. Rates must reach the
goal; other values must not exceed it. A lost or repeated event is an error.

The server is a separate process with a log in a temporary folder, or the server named
by --server on the command line, which then keeps the test events; readers, idle, state,
open and reconcile always start their own.`,
		Example: `  rstream bench
  rstream bench append --for 30s
  rstream bench sync --events 1000000 -o json`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return runBench(cmd, a, o, benchWorks) },
	}
	f := cmd.PersistentFlags()
	f.SortFlags = false
	f.IntVar(&o.events, "events", 100_000, "number of `EVENTS` in a log that is read, and the most that are appended")
	f.DurationVar(&o.time, "for", 3*time.Second, "append one by one for `DURATION`, alone or to subscribers")
	for _, w := range benchWorks {
		cmd.AddCommand(&cobra.Command{
			Use: w.name, Short: w.short, Long: w.short + ".", Example: "  rstream bench " + w.name, Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return runBench(cmd, a, o, []benchWork{w}) },
		})
	}
	cmd.AddCommand(newBenchLimitCommand(), newBenchServerCommand(a))
	return cmd
}

// errGoalMissed ends the program with status 1: what there is to say has been said.
var errGoalMissed = &exitError{status: exitFailed}

func runBench(cmd *cobra.Command, a *app, o benchOptions, works []benchWork) (err error) {
	if o.events < 1 {
		return usagef("--events %d: want at least 1", o.events)
	}
	if o.time < time.Millisecond {
		return usagef("--for %s: want at least 1ms", o.time)
	}
	if a.named { // what is only set up somewhere must not get test events
		o.server = a.servers[0]
	}
	dir, err := os.MkdirTemp("", "rstream-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &benchRun{benchOptions: o, app: a, dir: dir}
	for _, w := range works {
		if err := w.run(r, cmd.Context()); err != nil {
			return fmt.Errorf("bench %s: %w", w.name, err)
		}
	}
	if err := r.print(); err != nil {
		return err
	}
	if slices.ContainsFunc(r.results, func(b benchResult) bool { return !b.Pass }) {
		return errGoalMissed
	}
	return nil
}

// A benchRun is one run of the command.
type benchRun struct {
	benchOptions
	app     *app
	dir     string
	log     *filledLog // see filled
	results []benchResult
}

// A benchResult is one line of the output. The limit is in the value's unit.
type benchResult struct {
	Type  string   `json:"type"`
	Name  string   `json:"name"`
	Value float64  `json:"value"`
	Unit  string   `json:"unit"`
	Limit *float64 `json:"limit,omitempty"`
	Ratio *float64 `json:"ratio,omitempty"` // of value to limit
	Goal  *float64 `json:"goal,omitempty"`  // for the ratio, or without a limit for the value: at least for a rate, at most for anything else
	Pass  bool     `json:"pass"`
}

// say adds a figure that has no goal.
func (r *benchRun) say(name string, value float64, unit string) {
	r.add(benchResult{Name: name, Value: value, Unit: unit, Pass: true})
}

// atLeast adds a figure whose ratio to its limit has a goal.
func (r *benchRun) atLeast(name string, value, limit float64, unit string, goal float64) {
	ratio := value / limit
	r.add(benchResult{Name: name, Value: value, Unit: unit, Limit: &limit, Ratio: &ratio, Goal: &goal, Pass: ratio >= goal})
}

// compare adds a figure of which less is better, beside its limit; their ratio has a
// goal unless that is 0.
func (r *benchRun) compare(name string, value, limit float64, unit string, goal float64) {
	ratio := value / limit
	b := benchResult{Name: name, Value: value, Unit: unit, Limit: &limit, Ratio: &ratio, Pass: true}
	if goal > 0 {
		b.Goal, b.Pass = &goal, ratio <= goal
	}
	r.add(b)
}

// atMost adds a figure that has a goal itself.
func (r *benchRun) atMost(name string, value float64, unit string, goal float64) {
	r.add(benchResult{Name: name, Value: value, Unit: unit, Goal: &goal, Pass: value <= goal})
}

func (r *benchRun) add(b benchResult) {
	b.Type, b.Value = "bench", rounded(b.Value)
	for _, v := range []*float64{b.Limit, b.Ratio} {
		if v != nil {
			*v = rounded(*v)
		}
	}
	r.results = append(r.results, b)
}

func rounded(v float64) float64 { return math.Round(v*1000) / 1000 }

func (r *benchRun) print() error {
	r.progress("", 0)
	if !r.app.out.text() {
		for _, b := range r.results {
			if err := r.app.out.json(b); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(r.app.out.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tvalue\tlimit\tratio\tgoal\t")
	for _, b := range r.results {
		fmt.Fprintf(w, "%s\t%s %s\t%s\t%s\t%s\t%s\n", b.Name, figure(b.Value), b.Unit,
			ifGiven(b.Limit, figure), ifGiven(b.Ratio, ratio), b.goal(), b.verdict())
	}
	return r.app.out.named(w.Flush())
}

func (b *benchResult) goal() string {
	switch {
	case b.Goal == nil:
		return ""
	case strings.HasSuffix(b.Unit, "/s"):
		return "≥ " + ratio(*b.Goal)
	case b.Limit != nil:
		return "≤ " + ratio(*b.Goal)
	}
	return "≤ " + figure(*b.Goal)
}

func (b *benchResult) verdict() string {
	switch {
	case b.Goal == nil:
		return ""
	case b.Pass:
		return "ok"
	}
	return "missed"
}

func ifGiven(v *float64, form func(float64) string) string {
	if v == nil {
		return ""
	}
	return form(*v)
}

func ratio(v float64) string { return fmt.Sprintf("%.2f", v) }

// figure writes a number with three digits that count.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// progress shows a person how far some work is; an empty name takes the bar away.
func (r *benchRun) progress(name string, part float64) {
	f, ok := r.app.err.(*os.File)
	if !ok || r.app.quiet || !isatty.IsTerminal(f.Fd()) {
		return
	}
	const width = 30
	bar := ""
	if name != "" {
		n := int(part * width)
		bar = fmt.Sprintf("%-14s [%s%s]", name, strings.Repeat("#", n), strings.Repeat(" ", width-n))
	}
	fmt.Fprintf(f, "\r%-*s\r%s", width+20, "", bar)
}
