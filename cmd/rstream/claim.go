package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A fate is what is known of drafts that a command was to append.
type fate int

const (
	untaken    fate = iota // none of them was taken
	unknown                // all of them were taken, or none
	butRefused             // all were taken, except those whose refusal is in the error
	taken                  // all were taken
)

// A claimError adds to an error what is known of what was appended. All that put and del
// say about that is made in this file, from a fate: a sentence that is written anywhere
// else would soon be false.
type claimError struct {
	err   error
	text  string // of err, in terms of this command
	claim string
	hint  string // a safe way to go on; if "", the hint is that of err
}

func (e *claimError) Error() string { return e.text + "; " + e.claim }
func (e *claimError) Unwrap() error { return e.err }

// sentFate returns the fate of drafts that a server was sent.
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

// queuedFate returns the fate of drafts that were put into the outbox. After an input or
// output error, a COMMIT may still have reached the disk.
func queuedFate(err error) fate {
	switch {
	case err == nil:
		return taken
	case errors.Is(err, cache.ErrIO):
		return unknown
	}
	return untaken
}

// taken says what became of what the server or the outbox took.
func (d delivery) taken() string {
	switch {
	case d.offline:
		return "kept in the outbox"
	case d.queue:
		return "appended or kept in the outbox"
	}
	return "appended"
}

// claimOne adds to err what became of one draft.
func (d delivery) claimOne(err error, f fate, draft *event.Draft) error {
	e := &claimError{err: err, text: refusalText(err, nil)}
	switch f {
	case untaken, butRefused:
		e.claim = "nothing was " + d.taken()
	case unknown:
		e.claim = "whether it was " + d.taken() + " is unknown"
		e.hint = fmt.Sprintf("run the command again with --key %s: it is appended once", shellWord(draft.Key))
	case taken:
		e.claim = "it was " + d.taken()
	}
	return e
}

// A lineClaim is how far a command has come with the lines of its input.
type lineClaim struct {
	delivery
	name string // of the input
	rest string // a command that takes its lines from a number on, as a format; may be ""

	done     int  // the last line up to which all were taken
	doneMade bool // the key of one of them was made here, and is gone
	batch    []lineItem
	most     int // lines of a request that are not too many; 0 is not known
}

// took notes that the batch was taken.
func (c *lineClaim) took() {
	c.doneMade = c.doneMade || keysMade(c.batch)
	c.done, c.batch = c.batch[len(c.batch)-1].number, nil
}

func keysMade(items []lineItem) bool {
	return slices.ContainsFunc(items, func(it lineItem) bool { return it.made })
}

// about adds to err what became of the lines, of which the batch under way has the fate f.
func (c *lineClaim) about(err error, f fate) error {
	e := &claimError{err: err, text: refusalText(err, c.batch)}
	batch := c.batch
	if f == butRefused || f == taken {
		c.took()
	}
	whose := " of " + c.name
	if c.done > 0 {
		e.claim = lines(1, c.done) + whose + were(c.done) + c.taken()
		e.hint = c.repeat(f)
		whose = ""
	}
	switch {
	case f == butRefused:
		e.claim += ", except those that were refused"
	case f == unknown:
		first, last := batch[0].number, batch[len(batch)-1].number
		open := "whether " + lines(first, last) + whose + were(1+last-first) + c.taken() + " is unknown"
		e.claim, e.hint = strings.TrimPrefix(e.claim+"; "+open, "; "), c.retry(batch)
	case c.done == 0:
		e.claim = "nothing was " + c.taken()
	}
	return e
}

// again is the hint if every line so far brought its key.
const again = "run the command again: each line so far has a key and is appended once"

// repeat is the hint for lines of which nothing is unknown.
func (c *lineClaim) repeat(f fate) string {
	if !c.doneMade && f != butRefused {
		return again
	}
	return c.goOn(c.done + 1)
}

// retry is the hint if the fate of batch is unknown. A server appends all of a request or
// nothing, so one line of it tells.
func (c *lineClaim) retry(batch []lineItem) string {
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
		return fmt.Sprintf("line %d has no key, and sent twice it is two events: look for it in the %s, then go on from line %d or %d", first, place, first, last+1)
	}
	return fmt.Sprintf("%s are taken together or not at all, and sent twice those without keys are new events: look for line %d in the %s, then go on from line %d or %d",
		lines(first, last), first, place, first, last+1)
}

func (c *lineClaim) goOn(line int) string {
	if c.rest == "" {
		return fmt.Sprintf("go on from line %d", line)
	}
	return fmt.Sprintf("go on from line %d, with the same flags: "+c.rest, line, line)
}

// lines names lines of a file.
func lines(first, last int) string {
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

// batchLine is how a server's text names a line of a request.
var batchLine = regexp.MustCompile(`\bline (\d+): `)

// refusalText is the text of err without what a server's refusal says of one request
// alone: that nothing was appended, and the numbers of its lines, in whose place come
// those of the file.
func refusalText(err error, items []lineItem) string {
	var answer *client.StatusError
	if !errors.As(err, &answer) || !answer.FromLog {
		return err.Error()
	}
	own := *answer
	own.Detail = strings.TrimSuffix(strings.TrimPrefix(own.Detail, wire.NothingAppended+": "), "; "+wire.NothingAppended)
	if len(own.Lines) > 0 {
		own.Detail = batchLine.ReplaceAllStringFunc(own.Detail, func(s string) string {
			n, err := strconv.Atoi(batchLine.FindStringSubmatch(s)[1])
			if err != nil || n < 1 || n > len(items) {
				return ""
			}
			return fmt.Sprintf("line %d: ", items[n-1].number)
		})
	}
	return strings.Replace(err.Error(), answer.Error(), own.Error(), 1)
}
