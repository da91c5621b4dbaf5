package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Exit statuses. They are a promise to scripts.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitGap         = 3
	exitNotAllowed  = 4
	exitUnreachable = 5
	exitHungUp      = 129
	exitInterrupted = 130
	exitTerminated  = 143
)

// An exitError ends the program with a status and, if text is not empty, an error
// and what to do about it.
type exitError struct {
	status int
	text   string
	hint   string
}

func (e *exitError) Error() string { return e.text }

// report says what failed and what to do about it and returns the exit status.
func report(ctx context.Context, stderr io.Writer, cmd *cobra.Command, err error) int {
	var sig *signalError
	if errors.As(context.Cause(ctx), &sig) && (err == nil || errors.Is(err, context.Canceled) || errors.As(err, &sig)) {
		var claim *claimError
		if errors.As(err, &claim) { // what was appended must be said, however the command ends
			say(stderr, cmd, err)
		}
		return signalStatus(cmd, sig)
	}
	if onlyClosed(err) {
		return exitDone
	}
	var exit *exitError
	if errors.As(err, &exit) && exit.text == "" {
		return exit.status
	}
	say(stderr, cmd, err)
	return status(err)
}

// onlyClosed reports whether nothing is wrong but that the reader of the output has left.
func onlyClosed(err error) bool {
	var many interface{ Unwrap() []error }
	if !errors.As(err, &many) {
		return err == nil || errors.Is(err, errClosedStdout)
	}
	return !slices.ContainsFunc(many.Unwrap(), func(err error) bool { return !onlyClosed(err) })
}

// say writes an error and its hint.
func say(stderr io.Writer, cmd *cobra.Command, err error) {
	for line := range strings.SplitSeq(visibleLines(wire.Redact(err.Error())), "\n") {
		fmt.Fprintf(stderr, "rstream: error: %s\n", line)
	}
	if h := hint(cmd, err); h != "" {
		fmt.Fprintf(stderr, "rstream: hint: %s\n", visibleLines(h))
	}
}

// signalStatus is 130 for an interrupt and 129 for a hangup. The commands that run until they are told
// to stop have done their work when they are told by SIGTERM, and a server when it
// is told at all.
func signalStatus(cmd *cobra.Command, sig *signalError) int {
	name := ""
	if cmd != nil {
		name = cmd.Name()
	}
	interrupted := sig.signal == os.Interrupt
	switch {
	case name == "serve":
		return exitDone
	case interrupted:
		return exitInterrupted
	case sig.signal == syscall.SIGHUP:
		return exitHungUp
	case name == "tail" || name == "sync" || name == "state":
		return exitDone
	}
	return exitTerminated
}

func status(err error) int {
	var (
		usage       *usageError
		gap         *client.GapError
		unreachable *client.UnreachableError
		answer      *client.StatusError
		timeout     *client.TimeoutError
		exit        *exitError
	)
	switch {
	case errors.As(err, &exit):
		return exit.status
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &gap):
		return exitGap
	case errors.As(err, &timeout), errors.As(err, &unreachable):
		return exitUnreachable
	case errors.As(err, &answer) && (answer.Status == 401 || answer.Status == 403):
		return exitNotAllowed
	}
	return exitFailed
}

