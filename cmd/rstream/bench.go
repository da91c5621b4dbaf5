package main

import (
	"cmp"
	"context"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/internal/bench"
)

func newBenchCommand(a *app) *cobra.Command {
	var cfg bench.Config
	cmd := &cobra.Command{
		Use:     "bench [COMMAND]",
		GroupID: groupTools,
		Short:   "Benchmark against the machine's limits",
		Long: `Benchmark a server and a client on this machine, in turns with the limit of each
benchmark: a handler that does nothing, a bare broadcaster, raw inserts into SQLite, a
plain file, bytes from memory, one topic instead of many. The result is the ratio, and
the command fails if a ratio misses its goal. Without COMMAND, run all benchmarks except
compare, in some minutes.

A goal applies to the ratio, or to the value if there is no limit. Rates must reach the
goal; other values must not exceed it. A goal in parentheses is a further one, which may
be missed. A lost or repeated event is an error.

The server is a separate process with a log in a temporary folder, or the server named
by --server on the command line, which then keeps the test events; readers, idle, topics,
state, open and reconcile always start their own.`,
		Example: `  rstream bench
  rstream bench append --for 30s
  rstream bench sync --events 1000000 -o json
  rstream bench compare`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return runBench(cmd.Context(), a, cfg, bench.Benchmarks) },
	}
	f := cmd.PersistentFlags()
	f.SortFlags = false
	f.IntVar(&cfg.Events, "events", 100_000, "number of `EVENTS` in a log that is read, and the most that are appended")
	f.DurationVar(&cfg.Time, "for", 3*time.Second, "append one by one for `DURATION`, alone or to subscribers")
	f.BoolVar(&a.progress.lines, progressFlag, false, progressUsage)
	for _, b := range append(slices.Clone(bench.Benchmarks), bench.Comparison) {
		cmd.AddCommand(&cobra.Command{
			Use: b.Name, Short: b.Short, Long: cmp.Or(b.Long, b.Short+"."), Example: "  rstream bench " + b.Name, Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return runBench(cmd.Context(), a, cfg, []bench.Benchmark{b})
			},
		})
	}
	cmd.AddCommand(newBenchLimitCommand(), newBenchServerCommand(a), newBenchWorkerCommand())
	return cmd
}

// errGoalMissed ends the program with status 1. The results have already been printed.
var errGoalMissed = &exitError{status: exitFailed}

func runBench(ctx context.Context, a *app, cfg bench.Config, benchmarks []bench.Benchmark) error {
	if cfg.Events < 1 {
		return usagef("--events %d: want at least 1", cfg.Events)
	}
	if cfg.Time < time.Millisecond {
		return usagef("--for %s: want at least 1ms", cfg.Time)
	}
	if a.named { // a server that is only configured must not receive test events
		cfg.Server, cfg.Access = a.servers[0], client.Config{Token: a.serverToken, Header: a.requestHeaders, TLS: a.tls}
		cfg.Environ = a.credentialVariables(cfg.Server)
	}
	cfg.Progress, cfg.Note = a.reportBench, a.note
	results, err := bench.Run(ctx, cfg, benchmarks)
	a.progress.end()
	if err != nil {
		return err
	}
	if len(results) == 0 {
		return nil
	}
	if err := a.printResults(results); err != nil {
		return err
	}
	if slices.ContainsFunc(results, func(r bench.Result) bool { return !r.Pass }) {
		return errGoalMissed
	}
	return nil
}

func (a *app) printResults(results []bench.Result) error {
	if a.out.isForPerson() {
		return a.out.nameOutput(bench.WriteTable(a.out.w, results))
	}
	for _, r := range results {
		if err := a.out.writeJSON(r); err != nil {
			return err
		}
	}
	return nil
}

// reportBench reports how far a benchmark is.
func (a *app) reportBench(name string, part float64) {
	a.progress.report(stage{verb: name, unit: inParts}, int64(part*partsOfWhole), partsOfWhole)
}

// newBenchLimitCommand serves bench.Nothing, the limit that servers are compared with.
func newBenchLimitCommand() *cobra.Command {
	var urlFile string
	cmd := &cobra.Command{
		Use: "limit", Short: "Serve what does nothing", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			go bench.CollectOnDemand(cmd.InOrStdin(), os.Stdout) // not buffered
			return bench.ServeLimit(cmd.Context(), func(url string) error { return writeURL(urlFile, url) })
		},
	}
	cmd.Flags().StringVar(&urlFile, "url-file", "", "write the URL to `FILE`")
	return cmd
}

// newBenchWorkerCommand is a worker that does nothing, for "tail --pipe".
func newBenchWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use: "worker", Short: "Answer lines with ids", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return bench.AnswerLines(cmd.InOrStdin(), os.Stdout) }, // not buffered
	}
}

// newBenchServerCommand serves a log as serve does, in a process that collects garbage
// on demand.
func newBenchServerCommand(a *app) *cobra.Command {
	o := serveOptions{listen: "127.0.0.1:0", heartbeat: 15 * time.Second, logFlags: logFlags{logFormat: "text", logLevel: "info"}}
	cmd := &cobra.Command{
		Use: "server", Short: "Serve a log whose memory is measured", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.quiet = true
			go bench.CollectOnDemand(cmd.InOrStdin(), os.Stdout) // not buffered
			return runServe(cmd.Context(), a, o)
		},
	}
	cmd.Flags().StringVar(&o.db, "db", "", "`FILE` of the log")
	cmd.Flags().StringVar(&o.urlFile, "url-file", "", "write the URL to `FILE`")
	return cmd
}
