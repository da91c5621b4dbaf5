package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/mattn/go-runewidth"
	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Exit statuses. They are part of the contract with scripts.
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

// An exitError ends the program with a status. If text is not empty, the error and its
// hint are printed.
type exitError struct {
	status int
	text   string
	hint   string
}

func (e *exitError) Error() string { return e.text }

// reportError prints an error and its hint, and returns the exit status.
func (a *app) reportError(ctx context.Context, stderr io.Writer, cmd *cobra.Command, err error) int {
	var sig *signalError
	if errors.As(context.Cause(ctx), &sig) && onlyStopped(err) {
		var claim *claimError
		if errors.As(err, &claim) { // report the appends, however the command ends
			a.printError(stderr, cmd, err)
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
	a.printError(stderr, cmd, err)
	return statusOf(err)
}

// onlyStopped reports whether err is nothing but the end of a command that a signal has ended. An
// error of something else that failed meanwhile, such as to store a cursor, must be reported.
func onlyStopped(err error) bool {
	if parts := partsOf(err); parts != nil {
		return !slices.ContainsFunc(parts, func(err error) bool { return !onlyStopped(err) })
	}
	if inner := errors.Unwrap(err); inner != nil {
		return onlyStopped(inner)
	}
	var exit *exitError
	return err == nil || errors.Is(err, context.Canceled) || errors.As(err, new(*signalError)) || errors.Is(err, errClosedStdout) ||
		errors.As(err, &exit) && exit.text == "" // which was reported
}

// partsOf returns the errors that were joined to err, line by line or in one, nil if it is a
// single one.
func partsOf(err error) []error {
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	parts := many.Unwrap()
	texts := make([]string, len(parts))
	for i := range parts {
		texts[i] = parts[i].Error()
	}
	if text := err.Error(); text != strings.Join(texts, "\n") && text != strings.Join(texts, "; ") {
		return nil // it describes one error by several
	}
	return parts
}

// onlyClosed reports whether err is nothing but closed standard output.
func onlyClosed(err error) bool {
	var many interface{ Unwrap() []error }
	if !errors.As(err, &many) {
		return err == nil || errors.Is(err, errClosedStdout)
	}
	return !slices.ContainsFunc(many.Unwrap(), func(err error) bool { return !onlyClosed(err) })
}

// printError prints an error and its hint.
func (a *app) printError(stderr io.Writer, cmd *cobra.Command, err error) {
	for _, line := range slices.Compact(strings.Split(plainLines(wire.Redact(err.Error())), "\n")) {
		fmt.Fprintf(stderr, "rstream: error: %s\n", line) // one failure may be met twice
	}
	if h := a.hintFor(cmd, err); h != "" {
		for _, line := range hintLines(visibleLine(h)) {
			fmt.Fprintf(stderr, "%s%s\n", hintPrefix, line)
		}
	}
}

const hintPrefix = "rstream: hint: "

// clauseEnd is where a hint may end a line.
var clauseEnd = regexp.MustCompile(`; |\. `)

// hintLines breaks a hint that is wider than a line after one of its clauses. Quoted commands
// stay whole, so that they can be copied.
func hintLines(hint string) (lines []string) {
	line := ""
	for rest := hint; rest != ""; {
		clause, end := rest, ""
		for _, at := range clauseEnd.FindAllStringIndex(rest, -1) {
			if strings.Count(rest[:at[0]], `"`)%2 == 0 {
				clause, end = rest[:at[0]], rest[at[0]:at[1]]
				break
			}
		}
		rest = rest[len(clause)+len(end):]
		if line != "" && len(hintPrefix)+runewidth.StringWidth(line+clause) > helpWidth {
			lines, line = append(lines, strings.TrimRight(line, "; .")), ""
		}
		line += clause + end
	}
	return append(lines, line)
}

// signalStatus returns 130 for an interrupt, 129 for a hangup and 143 for SIGTERM. For a command
// that runs until it is stopped, SIGTERM is a normal end; for serve, every signal is.
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
	case runsUntilStopped(cmd):
		return exitDone
	}
	return exitTerminated
}

// runsUntilStopped reports whether a command, as it was called, would not have ended by itself.
func runsUntilStopped(cmd *cobra.Command) bool {
	if cmd == nil {
		return false
	}
	given := givenFlags(cmd.Flags())
	isGiven := func(name string) bool { return slices.Contains(given, name) }
	switch cmd.Name() {
	case "tail":
		return !slices.ContainsFunc([]string{"until", "until-live", "count"}, isGiven)
	case "sync", "state":
		return isGiven("follow")
	}
	return false
}

func statusOf(err error) int {
	var (
		usage       *usageError
		gap         *client.GapError
		unreachable *client.UnreachableError
		answer      *client.StatusError
		timeout     *client.TimeoutError
		exit        *exitError
		forbidden   *forbiddenError
	)
	switch {
	case errors.As(err, &exit):
		return exit.status
	case errors.As(err, &forbidden):
		return exitNotAllowed
	case errors.As(err, &usage), errors.Is(err, cache.ErrCursorName):
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
