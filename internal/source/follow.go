package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A Log stores the events of a source. *cache.DB is one.
type Log interface {
	Source(ctx context.Context, name string) (state []byte, seen [][]byte, err error)
	AppendFrom(ctx context.Context, m *cache.SourceMove, drafts []event.Draft) ([]event.Receipt, error)
	Taken(ctx context.Context, hashes []event.Hash) (map[event.Hash]event.ID, error)
	upstreamLog
}

// FollowConfig configures Follow. Config, Name, Log and Mapper are required.
type FollowConfig struct {
	Config
	Name   string
	Log    Log
	Mapper *Mapper
	// UntilEnd ends Follow once the server has sent its history. Where it does not say so,
	// that is taken to be so when nothing new has come for EndIdle.
	UntilEnd bool
	EndIdle  time.Duration
	// Wait keeps trying while there has been no connection yet. If false, the first one
	// must succeed.
	Wait bool
	// Timeout ends Follow with a TimeoutError once it has not been connected for this
	// long. If zero, it does not.
	Timeout time.Duration
	// OnRetry is called when a connection has ended or failed, with the pause before the
	// next. If nil, nothing is called.
	OnRetry func(err error, pause time.Duration)
	// OnMoved is called before the first connection if the cursor is of another URL, which it
	// gets without secrets: the cursor may mean nothing at the new one. An rstream server
	// says itself which log it has. If nil, nothing is called.
	OnMoved func(before string)
	// RetryMin and RetryMax bound the pause. If zero, half a second and 30 seconds.
	RetryMin, RetryMax time.Duration
	// Meter shows how the follower is. If nil, nobody looks.
	Meter *Meter
	// Now is the clock. If nil, time.Now.
	Now func() time.Time

	repeats    int           // how many events are remembered; if zero, maxRepeats
	commitTime time.Duration // how long an unknown outcome is; if zero, maxCommitTime
}

// A TimeoutError means that there was no connection for FollowConfig.Timeout.
type TimeoutError struct {
	After time.Duration
	Err   error // of the last attempt
}

func (e *TimeoutError) Error() string { return fmt.Sprintf("no progress for %s: %v", e.After, e.Err) }

// Unwrap returns the cause.
func (e *TimeoutError) Unwrap() error { return e.Err }

// errTimeout is the cause of a context that FollowConfig.Timeout has ended.
var errTimeout = errors.New("no answer")

// ErrMapping means that the events of a source were stored with another mapping.
var ErrMapping = errors.New("its events were stored with another mapping")

// holdTime is how long a frame waits for one with a cursor. After that it is stored all the
// same, so that nobody waits for it forever.
const holdTime = 2 * time.Second

// Gaps is the user of events about sources, which only the log writes: a gap is an event at
// the source's name, and an event that could not be mapped is one below it, at Refused.
const (
	Gaps    = ".sources"
	Refused = "/refused"
)

// GapPath returns the path of the gaps of a source.
func GapPath(name string) string { return encodeUser(name) }

// Follow appends the events of a source to a log as they come, each once, across any number
// of connections and processes. Events and cursor are stored in one transaction. It returns
// nil at the end of the history, with UntilEnd. guessed reports that the server did not say
// that it was the end.
func Follow(ctx context.Context, cfg FollowConfig) (guessed bool, err error) {
	f, err := newFollower(ctx, cfg)
	if err != nil {
		return false, err
	}
	f.noteURL()
	return f.run(ctx)
}

// finalPause is how long Relay waits after an error that another connection would not avoid:
// somebody has to do something.
const finalPause = time.Minute

// Relay is Follow that does not end before ctx, whatever the server does: somebody may
// repair it, or renew a token, while other sources are followed.
func Relay(ctx context.Context, cfg FollowConfig) {
	cfg.Wait, cfg.UntilEnd = true, false
	for {
		_, err := Follow(ctx, cfg)
		if ctx.Err() != nil {
			return
		}
		cfg.Meter.noteEnded(err)
		if cfg.OnRetry != nil {
			cfg.OnRetry(err, finalPause)
		}
		select {
		case <-time.After(finalPause):
		case <-ctx.Done():
			return
		}
	}
}

// CheckFollow returns the error for which Follow would not begin, nil if there is none.
func CheckFollow(ctx context.Context, cfg FollowConfig) error {
	f, err := newFollower(ctx, cfg)
	if err == nil {
		cfg.Meter.noteBefore(&f.state)
	}
	return err
}

