package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/internal/wire"
)

// An app holds what the commands share: the streams and the global flags.
type app struct {
	in     io.Reader
	out    *output
	err    io.Writer
	say    func(text string) // if set, receives notes instead of err
	footer *footer           // nil if there is none

	progress progress
	filter   eventFilter

	noOut bool   // standard output was closed when the program started
	ran   bool   // a command was started
	done  string // what it has changed, for an error of its output

	servers []string
	source  *chosenSource // if set, the command is about it and not about a server
	// stranger is true if the command is about a source, or about a server that is not in the
	// settings: neither gets credentials of the settings.
	stranger bool
	named    bool // --server is on the command line
	cache    string

	credentials credentials
	headers     http.Header // of --header
	tokens      commandTokens
	tls         *tls.Config // for connections to the servers, nil for the system's way
	exposed     sync.Map    // names of files that warnIfExposed has checked
	left        sync.Map    // servers that onLeave has named, and when

	quiet   bool
	config  string
	timeout time.Duration // 0 means no limit

	settings *settings

	args     []string               // of the program
	onServe  func(serveOptions)     // if set, receives the options and serveFile does not run
	onHangup atomic.Pointer[func()] // if set, SIGHUP calls it instead of ending the program
	onKill   atomic.Pointer[func()] // if set, a second signal calls it before it kills
}

// Groups of commands in the help.
const (
	groupRead    = "read"
	groupWrite   = "write"
	groupInspect = "inspect"
	groupServe   = "serve"
	groupTools   = "tools"
)

func run(args []string, stdin io.Reader, stdout, stderr *os.File) int {
	// Writing to a closed pipe must be an error, not a signal that kills. Programs that are started
	// would inherit an ignored signal.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	a := &app{in: stdin, err: stderr}
	ctx, stop := a.withSignals(context.Background())
	defer stop()
	a.args = args
	a.out = newOutput(ctx, stdout)
	a.footer = newFooter(ctx, a.out, stderr)
	a.progress.a = a
	root := newRootCommand(a)
	if len(args) > 0 && args[0] == cobra.ShellCompRequestCmd {
		plainUsages(root)
	}
	root.SetArgs(numbersLast(root, args))
	root.SetIn(stdin)
	root.SetErr(stderr)
	others := []*os.File{stderr}
	if f, ok := stdin.(*os.File); ok {
		if neverOpened(f, stdout, stderr) {
			a.in = closedInput{}
		}
		others = append(others, f)
	}
	a.noOut = neverOpened(stdout, others...)
	cmd, err := root.ExecuteContextC(ctx)
	if ferr := a.out.flush(); err == nil {
		err = ferr
	}
	err = a.claimDone(err)
	a.noteFilter()
	a.progress.end()
	a.footer.end()
	if err == nil && a.noOut && !a.ran {
		err = errNoStdout // help is printed before any command runs
	}
	return a.reportError(ctx, stderr, cmd, err)
}

// prepareCommand runs before each command.
func (a *app) prepareCommand(cmd *cobra.Command, args []string) error {
	if err := a.configure(cmd, args); err != nil {
		return err
	}
	if err := a.prepareFilter(cmd); err != nil {
		return err
	}
	if a.noOut && a.mayPrint(cmd) {
		return errNoStdout
	}
	a.ran = true
	return nil
}

// errNoStdout is returned before a command does anything: its output would be the only
// report of what it did.
var errNoStdout = &exitError{exitFailed, "standard output is closed (or /dev/null, open to be read, too)",
	"to discard the output, redirect it with >/dev/null"}

// silentAnnotation marks commands that print nothing to standard output: always; with
// --quiet and without --print; with --quiet and --check or --ready; or with a file in --to, or as an
// argument.
const (
	silentAnnotation = "silent"
	silentAlways     = "always"
	silentIfQuiet    = "quiet"
	silentIfChecked  = "checked"
	silentIfFile     = "file"
)

// mayPrint reports whether cmd may print something.
func (a *app) mayPrint(cmd *cobra.Command) bool {
	switch cmd.Annotations[silentAnnotation] {
	case silentAlways:
		return false
	case silentIfFile:
		if f := cmd.Flags().Lookup("to"); f != nil {
			return f.Value.String() == "" || f.Value.String() == "-"
		}
		return slices.Contains(cmd.Flags().Args(), "-")
	case silentIfChecked:
		return !a.quiet || !isSwitchedOn(cmd, "check") && !isSwitchedOn(cmd, "ready")
	case silentIfQuiet:
		return !a.quiet || isSwitchedOn(cmd, "print")
	}
	return true
}

