package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"slices"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A parseFunc parses a line as an append. made reports whether it generated the key:
// sent again, the line would be another event. The error is errNoDraft for a line that
// is not an append.
type parseFunc func(line []byte) (d event.Draft, made bool, err error)

// errNoDraft marks a line that rstream prints about a stream, for example that it is
// live, and that is not an event.
var errNoDraft = errors.New("is not an event")

func runPutLines(ctx context.Context, a *app, o putOptions, args []string) error {
	if _, err := newDraft(args[0], event.Put, ""); err != nil {
		return err
	}
	parse := func(line []byte) (d event.Draft, made bool, err error) {
		if d, err = newDraft(args[0], event.Put, ""); err == nil {
			d.Value, err = event.CompactValue(line)
		}
		if err == nil {
			err = d.CheckNew()
		}
		return d, true, err
	}
	check := func(line []byte) error {
		_, _, err := parse(line)
		return err
	}
	return a.appendLines(ctx, o.delivery, a.in, check, parse)
}

func runPutEvents(ctx context.Context, a *app, o putOptions, args []string) error {
	if o.from == "" || o.from == "-" {
		return a.appendLines(ctx, o.delivery, a.in, checkNew, parseNew)
	}
	f, err := openInput(ctx, o.from)
	switch {
	case err != nil && ctx.Err() != nil:
		return (&lineClaim{delivery: o.delivery}).addOutcome(err, untaken)
	case err != nil:
		return err
	}
	defer f.Close()
	return a.appendLines(ctx, o.delivery, f, checkNew, parseNew)
}

// parseNew is parseEvent, for events that are about to be appended.
func parseNew(line []byte) (d event.Draft, made bool, err error) {
	if d, made, err = parseEvent(line); err == nil {
		err = d.CheckNew()
	}
	return d, made, err
}

// checkNew returns the error of parseNew. For most lines it takes a third of the time.
func checkNew(line []byte) error {
	if event.IsUsualNew(line) {
		return nil
	}
	_, _, err := parseNew(line)
	return err
}

// parseEvent parses an event as a person writes it or as rstream prints it. Only an
// event without a hash gets a new key: another key would make it another event.
func parseEvent(line []byte) (d event.Draft, made bool, err error) {
	d, ok := event.ScanDraft(line)
	if !ok {
		return parseAnyEvent(line)
	}
	if d.Key == "" {
		d.Key, made = orNewKey(""), true
	}
	return d, made, nil
}

// parseAnyEvent parses every line that is not a draft in its usual form.
func parseAnyEvent(line []byte) (d event.Draft, made bool, err error) {
	if ev, err := event.ParseLine(line); err == nil {
		return ev.Draft, false, nil // with members of the reader's own, such as snapshot
	}
	ms, err := event.Members(line)
	if err != nil {
		return d, false, err
	}
	typ, hashed := "", false
	for _, m := range ms {
		if m.Name == "type" {
			typ, _ = m.Text()
		}
		hashed = hashed || m.Name == "hash"
	}
	switch {
	case isAside(line), typ == "export":
		return d, false, errNoDraft
	case typ == "queued":
		d, err = parseQueued(line)
		return d, false, err
	}
	if d, err = event.ParseDraft(line); err == nil && !hashed && d.Key == "" {
		d.Key, made = orNewKey(""), true
	}
	return d, made, err
}

// isAside reports whether a line is one that rstream prints between events to describe
// the stream.
func isAside(line []byte) bool {
	var o struct{ Type, User string }
	return json.Unmarshal(line, &o) == nil && (o.Type == "live" || o.Type == "gap") && o.User == ""
}

