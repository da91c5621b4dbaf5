package source

import (
	"cmp"
	"context"
	"encoding/json"
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
	// that is taken to be so when nothing has come for EndIdle.
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
	// RetryMin and RetryMax bound the pause. If zero, half a second and 30 seconds.
	RetryMin, RetryMax time.Duration
	// Meter shows how the follower is. If nil, nobody looks.
	Meter *Meter
	// Now is the clock. If nil, time.Now.
	Now func() time.Time

	repeats int // how many events are remembered; if zero, maxRepeats
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
	fresh    bool   // among it an event that was not stored before
	wentBack bool   // ids of the connection have, and it was noted
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
	stored, seen, err := cfg.Log.Source(ctx, cfg.Name)
	if err != nil {
		return nil, err
	}
	f := &follower{cfg: cfg, stored: stored, repeats: newRepeats(cfg.repeats, seen)}
	if f.state, err = parseState(stored); err != nil {
		return nil, err
	}
	f.cfg.own = cfg.Log.Log()
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

func (e *storeError) Error() string { return e.err.Error() }
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
	begun := time.Now()
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
			return false, context.Cause(ctx)
		}
		frames, ended := queue.take()
		if err := f.take(ctx, frames, timedOut); err != nil {
			return false, err
		}
		if errors.Is(ended, io.EOF) && f.batch {
			if err := f.endBatch(ctx); err != nil {
				return false, err
			}
		}
		switch {
		case f.cfg.UntilEnd && f.ended:
			return false, nil
		case errors.Is(ended, io.EOF) && f.cfg.UntilEnd && f.cfg.Knobs.EndClose:
			return false, nil
		case errors.Is(ended, io.EOF) && f.cfg.UntilEnd && f.cfg.Knobs.End == Place{} && (!f.fresh || f.state.Cursor == ""):
			// Another connection would bring the same again.
			return true, f.take(ctx, nil, true)
		case errors.Is(ended, io.EOF):
			return false, &endedError{f.cfg.shownURL()}
		case ended != nil:
			return false, f.cfg.nameReadError(ended)
		case timedOut && len(frames) == 0 && f.cfg.UntilEnd && len(f.waiting) == 0:
			return true, nil
		}
		quiet.Reset(f.quietTime())
	}
}

// endBatch moves the cursor to the end of a batch. Within one it does not say where the
// stream is: ntfy sorts by seconds, so an event may come before one that precedes it.
func (f *follower) endBatch(ctx context.Context) error {
	if f.newest == f.state.Cursor {
		return nil
	}
	f.state.Cursor = f.newest
	return f.commit(ctx, &batch{})
}

// An endedError means that the server has ended a connection in the usual way.
type endedError struct{ url string }

func (e *endedError) Error() string { return e.url + " has ended the stream" }
func (e *endedError) Unwrap() error { return io.EOF }

// quietTime returns how long to wait for a frame.
func (f *follower) quietTime() time.Duration {
	switch {
	case len(f.waiting) > 0:
		return holdTime
	case f.cfg.UntilEnd && f.cfg.EndIdle > 0:
		return f.cfg.EndIdle
	}
	return time.Hour
}

// noteTrouble stores why there is no connection, for those who read along.
func (f *follower) noteTrouble(ctx context.Context, err error) error {
	var stop *storeError
	if errors.Is(err, io.EOF) || errors.As(err, &stop) || f.state.Trouble == err.Error() {
		return nil
	}
	f.state.Trouble = err.Error()
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
		return f.commit(ctx, &batch{})
	case conn.upstream != nil:
		return nil
	case f.state.Cursor == "" && k.First == "" && k.Begin == "":
		reason = "the server's events have no cursor"
	case hasNoPlace(f.state.Cursor):
		reason = "the cursor has no place in a topic without events"
	case k.Confirm != "" && f.state.Cursor != "" && conn.confirmed != f.state.Cursor:
		b := &batch{}
		b.add(f.gap("the server no longer has the event after which it was asked"), "")
		if conn.confirmed == "" { // it may still go on from there
			return f.commit(ctx, b)
		}
		// It sends nothing of what it has.
		f.state.Cursor, f.state.Loose = "", false
		if err := f.commit(ctx, b); err != nil {
			return err
		}
		return errNotThere
	case f.state.Loose:
		reason = "the last events had no cursor: some of them may come again, others may be missing"
	default:
		return nil
	}
	f.state.Loose = false
	b := &batch{}
	b.add(f.gap(reason), "")
	return f.commit(ctx, b)
}

// A batch is what one commit appends.
type batch struct {
	drafts  []event.Draft
	foreign []string   // what the source calls each, "" if it is not from there
	after   []event.ID // the event that must be the last of the storage, or nil if none must be
	log     string     // the foreign log, if it is not that of the state
}

func (b *batch) add(d event.Draft, foreign string) { b.addAfter(d, foreign, event.Beginning) }