func isSwitchedOn(cmd *cobra.Command, name string) bool {
	on, err := cmd.Flags().GetBool(name)
	return err == nil && on
}

// A closedInput is standard input that was closed when the program started. It must not
// look like empty input, which is a valid end.
type closedInput struct{}

func (closedInput) Read([]byte) (int, error) {
	return 0, errors.New("standard input is closed (or /dev/null, open to be written, too)")
}

// A signalError is the cause of a context that a signal ended.
type signalError struct{ signal os.Signal }

func (e *signalError) Error() string { return e.signal.String() }

// withSignals returns a context that the first interrupt, termination or hangup ends. A
// second signal kills, as usual, after onKill, if that is set, unless both are hangups. A hangup
// that was ignored when the program started, as under nohup, stays ignored; onHangup, if set,
// handles it otherwise.
func (a *app) withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals, over := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	go func() {
		for {
			select {
			case s := <-signals:
				if hook := a.onHangup.Load(); hook != nil && s == syscall.SIGHUP {
					(*hook)()
					continue
				}
				a.awaitKill(signals, s, over, func() { cancel(&signalError{s}) })
			case <-over:
			}
			return
		}
	}()
	return ctx, func() { signal.Stop(signals); close(over); cancel(nil) }
}

// awaitKill calls end after the first signal, and lets the next one kill the program. After a
// hangup, another one does not: when a terminal closes, its shell sends one to its jobs, and the
// kernel another.
func (a *app) awaitKill(signals chan os.Signal, first os.Signal, over <-chan struct{}, end func()) {
	if first == syscall.SIGHUP {
		signal.Notify(make(chan os.Signal, 1), first) // until the program ends
	}
	hook := a.onKill.Load()
	if hook == nil {
		signal.Stop(signals)
		end()
		return
	}
	end()
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGHUP && first == s {
				continue
			}
			(*hook)()
			signal.Stop(signals)
			if self, err := os.FindProcess(os.Getpid()); err != nil || self.Signal(s) != nil {
				os.Exit(exitFailed)
			}
		case <-over:
		}
		return
	}
}

const rootLong = `rstream keeps a local, queryable, provably complete copy of remote event
streams, for shells and programs.

Topics:
  alice           all of alice            alice/posts/1$   that path only
  alice/posts     the path and below      */posts          of any user
  alice/posts/    only paths below        *                everything (--all)
  alice/po*       any path with this prefix

Moments:
  24h 7d 1d12h    that long ago           14:05 2:05pm     the last one
  2026-11-20      the start of that day   yesterday 14:05  a local date and time
  2026-11-20T10:00:00Z, 1763640000        beginning, now, or an event's id`

const rootExample = `  rstream serve
  rstream put alice/posts/1 '{"n":1}'
  rstream tail alice/posts
  rstream sync alice --since 24h
  rstream log alice | jq .value
  rstream state alice --at 14:05`

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:               "rstream",
		Short:             "Keep a complete local copy of remote event streams",
		Long:              rootLong,
		Example:           rootExample,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Version:           programVersion(),
		PersistentPreRunE: a.prepareCommand,
		Args:              knownCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("rstream {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	// Output of cobra itself, such as help, goes through a.out, since cobra drops write
	// errors. Set it first: the completion commands keep the writer that is set when
	// they are created.
	root.SetOut(a.out.w)
	a.addGlobalFlags(root)
	addCommands(a, root)
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpTemplate(helpTemplate)
	return root
}