// A follower is a call of Follow. One goroutine owns it; another one fills its queue.
type follower struct {
	cfg     FollowConfig
	state   state
	stored  []byte // the state as it is in the log, nil if it is not
	repeats *repeats
	waiting []Frame // frames without a cursor, and when the first of them came
	since   time.Time
	contact time.Time     // up to which there was progress, or a connection
	lasted  time.Duration // how long the last connection did

	batch    bool   // the connection is for a batch
	newest   string // the cursor once all that belongs before it is there, if there are batches
	ended    bool   // the history was sent
	moved    bool   // the connection has brought something
	fresh    bool   // among it an event with an id that was not stored before
	wentBack bool   // ids of the connection have, and it was noted
	nameless bool   // events without ids were stored since the last repeat
	doubted  bool   // nameless events came before a repeat, and it was noted

	advanced bool               // it has brought what it had not brought before
	news     time.Time          // when it last had
	again    map[repeatKey]bool // the repeats that it has brought

	tail tail

	interrupted error // why an expression was cut off before it had an answer
}

func newFollower(ctx context.Context, cfg FollowConfig) (*follower, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.RetryMin == 0 {
		cfg.RetryMin = 500 * time.Millisecond
	}
	if cfg.RetryMax == 0 {
		cfg.RetryMax = 30 * time.Second
	}
	if cfg.repeats == 0 {
		cfg.repeats = maxRepeats
	}
	if cfg.commitTime == 0 {
		cfg.commitTime = maxCommitTime
	}
	stored, seen, err := cfg.Log.Source(ctx, cfg.Name)
	if err != nil {
		return nil, err
	}
	f := &follower{cfg: cfg, stored: stored, repeats: newRepeats(cfg.repeats, seen)}
	if f.state, err = parseState(stored); err != nil {
		return nil, err
	}
	f.cfg.own = cfg.Log.Log()
	f.cfg.Log = storedLog{cfg.Log}
	mapping := cfg.Mapper.id
	if cfg.Knobs.Rstream {
		if mapping, err = cfg.upstreamMapping(); err != nil {
			return nil, err
		}
	}
	if f.state.Begun && f.state.Mapping != mapping {
		return nil, fmt.Errorf("source %s: %w", cfg.Name, ErrMapping)
	}
	f.state.Mapping = mapping
	return f, nil
}

// noteURL calls OnMoved if the cursor is of another URL.
func (f *follower) noteURL() {
	before := f.state.URL
	if f.state.Cursor != "" && before != "" && before != f.cfg.shownURL() && !f.cfg.Knobs.Rstream && f.cfg.OnMoved != nil {
		f.cfg.OnMoved(before)
	}
}

// setCursor sets the cursor to one that the server has sent.
func (f *follower) setCursor(cursor string) { f.state.Cursor, f.state.URL = cursor, f.cfg.shownURL() }

// run makes connections until one of them is the last.
func (f *follower) run(ctx context.Context) (guessed bool, err error) {
	failures, connected := 0, f.cfg.Wait
	batch := f.cfg.Knobs.Batch != ""
	f.contact = time.Now()
	for {
		f.moved, f.batch, f.lasted = false, batch, 0
		var asked time.Duration
		conn, err := f.connect(ctx, batch)
		if err == nil {
			connected = true
			f.cfg.Meter.noteConnected(&f.state, conn)
			guessed, err = f.readConnection(ctx, conn)
			asked, _ = conn.Retry()
			conn.close()
		} else if f.cfg.Knobs.Rstream {
			err = f.recoverUpstream(ctx, err)
		}
		if f.moved || f.lasted > steadyTime {
			failures = 0
		}
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case err == nil: // the end
			return guessed, nil
		case errors.Is(err, errNotThere): // without a cursor it is
			continue
		case errors.Is(err, io.EOF) && batch:
			batch = false
			continue
		case errors.Is(err, errRecovered):
			f.cfg.Meter.noteEnded(err)
			if failures++; failures == 1 {
				continue
			}
		case isFinal(err) || !connected:
			f.cfg.Meter.noteEnded(err)
			return false, errors.Join(err, f.noteTrouble(ctx, err))
		}
		f.cfg.Meter.noteEnded(err)
		batch = f.cfg.Knobs.Batch != ""
		pause := f.pause(failures, asked, err)
		failures++
		if err := f.noteTrouble(ctx, err); err != nil {
			return false, err
		}
		if err := f.rest(ctx, pause, err); err != nil {
			return false, err
		}
	}
}

// steadyTime is how long a connection without an event must last to count as one that has
// worked: the next one then follows at once.
const steadyTime = 30 * time.Second

