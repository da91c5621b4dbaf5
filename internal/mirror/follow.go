package mirror

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
)

// maxBatch and maxBatchBytes bound the events that are stored in one transaction.
const (
	maxBatch      = 4096
	maxBatchBytes = 2 << 20
)

// errStopped means that the caller wants no more.
var errStopped = errors.New("stopped")

// Follow implements Upstream. History comes as lines, the whole range in one response, and
// then new events in a stream.
func (u *HTTP) Follow(ctx context.Context, after Position) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		f := follower{u: u, after: after, yield: yield}
		err := f.readHistory(ctx)
		if err == nil {
			err = f.readStream(ctx)
		}
		if !errors.Is(err, errStopped) {
			yield(Batch{}, err)
		}
	}
}

// A follower is one call of Follow.
type follower struct {
	u     *HTTP
	after Position // the position up to which events were yielded, with its mark
	head  event.ID // of the log
	batch Batch
	yield func(Batch, error) bool
}

// add adds an event to the batch.
func (f *follower) add(line []byte, at event.Cursor) error {
	ev, err := event.ParseLine(line)
	if err != nil {
		return f.u.wrongAnswer("sent a bad event: %v", err)
	}
	switch {
	case at.ID != event.Beginning && (ev.ID != at.ID || !ev.Mark().Agrees(at.Mark)):
		return f.u.wrongAnswer("sent event %s as %s", ev.ID, at)
	case ev.ID <= f.after.ID:
		return nil // it is the one at which the stream begins
	case ev.ID != f.after.ID+1:
		return f.u.wrongAnswer("sent event %s after %s", ev.ID, f.after.ID)
	}
	f.after.ID, f.after.Mark = ev.ID, ev.Mark()
	f.batch.Events = append(f.batch.Events, ev)
	f.batch.Bytes += len(line)
	return nil
}

// isFull reports whether the batch must be yielded before more is added.
func (f *follower) isFull() bool {
	return len(f.batch.Events) >= maxBatch || f.batch.Bytes >= maxBatchBytes
}

// pass yields the batch, if there is something in it.
func (f *follower) pass() error {
	if len(f.batch.Events) == 0 && !f.batch.Live {
		return nil
	}
	b := f.batch
	f.batch = Batch{}
	f.head = max(f.head, f.after.ID)
	b.Head = f.head
	if !f.yield(b, nil) {
		return errStopped
	}
	return nil
}

// readHistory yields the events up to the head.
func (f *follower) readHistory(ctx context.Context) error {
	for {
		begin := f.after.ID
		more, err := f.readLines(ctx)
		if errors.Is(err, errStopped) {
			return err
		}
		if failed := f.pass(); failed != nil { // what was read is sound
			return failed
		}
		if err != nil || !more {
			return err
		}
		if f.after.ID == begin {
			return f.u.wrongAnswer("sent no event after %s, although its head is %s", begin, f.head)
		}
	}
}

// readLines reads a range of history, as lines. more reports whether it ended early.
func (f *follower) readLines(ctx context.Context) (more bool, err error) {
	q := wire.Query{Topics: []event.Topic{event.All}, Since: event.At(f.after.Cursor())}
	if f.after.ID == event.Beginning {
		q.Since = event.FromBeginning
	}
	resp, err := f.u.read(ctx, "/events", q.Values().Encode(), wire.NDJSON, f.after)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	from, ok := wire.PositionIn(resp.Header, wire.HeaderFrom)
	to, ok2 := wire.PositionIn(resp.Header, wire.HeaderTo)
	if !ok || !ok2 || from != f.after.ID || to < from {
		return false, f.u.wrongAnswer("did not send the events after %s", f.after.ID)
	}
	f.head = max(f.head, to)
	lines := wire.NewLineReader(resp.Body, wire.MaxLine)
	for {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return f.after.ID < to, nil // an id that is missing was cut off on the way
		}
		if err != nil {
			return false, f.u.networkError(err)
		}
		if err := f.add(line, event.Cursor{}); err != nil {
			return false, err
		}
		if f.isFull() {
			if err := f.pass(); err != nil {
				return false, err
			}
		}
	}
}

// readStream yields new events as they come.
func (f *follower) readStream(ctx context.Context) error {
	header, err := f.u.header(ctx, wire.SSE, f.after)
	if err != nil {
		return err
	}
	q := wire.Query{Topics: []event.Topic{event.All}, Since: event.FromBeginning}
	cfg := sse.Config{URL: f.u.target("/events", q.Values().Encode()), HTTP: f.u.http, Header: header, MaxEvent: 2 * wire.MaxLine, Idle: f.u.cfg.Idle}
	if f.after.ID != event.Beginning {
		cfg.Cursor = f.after.Cursor().String()
	}
	cfg.Check = func(resp *http.Response) error { return f.checkStream(resp) }
	session, err := sse.Open(ctx, cfg)
	if err != nil {
		return f.openError(err)
	}
	defer session.Close()
	arrived := newArrivals()
	filling := make(chan struct{})
	go func() {
		defer close(filling)
		arrived.fill(session)
	}()
	defer func() { <-filling }()
	defer arrived.stop()
	defer session.Close()
	for {
		frames, ended := arrived.take()
		if err := f.addFrames(frames); err != nil {
			return err
		}
		if ended != nil {
			if errors.Is(ended, io.EOF) {
				return ended
			}
			return f.u.networkError(ended)
		}
		select {
		case <-arrived.more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// checkStream refuses a stream that was not asked for.
func (f *follower) checkStream(resp *http.Response) error {
	if err := f.u.checkResponse(resp, wire.SSE, f.after); err != nil {
		return err
	}
	if from, ok := wire.PositionIn(resp.Header, wire.HeaderFrom); !ok || from != f.after.ID {
		return f.u.wrongAnswer("was asked to go on from %s and begins at %s", f.after.ID, from)
	}
	return nil
}

// openError returns the error of checkStream, or that of the network.
func (f *follower) openError(err error) error {
	for _, is := range []func(error) bool{
		isError[*ConflictError], isError[*GoneError], isError[*RefusedError], isError[*WrongAnswerError], isError[*UnreachableError],
	} {
		if is(err) {
			return err
		}
	}
	return f.u.networkError(err)
}

func isError[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// addFrames yields the events of some blocks of the stream.
func (f *follower) addFrames(frames []sse.Frame) error {
	for i := range frames {
		if err := f.addFrame(&frames[i]); err != nil {
			return errors.Join(err, f.pass())
		}
		if f.isFull() {
			if err := f.pass(); err != nil {
				return err
			}
		}
	}
	return f.pass()
}

// addFrame adds one block of the stream. A block without an event moves the position, which
// cannot be beyond the last event: the stream has all of them.
func (f *follower) addFrame(fr *sse.Frame) error {
	isEvent := fr.Data != nil && (fr.Type == string(event.Put) || fr.Type == string(event.Del))
	if fr.Cursor == "" && !isEvent {
		return nil
	}
	at, err := event.ParseCursor(fr.Cursor)
	if err != nil || !at.Of(f.after.Log) {
		return f.u.wrongAnswer("sent the id %.60q, which is not of the log %s", fr.Cursor, f.after.Log)
	}
	if isEvent {
		return f.add(fr.Data, at)
	}
	if at.ID > f.after.ID {
		return f.u.wrongAnswer("went on to %s without the events after %s", at.ID, f.after.ID)
	}
	f.batch.Live = f.batch.Live || fr.Type == wire.LiveEvent
	return nil
}