func (a *app) addGlobalFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.SortFlags = false
	flags.StringArrayVarP(&a.servers, "server", "s", []string{defaultServer}, "`URL` of the server, or its name in the config; repeat for more servers of the same log")
	a.credentials.addCredentialFlags(flags)
	flags.StringVar(&a.cache, "cache", "", "`FILE` of the local copy (default: one per log in the data directory)")
	flags.VarP(&a.out.form, "output", "o", "`FORM` of the output, text or json (default: text on a terminal, JSON lines in a pipe)")
	a.out.colouring = colourAuto
	flags.Var(&a.out.colouring, "color", "colours in text: `WHEN` is auto, always or never (only on a terminal; NO_COLOR turns them off)")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "print only errors")
	flags.Var((*waitLimit)(&a.timeout), "timeout", "give up, with status 5, after `DURATION` without progress from a server (default: keep trying)")
	flags.StringVar(&a.config, "config", "", "`FILE` of settings (default: rstream/config.yaml in the config directory)")
	flags.Lookup("server").DefValue = defaultServer
	completeFlag(root, "color", string(colourAuto), string(colourAlways), string(colourNever))
	completeFlag(root, "output", string(formText), string(formJSON))
	_ = root.RegisterFlagCompletionFunc("server", a.completeServers) // fails only for an unknown flag
}

// synonyms are the names that other programs have for commands, for suggestions.
var synonyms = map[string][]string{
	"tail":  {"subscribe", "watch", "follow", "listen", "stream"},
	"sync":  {"pull", "fetch", "clone", "mirror", "download"},
	"log":   {"history", "read", "events", "query"},
	"state": {"snapshot", "latest"},
	"get":   {"cat", "show"},
	"put":   {"publish", "append", "write", "set", "send", "pub", "add"},
	"del":   {"delete", "rm", "remove", "unset"},
	"ls":    {"list", "users", "topics", "storages", "du"},

	"status":  {"info", "health"},
	"top":     {"board", "readers", "connections", "who"},
	"cursor":  {"cursors", "offset", "position"},
	"dead":    {"dlq", "deadletter", "deadletters"},
	"forget":  {"drop", "prune", "purge"},
	"serve":   {"start", "run", "daemon"},
	"export":  {"dump"},
	"import":  {"load"},
	"salvage": {"recover", "repair"},
	"doctor":  {"diagnose", "ping"},
	"config":  {"settings"},
	"server":  {"servers", "remote"},
}

func addCommands(a *app, root *cobra.Command) {
	cobra.EnableCommandSorting = false
	root.AddGroup(&cobra.Group{ID: groupRead, Title: "Read:"}, &cobra.Group{ID: groupWrite, Title: "Write:"},
		&cobra.Group{ID: groupInspect, Title: "Inspect:"}, &cobra.Group{ID: groupServe, Title: "Serve:"},
		&cobra.Group{ID: groupTools, Title: "Tools:"})
	root.SetHelpCommand(newHelpCommand())
	root.SetCompletionCommandGroupID(groupTools)
	root.AddCommand(
		newTailCommand(a), newSyncCommand(a), newLogCommand(a), newStateCommand(a), newGetCommand(a),
		newPutCommand(a), newDelCommand(a), newOutboxCommand(a),
		newLsCommand(a), newStatusCommand(a), newTopCommand(a), newWindowsCommand(a), newVerifyCommand(a), newCursorCommand(a), newDeadCommand(a), newForgetCommand(a),
		newServeCommand(a), newClusterCommand(a), newKeyCommand(a), newTokenCommand(a), newBackupCommand(a), newCompactCommand(a),
		newExportCommand(a), newImportCommand(a), newSalvageCommand(a), newDoctorCommand(a), newConfigCommand(a), newServerCommand(a), newSourceCommand(a), newDemoCommand(a), newBenchCommand(a), newManCommand(a), newVersionCommand(a),
	)
	for _, cmd := range root.Commands() {
		cmd.SuggestFor = synonyms[cmd.Name()]
	}
	root.InitDefaultCompletionCmd()
	if cmd, _, err := root.Find([]string{"completion"}); err == nil {
		describeCompletion(cmd)
	}
}

// A usageError is a mistake in the command line or the settings.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// writeAside writes lines to standard error.
func (a *app) writeAside(text string) error {
	if a.footer != nil {
		a.footer.write(text)
		return nil
	}
	_, err := io.WriteString(a.err, text)
	return err
}

// note prints a note for a person, except with --quiet.
func (a *app) note(format string, args ...any) {
	text := visibleLine(wire.Redact(fmt.Sprintf(format, args...)))
	switch {
	case a.quiet:
	case a.say != nil:
		a.say(text)
	case a.footer != nil:
		a.footer.note(text)
	default:
		fmt.Fprintf(a.err, "rstream: %s\n", text)
	}
}