// addAfter adds a draft that is only to be appended if last is the last event of its storage.
func (b *batch) addAfter(d event.Draft, foreign string, last event.ID) {
	b.drafts, b.foreign = append(b.drafts, d), append(b.foreign, foreign)
	if b.after == nil && last == event.Beginning {
		return
	}
	for len(b.after) < len(b.drafts)-1 {
		b.after = append(b.after, event.Beginning)
	}
	b.after = append(b.after, last)
}

// errNotThere means that a connection does not begin where it was asked to.
var errNotThere = errors.New("the server does not have the cursor")

// gap returns the draft that says that events may be missing.
func (f *follower) gap(reason string) event.Draft {
	f.state.Gaps++
	value, _ := json.Marshal(struct {
		Gap   string     `json:"gap"`
		After string     `json:"after,omitempty"` // the cursor
		Since event.Time `json:"since"`
	}{reason, f.state.Cursor, event.Time(f.state.Time)})
	return f.note("", value)
}

// note returns the draft of an event about the source.
func (f *follower) note(below string, value []byte) event.Draft {
	compact, _ := event.CompactValue(value) // it was made here
	return event.Draft{User: Gaps, Path: GapPath(f.cfg.Name) + below, Type: event.Put,
		Key: fmt.Sprintf("%s/%d", f.cfg.Mapper.salt, f.state.Step), Value: compact}
}

// take stores the frames that can be stored: those up to the last one with a cursor. The
// others wait for one, if there has been one before, since the server would send them
// again after a cut.
func (f *follower) take(ctx context.Context, frames []Frame, timedOut bool) error {
	if len(frames) > 0 {
		f.moved = true
	}
	if len(f.waiting) == 0 {
		f.since = time.Now()
	}
	f.waiting = append(f.waiting, frames...)
	n, bears := len(f.waiting), false
	for n > 0 && !bears {
		if bears = f.waiting[n-1].Cursor != ""; !bears {
			n--
		}
	}
	hopeless := f.state.Cursor == "" && f.cfg.Knobs.Cursor.In != InEvent
	if !bears && (hopeless || timedOut || len(f.waiting) >= maxQueuedFrames || time.Since(f.since) > holdTime) {
		n = len(f.waiting)
	}
	for n < len(f.waiting) && !f.waiting[n].Event {
		n++
	}
	if n == 0 {
		return nil
	}
	done := f.waiting[:n]
	f.waiting = append([]Frame(nil), f.waiting[n:]...)
	f.since = time.Now()
	return f.store(ctx, done)
}

// store commits frames.
func (f *follower) store(ctx context.Context, frames []Frame) error {
	old, err := f.findOld(ctx, frames)
	if err != nil {
		return err
	}
	b := &batch{drafts: make([]event.Draft, 0, len(frames)), foreign: make([]string, 0, len(frames))}
	before := f.state
	for i := range frames {
		fr := &frames[i]
		f.ended = f.ended || fr.End
		if fr.Event {
			f.addFrame(ctx, b, fr, old)
		}
		f.moveCursor(fr)
	}
	if len(b.drafts) == 0 && f.state == before {
		return nil
	}
	if f.state.Restored {
		if err := f.repeatLost(ctx, b); err != nil {
			return err
		}
	}
	return f.commit(ctx, b)
}

// moveCursor moves the cursor to that of a frame. After a batch, new events may overtake
// old ones: the cursor stays until a heartbeat, by which the old ones are there.
func (f *follower) moveCursor(fr *Frame) {
	batches := f.cfg.Knobs.Batch != ""
	switch {
	case fr.Cursor != "" && batches:
		f.newest = fr.Cursor
	case fr.Cursor != "":
		f.state.Cursor, f.state.Loose = fr.Cursor, false
	case !fr.Event && batches && !f.batch:
		f.state.Cursor = f.newest
	case fr.Event && f.state.Cursor != "":
		f.state.Loose = true
	}
}

// addFrame adds what is to be stored of an event. old are the events whose ids go back and
// that were stored before.
func (f *follower) addFrame(ctx context.Context, b *batch, fr *Frame, old map[event.Hash]event.ID) {
	if fr.upstream != nil {
		f.addUpstream(b, fr)
		return
	}
	found := f.classify(fr, f.state.Highest)
	if found.isRepeat {
		return
	}
	d, taken := f.draftOf(ctx, fr)
	if found.goesBack {
		if !taken || old[d.Hash()] != event.Beginning {
			return // it may have been left out before, too
		}
		if !f.wentBack {
			f.wentBack = true
			b.add(f.gap(fmt.Sprintf("ids went back to %.80s: the server may have lost its history", fr.ID)), "")
		}
	}
	if found.isOther { // the ids before it may be taken, too
		f.state.Generation++
		f.state.Highest = 0
		d, taken = f.draftOf(ctx, fr)
	}
	f.remember(fr)
	f.fresh = true
	if !taken {
		return
	}
	if d.User == Gaps {
		f.state.Refused++
		b.add(d, "")
		return
	}
	b.add(d, fr.ID)
	f.state.Events++
	f.state.Bytes += int64(len(fr.Data))
}

