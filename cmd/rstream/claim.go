package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A fate is the known outcome of drafts that a command tried to append.
type fate int

const (
	untaken    fate = iota // none was taken
	unknown                // all were taken, or none
	butRefused             // all were taken, except those whose refusal is in the error
	taken                  // all were taken
)

// A claimError adds the known outcome of the appends to an error. Everything that put
// and del say about it comes from this file and is derived from a fate: a sentence
// written elsewhere would soon be false.
type claimError struct {
	err   error
	text  string // of err, in this command's terms
	claim string
	hint  string // a safe next step; if empty, the hint for err
}

func (e *claimError) Error() string { return e.text + "; " + e.claim }
func (e *claimError) Unwrap() error { return e.err }

// sentFate returns the fate of drafts sent to a server.
func sentFate(err error) fate {
	var open *client.UnknownOutcomeError
	switch {
	case err == nil:
		return taken
	case errors.As(err, &open):
		return unknown
	}
	return untaken
}

// queuedFate returns the fate of drafts put into the outbox. After an I/O error, a
// COMMIT may still have reached the disk.
func queuedFate(err error) fate {
	switch {
	case err == nil:
		return taken
	case errors.Is(err, cache.ErrIO):
		return unknown
	}
	return untaken
}

// takenVerb is the verb for drafts that the server or the outbox took.
func (d delivery) takenVerb() string {
	switch {
	case d.offline:
		return "kept in the outbox"
	case d.queue:
		return "appended or kept in the outbox"
	}
	return "appended"
}

// claimOne adds to err the fate of one draft.
func (d delivery) claimOne(err error, f fate, draft *event.Draft) error {
	e := &claimError{err: err, text: refusalText(err, nil)}
	switch f {
	case untaken, butRefused:
		e.claim = "nothing was " + d.takenVerb()
	case unknown:
		e.claim = "whether it was " + d.takenVerb() + " is unknown"
		e.hint = fmt.Sprintf("run the command again with --key %s: it is appended once", shellWord(draft.Key))
	case taken:
		e.claim = "it was " + d.takenVerb()
	}
	return e
}

// recordDone records what the command has changed, before it prints the result.
func (a *app) recordDone(what string) { a.done = what }

// claimDone adds what the command has changed to an error of its output, which does not undo it.
func (a *app) claimDone(err error) error {
	if a.done == "" || !errors.As(err, new(*stdoutError)) {
		return err
	}
	return fmt.Errorf("%w; %s", err, a.done)
}

// A lineClaim tracks how far a command has come with the lines of its input.
type lineClaim struct {
	delivery
	name string // of the input
	rest string // format of a command that continues at a line number; may be empty

	done     int  // all lines up to this one were taken
	doneMade bool // the key of one of them was generated here, and is lost
	batch    []lineItem
	most     int // lines that one request may have; 0 if not known
}

// recordTaken records that the batch was taken.
func (c *lineClaim) recordTaken() {
	c.doneMade = c.doneMade || keysMade(c.batch)
	c.done, c.batch = c.batch[len(c.batch)-1].number, nil
}

func keysMade(items []lineItem) bool {
	return slices.ContainsFunc(items, func(it lineItem) bool { return it.made })
}

// addOutcome adds to err the outcome for the lines. f is the fate of the current batch.
func (c *lineClaim) addOutcome(err error, f fate) error {
	e := &claimError{err: err, text: refusalText(err, c.batch)}
	batch := c.batch
	if f == butRefused || f == taken {
		c.recordTaken()
	}
	whose := " of " + c.name
	if c.done > 0 {
		e.claim = lineRange(1, c.done) + whose + were(c.done) + c.takenVerb()
		e.hint = c.repeatHint(f)
		whose = ""
	}
	switch {
	case f == butRefused:
		e.claim += ", except those that were refused"
	case f == unknown:
		first, last := batch[0].number, batch[len(batch)-1].number
		open := "whether " + lineRange(first, last) + whose + were(1+last-first) + c.takenVerb() + " is unknown"
		e.claim, e.hint = strings.TrimPrefix(e.claim+"; "+open, "; "), c.retryHint(batch)
	case c.done == 0:
		e.claim = "nothing was " + c.takenVerb()
	}
	return e
}

// again is the hint if every line so far has a key of its own.
const again = "run the command again: each line so far has a key and is appended once"

// repeatHint is the hint if the fate of every line is known.
func (c *lineClaim) repeatHint(f fate) string {
	if !c.doneMade && f != butRefused {
		return again
	}
	return c.goOn(c.done + 1)
}

// retryHint is the hint if the fate of batch is unknown. A server appends a request as a
// whole or not at all, so the fate of one line decides for all.
func (c *lineClaim) retryHint(batch []lineItem) string {
	first, last := batch[0].number, batch[len(batch)-1].number
	place := "log"
	if c.offline || c.queue {
		place = "outbox"
	}
	switch {
	case !keysMade(batch) && !c.doneMade:
		return again
	case !keysMade(batch):
		return c.goOn(first)
	case first == last:
		return fmt.Sprintf("line %d has no key, and sent twice it becomes two events; look for it in the %s, then continue from line %d or %d", first, place, first, last+1)
	}
	return fmt.Sprintf("%s are taken together or not at all; lines without keys become new events if sent twice; look for line %d in the %s, then continue from line %d or %d",
		lineRange(first, last), first, place, first, last+1)
}

func (c *lineClaim) goOn(line int) string {
	if c.rest == "" {
		return fmt.Sprintf("continue from line %d", line)
	}
	return fmt.Sprintf("continue from line %d, with the same flags: "+c.rest, line, line)
}

// lineRange names a range of lines of a file.
func lineRange(first, last int) string {
	if first == last {
		return fmt.Sprintf("line %d", first)
	}
	return fmt.Sprintf("lines %d-%d", first, last)
}

func were(n int) string {
	if n == 1 {
		return " was "
	}
	return " were "
}

// batchLine matches the number of a line in a server's message about a request.
var batchLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\bline (\d+): `) })

// refusalText returns the text of err without the parts of a server's refusal that are
// true of one request only: that nothing was appended, and line numbers of the request.
// The latter become line numbers of the file.
func refusalText(err error, items []lineItem) string {
	var answer *client.StatusError
	if !errors.As(err, &answer) || !answer.FromLog {
		return err.Error()
	}
	own := *answer
	own.Detail = strings.TrimSuffix(strings.TrimPrefix(own.Detail, wire.NothingAppended+": "), "; "+wire.NothingAppended)
	if len(own.Lines) > 0 {
		own.Detail = batchLine().ReplaceAllStringFunc(own.Detail, func(s string) string {
			n, err := strconv.Atoi(batchLine().FindStringSubmatch(s)[1])
			if err != nil || n < 1 || n > len(items) {
				return ""
			}
			return fmt.Sprintf("line %d: ", items[n-1].number)
		})
	}
	return strings.Replace(err.Error(), answer.Error(), own.Error(), 1)
}