// parseQueued parses a line that outbox prints. A line without a value is a DEL.
func parseQueued(line []byte) (event.Draft, error) {
	var q queuedLine
	if err := json.Unmarshal(line, &q); err != nil {
		return event.Draft{}, err
	}
	d := event.Draft{User: q.User, Path: q.Path, Type: event.Del, Key: q.Key}
	if q.Value != nil {
		d.Type, d.Value = event.Put, q.Value
	}
	if err := d.Check(); err != nil {
		return event.Draft{}, err
	}
	if d.Hash() != q.Hash {
		return event.Draft{}, event.ErrHash
	}
	return d, nil
}

// appendLines appends the lines of in. check returns the error of parse.
func (a *app) appendLines(ctx context.Context, d delivery, in io.Reader, check func(line []byte) error, parse parseFunc) error {
	// Batches are garbage as soon as they are printed, and little else is in memory.
	defer debug.SetGCPercent(debug.SetGCPercent(200))
	c := &lineClaim{delivery: d, name: "standard input"}
	name, lines := c.name, 0
	if in == a.in {
		a.noteTerminal("lines")
	}
	defer a.progress.end()
	if f, ok := in.(*os.File); ok {
		if f != os.Stdin {
			name = f.Name()
			c.name, c.rest = name, restOf(f, name)
		}
		var err error
		if lines, err = a.checkFile(ctx, f, name, check); err != nil {
			return err
		}
	}
	if !isTerminal(in) {
		a.progress.report(stage{verb: "appending", object: name}, 0, int64(lines))
	}
	return a.deliver(ctx, d, func(send sendFunc) error { return sendLines(ctx, in, c, a.countSent(send), parse) })
}

// countSent returns send, which then reports how many events were appended.
func (a *app) countSent(send sendFunc) sendFunc {
	return func(drafts []event.Draft) (fate, showFunc, error) {
		f, show, err := send(drafts)
		if f == taken {
			a.progress.add(int64(len(drafts)))
		}
		return f, show, err
	}
}

// checkFile reads a file once before the first append, so that a bad line in the middle
// does not leave the file half appended, and returns how many appends it has. Input that
// cannot be read twice is checked as it is read.
func (a *app) checkFile(ctx context.Context, f *os.File, name string, check func(line []byte) error) (appends int, err error) {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0, err
	}
	start, err := f.Seek(0, io.SeekCurrent) // part of standard input may have been read already
	if err != nil {
		return 0, err
	}
	var bad []error
	a.progress.report(stage{verb: "checking", object: name, unit: inBytes}, 0, info.Size()-start)
	counted := &countingReader{r: f, count: a.progress.add}
	lines := wire.NewLineReader(newPlainReader(counted), wire.MaxLine)
	for len(bad) < maxBadLines {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		line, err := lines.Peek()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", name, err)) // and the rest cannot be read
			break
		}
		if err = check(line); err == nil {
			appends++
		} else if !errors.Is(err, errNoDraft) {
			bad = append(bad, fmt.Errorf("%s:%d: %w", name, lines.Number(), err))
		}
	}
	if len(bad) > 0 {
		return 0, &exitError{status: exitFailed, text: errors.Join(bad...).Error(), hint: "nothing was appended; correct the lines and run the command again"}
	}
	_, err = f.Seek(start, io.SeekStart)
	return appends, err
}

// A batch is sent when no line is waiting or when it has reached one of these sizes.
const (
	maxBatchLen   = 4000
	maxBatchBytes = 4 << 20
)

// A lineItem is a line on its way from the reader to the sender. An item with an error
// is the last one.
type lineItem struct {
	number int // of the line
	draft  event.Draft
	made   bool // its key was generated here
	err    error
}

// sendLines appends the lines: many at a time if they come fast, each at once if they
// come slowly.
func sendLines(ctx context.Context, in io.Reader, c *lineClaim, send sendFunc, parse parseFunc) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	items := make(chan lineItem, maxBatchLen)
	// It ends with its input, or with the program: a read from a terminal cannot be
	// interrupted.
	go readLines(ctx, in, c.name, parse, items)
	var shown showing
	defer shown.await()
	for {
		batch, open, err := nextBatch(ctx, items)
		if err := c.sendParts(batch, send, &shown); err != nil {
			return err
		}
		if err == nil && !open {
			err = shown.await()
		}
		if err != nil {
			return c.addOutcome(err, untaken)
		}
		if !open {
			return nil
		}
	}
}