// connect connects, within the time that Timeout leaves.
func (f *follower) connect(ctx context.Context, batch bool) (*connection, error) {
	if f.cfg.Timeout == 0 {
		return f.cfg.connect(ctx, f.state.Cursor, batch)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	limit := time.AfterFunc(f.cfg.Timeout-time.Since(f.contact), func() { cancel(errTimeout) })
	conn, err := f.cfg.connect(ctx, f.state.Cursor, batch)
	if !limit.Stop() && err == nil {
		conn.close()
		err = errTimeout
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), errTimeout) {
			err = &UnreachableError{f.cfg.shownURL(), errTimeout}
		}
		cancel(nil)
		return nil, err
	}
	release := conn.release
	conn.release = func() { release(); cancel(nil) }
	return conn, nil
}

// rest waits for a pause after a failed connection, unless Timeout ends it.
func (f *follower) rest(ctx context.Context, pause time.Duration, err error) error {
	left := time.Duration(math.MaxInt64)
	if f.cfg.Timeout > 0 {
		left = max(0, f.cfg.Timeout-time.Since(f.contact))
	}
	if f.cfg.OnRetry != nil && pause < left {
		f.cfg.OnRetry(err, pause)
	}
	select {
	case <-time.After(min(pause, left)):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if pause < left {
		return nil
	}
	return &TimeoutError{f.cfg.Timeout, err}
}

// isFinal reports whether another connection would end the same way.
func isFinal(err error) bool {
	var status *StatusError
	var stream *StreamError
	var large *sse.TooLargeError
	var stop *storeError
	var wrong *WrongAnswerError
	return errors.As(err, &status) && status.IsFinal() || errors.As(err, &stream) || errors.As(err, &large) || errors.As(err, &stop) || errors.As(err, &wrong)
}

// A storeError is an error of the log, not of the network.
type storeError struct{ err error }

// Error leaves out the advice to retry of an unknown outcome: the next follower does that.
func (e *storeError) Error() string {
	return strings.Replace(e.err.Error(), cache.ErrUnknown.Error(), "outcome unknown", 1)
}

// Unwrap returns the cause.
func (e *storeError) Unwrap() error { return e.err }

// maxAskedPause bounds the pause that a server may ask for.
const maxAskedPause = 5 * time.Minute

// pause returns how long to wait after some failures in a row. It is no shorter than the
// server has asked for, and has a random part, so that many clients do not return at once.
func (f *follower) pause(failures int, asked time.Duration, err error) time.Duration {
	d := max(f.cfg.RetryMin, min(asked, maxAskedPause))
	most := max(d, f.cfg.RetryMax*2/3)
	for range failures {
		if d *= 2; d >= most {
			d = most
			break
		}
	}
	var status *StatusError
	if errors.As(err, &status) {
		d = max(d, min(status.RetryAfter, maxAskedPause))
	}
	return d + rand.N(d/2+1)
}

// readConnection stores what a connection brings until it ends. It returns nil at the end
// of the history.
func (f *follower) readConnection(ctx context.Context, conn *connection) (guessed bool, err error) {
	f.waiting, f.newest, f.ended, f.fresh, f.wentBack = nil, f.state.Cursor, false, false, false
	f.nameless, f.doubted, f.advanced, f.again = false, false, false, nil
	f.tail = tail{after: f.state.Cursor}
	begun := time.Now()
	f.news = begun
	defer func() {
		f.lasted = time.Since(begun)
		if f.contact = f.contact.Add(f.lasted); f.moved {
			f.contact = time.Now()
		}
	}()
	troubled := f.state.Trouble != ""
	f.state.Trouble = ""
	if err := f.begin(ctx, conn); err != nil {
		return false, err
	}
	if troubled {
		if err := f.commit(ctx, &batch{}); err != nil {
			return false, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	queue := newFrameQueue()
	filled := make(chan struct{})
	go func() {
		defer close(filled)
		queue.fill(ctx, conn)
	}()
	defer func() {
		cancel()
		conn.close()
		<-filled
	}()
	quiet := time.NewTimer(f.quietTime())
	defer quiet.Stop()
	for {
		timedOut := false
		select {
		case <-queue.more:
		case <-quiet.C:
			timedOut = true
		case <-ctx.Done():
			return false, f.stop(ctx, queue)
		}
		if over, guessed, err := f.takeMore(ctx, queue, timedOut); over || err != nil {
			return guessed, err
		}
		quiet.Reset(f.quietTime())
	}
}

// takeMore stores what has come of a connection, or waits for more. It reports whether the connection
// is over, and whether its end, as that of the history, is a guess.
func (f *follower) takeMore(ctx context.Context, queue *frameQueue, timedOut bool) (over, guessed bool, err error) {
	frames, ended := queue.take()
	if err := f.take(ctx, frames, timedOut); err != nil {
		return false, false, err
	}
	if f.advanced {
		f.advanced, f.news = false, time.Now()
	}
	if errors.Is(ended, io.EOF) && f.batch {
		if err := f.endBatch(ctx); err != nil {
			return false, false, err
		}
	}
	if ended != nil || f.cfg.UntilEnd && f.ended {
		if err := f.storeTail(ctx); err != nil {
			return false, false, err
		}
	}
	switch {
	case f.cfg.UntilEnd && f.ended:
		return true, false, nil
	case errors.Is(ended, io.EOF) && f.cfg.UntilEnd && f.cfg.Knobs.EndClose:
		return true, false, nil
	case errors.Is(ended, io.EOF) && f.cfg.UntilEnd && f.cfg.Knobs.End == Place{} && (!f.fresh && !f.nameless || f.state.Cursor == ""):
		// Another connection would bring the same again.
		return true, true, f.take(ctx, nil, true)
	case errors.Is(ended, io.EOF):
		return true, false, &endedError{f.cfg.shownURL()}
	case ended != nil:
		return true, false, f.cfg.nameReadError(ended)
	case timedOut && len(frames) == 0 && f.cfg.UntilEnd && len(f.waiting) == 0 && time.Since(f.news) >= f.cfg.EndIdle:
		return true, true, nil
	}
	return false, false, nil
}

// endBatch moves the cursor to the end of a batch. Within one it does not say where the
// stream is: ntfy sorts by seconds, so an event may come before one that precedes it.
func (f *follower) endBatch(ctx context.Context) error {
	if f.newest == f.state.Cursor {
		return nil
	}
	f.setCursor(f.newest)
	return f.commitReceived(ctx, &batch{})
}

// An endedError means that the server has ended a connection in the usual way.
type endedError struct{ url string }

func (e *endedError) Error() string { return e.url + " has ended the stream" }
func (e *endedError) Unwrap() error { return io.EOF }

// quietTime returns how long to wait for a frame, or for one that brings something new.
func (f *follower) quietTime() time.Duration {
	switch {
	case len(f.waiting) > 0:
		return holdTime
	case f.cfg.UntilEnd && f.cfg.EndIdle > 0:
		return f.cfg.EndIdle - time.Since(f.news)
	}
	return time.Hour
}

// noteTrouble stores why there is no connection, for those who read along.
func (f *follower) noteTrouble(ctx context.Context, err error) error {
	var stop *storeError
	text := wire.SteadyText(err)
	if errors.Is(err, io.EOF) || errors.As(err, &stop) || f.state.Trouble == text {
		return nil
	}
	f.state.Trouble = text
	return f.commit(ctx, &batch{})
}

// begin stores that there is a connection, and a gap if events may be missing before it.
func (f *follower) begin(ctx context.Context, conn *connection) error {
	reason := ""
	k := &f.cfg.Knobs
	switch {
	case !f.state.Begun:
		f.state.Begun = true
		if conn.upstream != nil {
			f.state.Log = conn.upstream.log
		}
		return f.commitReceived(ctx, &batch{})
	case conn.upstream != nil:
		return nil
	case f.state.Cursor == "" && k.First == "" && k.Begin == "":
		reason = "the server's events have no cursor"
	case hasNoPlace(f.state.Cursor):
		reason = "the cursor has no place in a topic without events"
	case len(k.Confirm) > 0 && f.state.Cursor != "" && conn.confirmed != f.state.Cursor:
		b := &batch{}
		b.add(f.gap("the server no longer has the event after which it was asked"), "")
		if conn.confirmed == "" { // it may still go on from there
			return f.commitReceived(ctx, b)
		}
		// It sends nothing of what it has.
		f.state.Cursor, f.state.Loose = "", false
		if err := f.commitReceived(ctx, b); err != nil {
			return err
		}
		return errNotThere
	case f.state.Loose:
		reason = "the last events had no cursor: some of them may come again, others may be missing"
	case f.state.Among:
		reason = "the server gives several events one id: some with the last one may be missing"
	default:
		return nil
	}
	f.state.Loose, f.state.Among = false, false
	b := &batch{}
	b.add(f.gap(reason), "")
	return f.commitReceived(ctx, b)
}

// errNotThere means that a connection does not begin where it was asked to.
var errNotThere = errors.New("the server does not have the cursor")
