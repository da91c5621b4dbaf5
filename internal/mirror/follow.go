package mirror

import (
	"cmp"
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
		f := follower{u: u, after: after, passed: after.ID, yield: yield}
		err := f.overlap(ctx, f.readHistory)
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
	u      *HTTP
	after  Position // the position up to which everything was read, with its mark
	passed event.ID // and yielded
	head   event.ID // of the log
	batch  Batch
	yield  func(Batch, error) bool
}

// overlap calls read, which yields batches, in a goroutine, so that the next ones are received
// and parsed while the first is stored.
func (f *follower) overlap(ctx context.Context, read func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batches, ended := make(chan Batch, 1), make(chan error, 1)
	yield := f.yield
	f.yield = func(b Batch, _ error) bool {
		select {
		case batches <- b:
			return true
		case <-ctx.Done():
			return false
		}
	}
	go func() {
		defer close(batches)
		ended <- read(ctx)
	}()
	stopped := false
	for b := range batches {
		if !stopped && !yield(b, nil) {
			stopped = true
			cancel()
		}
	}
	f.yield = yield
	err := <-ended
	switch {
	case stopped:
		return errStopped
	case errors.Is(err, errStopped):
		return ctx.Err()
	}
	return err
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
	case ev.ID != f.after.ID+1 && !f.u.isPart():
		return f.u.wrongAnswer("sent event %s after %s", ev.ID, f.after.ID)
	case !f.u.follows(&ev):
		return f.u.wrongAnswer("sent event %s of %s, which was not asked for", ev.ID, ev.Storage())
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
	if len(f.batch.Events) == 0 && !f.batch.Live && f.after.ID == f.passed {
		return nil
	}
	b := f.batch
	f.batch, f.passed = Batch{}, f.after.ID
	f.head = max(f.head, f.after.ID)
	b.To = f.after.Point
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
		read := f.readLines
		if f.u.isPart() {
			read = f.readPage
		}
		more, err := read(ctx)
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

// readPage reads a page of the history of some topics. No ids show which events are missing, so
// the page is taken only with as many as it should have. If one is torn, the next one is shorter.
func (f *follower) readPage(ctx context.Context) (more bool, err error) {
	most := cmp.Or(int(f.u.page.Load()), wire.MaxLimit)
	defer func() {
		if isError[*UnreachableError](err) {
			f.u.page.Store(int64(max(most/4, 1)))
		} else if err == nil {
			f.u.page.Store(int64(min(2*most, wire.MaxLimit)))
		}
	}()
	q := wire.Query{Topics: f.u.cfg.Topics, Since: event.At(f.after.Cursor()), Limit: &most}
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
	next, err := event.ParseCursor(resp.Header.Get(wire.HeaderNext))
	if !ok || !ok2 || err != nil || from != f.after.ID || next.ID < from || next.ID > to || !next.Of(f.after.Log) {
		return false, f.u.wrongAnswer("did not send a page of the events after %s", f.after.ID)
	}
	count, told, err := wire.EventsIn(resp.Header)
	if err != nil || !told {
		return false, f.u.wrongAnswer("does not say how many events a page has")
	}
	begin, read := f.after, 0
	for lines := wire.NewLineReader(resp.Body, wire.MaxLine); ; read++ {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) && read == count {
			break
		}
		if err == nil && read == count {
			err = f.u.wrongAnswer("sent more events in a page than the %d that it said", count)
		} else if err == nil {
			err = f.add(line, event.Cursor{})
		} else {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			err = f.u.networkError(err)
		}
		if err != nil {
			f.batch, f.after = Batch{}, begin // nobody knows which events are missing
			return false, err
		}
	}
	if f.after.ID > next.ID {
		last := f.after.ID
		f.batch, f.after = Batch{}, begin
		return false, f.u.wrongAnswer("sent event %s in a page up to %s", last, next.ID)
	}
	f.moveTo(next.Point())
	f.head = max(f.head, to)
	return next.ID < to, nil
}

// moveTo notes that no more events come up to a position.
func (f *follower) moveTo(p event.Point) {
	if p.ID > f.after.ID {
		f.after.Point = p
	}
}

// readStream yields new events as they come.
func (f *follower) readStream(ctx context.Context) error {
	header, err := f.u.header(ctx, wire.SSE, f.after)
	if err != nil {
		return err
	}
	q := wire.Query{Topics: f.u.topics(), Since: event.FromBeginning}
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

// addFrame adds one block of the stream. A block without an event moves the position. If the
// stream has all events, it cannot be beyond the last one.
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
	if f.u.isPart() {
		f.moveTo(at.Point())
	} else if at.ID > f.after.ID {
		return f.u.wrongAnswer("went on to %s without the events after %s", at.ID, f.after.ID)
	}
	f.batch.Live = f.batch.Live || fr.Type == wire.LiveEvent
	return nil
}