// hint says what to do about err, if there is something.
func hint(cmd *cobra.Command, err error) string {
	var (
		usage       *usageError
		gap         *client.GapError
		unreachable *client.UnreachableError
		other       *client.OtherLogError
		back        *client.PutBackError
		protocol    *client.ProtocolError
		exit        *exitError
		mismatch    *client.MismatchError
		shortened   *client.ShortenedError
		differs     *differsError
		heldAs      *cache.HeldAsError
		answer      *client.StatusError
		carried     *carriedError
		claim       *claimError
		different   *client.DifferentLogsError
		proxy       *wire.ProxyError
	)
	switch {
	case errors.As(err, &claim) && claim.hint != "":
		return claim.hint
	case errors.As(err, &exit):
		return exit.hint
	case errors.As(err, &carried):
		return fmt.Sprintf("go on with --cache %s; %s stays as it is", carried.path, carried.old)
	case errors.As(err, &usage) && cmd != nil:
		return fmt.Sprintf("see \"%s --help\"", cmd.CommandPath()) + sourcesHint(cmd, sourcesAnnotation)
	case errors.As(err, &gap) && cmd != nil && cmd.Name() == "state":
		return "the oldest state that the server can tell is that --at " + gap.Oldest.String()
	case errors.As(err, &gap):
		return "the server keeps history only from there on; begin again with --since " + gap.Oldest.String() + skipHint(cmd)
	case errors.As(err, &other) && cacheNamed(cmd):
		return "name another file with --cache, or the server of this log with --server; to begin one with what this one has, run " +
			moveCommand(cmd.Flags().Lookup("cache").Value.String(), "--cache NEW --server "+shellWord(wire.RedactURL(other.URL)))
	case errors.As(err, &other):
		return "run the command again to go on with a copy of the new log, or name the old server with --server"
	case errors.As(err, &unreachable) && errors.As(err, &proxy):
		return "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
	case errors.As(err, &unreachable) && errors.Is(err, syscall.ECONNREFUSED):
		return "is a server running? start one with \"rstream serve\", or name one with --server URL" + sourcesHint(cmd, serverAnnotation)
	case errors.As(err, &unreachable):
		return "check the name and the network, or name another server with --server URL" + sourcesHint(cmd, serverAnnotation)
	case errors.As(err, &back):
		return "put the right file back on the server; if it is lost, start the server once with \"rstream serve --as-new-log\". This copy, its outbox and its cursors are unchanged"
	case errors.As(err, &answer) && answer.Status == http.StatusConflict:
		return "\"rstream status\" shows where the server's log ends"
	case errors.As(err, &shortened):
		return fmt.Sprintf("a proxy or filter cuts answers; \"rstream doctor %s\" checks the way to the server", shortened.URL)
	case errors.As(err, &mismatch), errors.As(err, &differs):
		return "\"rstream verify --repair\" fetches what differs again"
	case errors.As(err, &heldAs):
		return fmt.Sprintf("\"rstream forget %s\" forgets all of it", shellWord(heldAs.As.String()))
	case errors.Is(err, cache.ErrInUse):
		return "stop the tail or sync that is running, and run the command again"
	case errors.As(err, &protocol):
		return fmt.Sprintf("\"rstream doctor %s\" says what answers there", shellWord(wire.RedactURL(protocol.URL))) + sourcesHint(cmd, serverAnnotation)
	case errors.As(err, &different):
		return "name servers of one log" + sourcesHint(cmd, serverAnnotation)
	case errors.Is(err, syscall.EADDRINUSE):
		return "another program listens there; is a server running already? --listen 127.0.0.1:0 takes a free port"
	case errors.Is(err, cache.ErrNewer):
		return "upgrade rstream, or name another file"
	case errors.Is(err, cache.ErrNoIdentity):
		return "put the -wal file that belongs to it back beside it, or move the file away to begin a new one"
	case errors.Is(err, cache.ErrOlder):
		return "run any command on it as a user who may write it, or copy it, with its -wal file, to a folder that you may write"
	case errors.Is(err, cache.ErrLinked):
		return "name the file as the server does, or ask the server"
	case errors.Is(err, cache.ErrNotCache):
		return "name a file that rstream made, or one that does not exist yet"
	case errors.Is(err, cache.ErrLocked):
		return "stop the other server, or name another file with --db"
	case errors.Is(err, cache.ErrCorrupt):
		return "move the file away and sync again; what the server has is not lost"
	case errors.Is(err, cache.ErrHeld):
		return "a cursor is held by one process at a time; use another --name"
	case errors.Is(err, cache.ErrNoCursor):
		return "\"rstream cursor\" lists them; to make one, name its topics: rstream cursor set NAME MOMENT TOPIC"
	case errors.Is(err, cache.ErrIO):
		return "is the disk full, or a limit on the size of files reached? Nothing that was acknowledged is lost"
	case errors.Is(err, cache.ErrFull):
		return "free some space and run the command again"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return "name a file in a folder that you may write with --cache FILE (or --db FILE for serve)"
	}
	return ""
}

// sourcesHint says which flags are not from the command line.
func sourcesHint(cmd *cobra.Command, annotation string) string {
	if cmd == nil || cmd.Annotations[annotation] == "" {
		return ""
	}
	return "; " + cmd.Annotations[annotation]
}

// skipHint is the other way on over a gap, for commands that have it.
func skipHint(cmd *cobra.Command) string {
	if cmd == nil || cmd.Flags().Lookup("skip-gap") == nil {
		return ""
	}
	return ", or go on behind what is gone with --skip-gap"
}

// cacheNamed reports whether the person has chosen the copy's file.
func cacheNamed(cmd *cobra.Command) bool {
	if cmd == nil {
		return false
	}
	f := cmd.Flags().Lookup("cache")
	return f != nil && f.Changed
}