// A showing prints the answers to one batch while the next one is appended.
type showing struct {
	done chan struct{} // nil if nothing is being printed
	err  error         // of printing, once done
}

// start prints in a new goroutine.
func (s *showing) start(show showFunc) {
	done := make(chan struct{})
	s.done = done
	go func() {
		s.err = show()
		close(done)
	}()
}

// await waits until all is printed, and returns the error of it.
func (s *showing) await() error {
	if s.done != nil {
		<-s.done
	}
	return s.err
}

// sendParts sends a batch, in parts if it is rejected as too large: a server or a proxy may
// accept less than maxBatchBytes.
//
// The answers to one part are printed while the next is appended, so an error of printing
// ends the command one part later.
func (c *lineClaim) sendParts(batch []lineItem, send sendFunc, shown *showing) error {
	passed := false // a proxy rejected a batch that it may have passed on
	for len(batch) > 0 {
		n := len(batch)
		if c.most > 0 {
			n = min(n, c.most)
		}
		c.batch = batch[:n]
		f, show, err := send(draftsOf(c.batch))
		if printed := shown.await(); err == nil {
			err = printed
		}
		switch {
		case err == nil:
			c.recordTaken()
			batch = batch[n:]
			if show != nil {
				shown.start(show)
			}
		case n > 1 && isTooLarge(err):
			c.most, passed = n/2, passed || f == unknown
		case passed && f == untaken:
			c.batch = batch
			return c.addOutcome(err, unknown)
		default:
			return c.addOutcome(err, f)
		}
	}
	return nil
}

func isTooLarge(err error) bool {
	var answer *client.StatusError
	return errors.As(err, &answer) && answer.Status == http.StatusRequestEntityTooLarge
}

func draftsOf(items []lineItem) []event.Draft {
	drafts := make([]event.Draft, len(items))
	for i := range items {
		drafts[i] = items[i].draft
	}
	return drafts
}

// readLines parses the lines of in until its end, a bad line or the end of ctx.
func readLines(ctx context.Context, in io.Reader, name string, parse parseFunc, items chan<- lineItem) {
	defer close(items)
	lines := wire.NewLineReader(newPlainReader(in), wire.MaxLine)
	for {
		var it lineItem
		line, err := lines.Next()
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			it.err = fmt.Errorf("%s: %w", name, err)
		default:
			it.number = lines.Number()
			it.draft, it.made, err = parse(line)
			if errors.Is(err, errNoDraft) {
				continue
			}
			if err != nil {
				it.err = fmt.Errorf("%s:%d: %w", name, lines.Number(), err)
			}
		}
		select {
		case items <- it:
		case <-ctx.Done():
			return
		}
		if it.err != nil {
			return
		}
	}
}

// nextBatch waits for an item and takes all others that are ready. open is false once
// no more will come; if that is because ctx has ended, err is the cause.
func nextBatch(ctx context.Context, items <-chan lineItem) (batch []lineItem, open bool, err error) {
	var it lineItem
	select {
	case it, open = <-items:
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	for size := 0; open && it.err == nil; {
		if len(batch) == 1 {
			batch = slices.Grow(batch, len(items)) // those that wait
		}
		batch = append(batch, it)
		if size += len(it.draft.Value); len(batch) >= maxBatchLen || size >= maxBatchBytes {
			return batch, true, nil
		}
		select {
		case it, open = <-items:
		default:
			return batch, true, nil
		}
	}
	if !open && ctx.Err() != nil { // there may be more lines
		return batch, false, context.Cause(ctx)
	}
	return batch, open, it.err
}