// draftOf returns what is to be stored of an event, if anything is.
func (f *follower) draftOf(ctx context.Context, fr *Frame) (d event.Draft, taken bool) {
	d, taken, err := f.cfg.Mapper.Map(ctx, fr, f.state.Generation)
	if err != nil {
		return f.refusal(fr, err), true
	}
	return d, taken
}

// A finding is what is known of an event by its id.
type finding struct {
	isRepeat bool // it is one of the last events
	goesBack bool // its id is lower than another one
	isOther  bool // one of the last events has its id, and is another one
}

// classify looks an event up by its id. Ids that go back may be those of a repeat, or of a
// server that has begun to count again: it is a repeat if the contents are the same.
func (f *follower) classify(fr *Frame, highest uint64) (found finding) {
	if fr.ID == "" {
		return found
	}
	n, ordered := f.orderOf(fr)
	found.goesBack = ordered && n < highest
	before, known := f.repeats.sums[repeatKeyOf(f.state.Generation, fr.ID, fr.Ordinal)]
	found.isOther = known && found.goesBack && before != sumOf(fr)
	found.isRepeat = known && !found.isOther
	return found
}

// orderOf returns the number that orders an event, if the server's ids are numbers.
func (f *follower) orderOf(fr *Frame) (n uint64, ordered bool) {
	if f.cfg.Knobs.ID != (Place{}) || f.cfg.Knobs.Cursor != (Place{}) {
		return 0, false
	}
	return isOrdered(fr.ID)
}

// remember makes an event one of the last ones.
func (f *follower) remember(fr *Frame) {
	if fr.ID == "" {
		return
	}
	if n, ordered := f.orderOf(fr); ordered {
		f.state.Highest = max(f.state.Highest, n)
	}
	f.repeats.add(repeatKeyOf(f.state.Generation, fr.ID, fr.Ordinal), sumOf(fr))
}

// findOld returns the events of frames whose ids go back and that were stored before, longer
// ago than the last events are remembered: the log knows all of its events by their hash.
func (f *follower) findOld(ctx context.Context, frames []Frame) (map[event.Hash]event.ID, error) {
	var hashes []event.Hash
	highest := f.state.Highest
	for i := range frames {
		fr := &frames[i]
		if !fr.Event {
			continue
		}
		if found := f.classify(fr, highest); found.goesBack && !found.isRepeat {
			if d, taken := f.draftOf(ctx, fr); taken {
				hashes = append(hashes, d.Hash())
			}
		}
		if n, ordered := f.orderOf(fr); ordered {
			highest = max(highest, n)
		}
	}
	if len(hashes) == 0 {
		return nil, nil
	}
	old, err := f.cfg.Log.Taken(ctx, hashes)
	if err != nil {
		return nil, &storeError{err}
	}
	return old, nil
}

// maxRefusedData is how much of an event that cannot be mapped is kept.
const maxRefusedData = 16 << 10

// refusal returns the draft that says that an event cannot be mapped.
func (f *follower) refusal(fr *Frame, err error) event.Draft {
	value, _ := json.Marshal(struct {
		Error string `json:"error"`
		ID    string `json:"id,omitempty"`
		Type  string `json:"type,omitempty"`
		Data  string `json:"data"`
	}{err.Error(), fr.ID, fr.Type, strings.ToValidUTF8(string(fr.Data[:min(len(fr.Data), maxRefusedData)]), "\uFFFD")})
	d := f.note(Refused, value)
	d.Key = f.cfg.Mapper.defaultKey(fr, f.state.Generation)
	return d
}

// commitPause is the pause before a commit with an unknown outcome is tried again.
const commitPause = 200 * time.Millisecond

// commit appends drafts and stores the state, both or neither. It ends only when the
// outcome is known: if it is not, the same is committed again, which counts once.
func (f *follower) commit(ctx context.Context, b *batch) error {
	seen, n := f.repeats.takeFresh()
	f.state.Step++
	f.state.Seen += n
	f.state.Time = f.cfg.Now().UnixMicro()
	m := cache.SourceMove{Name: f.cfg.Name, Old: f.stored, New: f.state.encode(), Seen: seen, Until: f.state.Seen, Forget: f.state.Seen - int64(f.cfg.repeats),
		Foreign: b.foreign, Log: cmp.Or(b.log, f.state.Log), If: b.after}
	for {
		// A signal must not leave the outcome unknown.
		_, err := f.cfg.Log.AppendFrom(context.WithoutCancel(ctx), &m, b.drafts)
		switch {
		case err == nil:
			f.stored = m.New
			f.cfg.Meter.noteStored(&f.state)
			return nil
		case !errors.Is(err, cache.ErrUnknown) && !errors.Is(err, cache.ErrBusy):
			return &storeError{err}
		}
		select {
		case <-time.After(commitPause):
		case <-ctx.Done():
			return &storeError{err}
		}
	}
}
