package server

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/hub"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// prepareStream prepares a response of Server-Sent Events: history, a live event, then new
// events.
func (s *Server) prepareStream(w http.ResponseWriter, r *http.Request, st *resolvedQuery) *wire.Error {
	if st.ends && st.resume && st.from.ID >= st.to.ID {
		// An EventSource would reconnect for ever; 204 stops it.
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	// The first read decides between a stream and an error response: browsers never
	// reconnect after any status but 200. At the head there is nothing to read.
	if st.from.ID < st.head.ID {
		if _, _, err := s.log.Read(uncancelled(r), st.topics, st.from.ID, st.from.ID, 0); err != nil {
			return s.readProblem(r, err)
		}
	}
	var problem *wire.Error
	if st.sum, problem = s.sumOf(w, r, st); problem != nil {
		return problem
	} else if st.sum != nil {
		announceSum(w.Header(), st.sum)
	}
	done := func() {}
	if r.Method != http.MethodHead {
		if done, problem = s.openStream(w, r); problem != nil {
			return problem
		}
	}
	s.announce(w.Header(), st, wire.SSE, "no-cache, no-transform")
	w.Header().Set("X-Accel-Buffering", "no") // else nginx delays events
	if r.Method == http.MethodHead {
		return nil
	}
	to := recorderOf(w)
	c := &connection{done: done, s: s, w: w, rc: http.NewResponseController(w), r: r, to: to, st: *st, notices: st.notices, age: s.streamAge(), opened: event.TimeOf(s.cfg.Now())}
	c.st.notices = false // read whole lines, from which marks are computed
	c.at.Store(uint64(st.from.ID))
	to.stream = c
	return nil
}

// A connection sends one SSE stream. It ends only at the end of an event, unless the reader
// stalls.
type connection struct {
	s       *Server
	w       http.ResponseWriter
	rc      *http.ResponseController
	r       *http.Request
	to      *recorder
	st      resolvedQuery // the rest of the range: from advances
	notices bool          // send notices of events
	age     time.Duration // age at which it ends; 0 is never
	done    func()        // gives its place to another stream of its client
	written time.Time
	at      atomic.Uint64 // position up to which history was sent
	buf     *buffer       // pending output, or nil
	events  int           // number of pending events
	told    bool          // the live event was sent
	waits   bool          // something was written and not flushed
	err     error         // of a write; nothing is written after it

	room   *room // of a stream of a room, else nil
	opened event.Time
	entry  board.Entry                      // in the registry of the board
	sub    atomic.Pointer[hub.Subscription] // once it follows the log
}

// runStream sends the stream to its end. Most streams spend nearly all of their time waiting in
// followLog, so the earlier steps are in functions that have returned by then.
func (c *connection) runStream() {
	defer c.done()
	defer c.to.limitWrites(c.nudge)()
	if c.room == nil { // a viewer is no connection of the board
		c.s.readers.Add(&c.entry, c)
		defer c.s.readers.Remove(&c.entry)
	}
	follows, err := c.sendExisting()
	if follows {
		err = c.followLog()
	}
	c.to.noteEnd(c.r, err)
}

// sendExisting sends the requested history. It reports whether the stream then follows the log.
func (c *connection) sendExisting() (follows bool, err error) {
	c.gatherBytes(wire.AppendPreamble(c.gatherRoom(), c.s.cfg.Retry))
	if err := c.flushGathered(); err != nil {
		return false, err
	}
	if c.st.withState {
		if err := c.replayState(); err != nil {
			return false, err
		}
	}
	if c.st.ends || c.st.peerHas != nil {
		if err := c.replayUntil(c.st.to.ID); err != nil {
			return false, err
		}
		if c.room != nil && c.st.ends {
			if err := c.gatherReadersNow(); err != nil {
				return false, err
			}
		}
		c.gatherLive(c.st.to)
		if err := c.flushGathered(); err != nil || c.st.ends {
			return false, err
		}
		// The filter does not apply to events after it was made.
		c.st.from, c.st.peerHas, c.st.sum = c.st.to, nil, nil
	}
	err = c.replayHistory()
	return err == nil, err
}

// replayHistory sends history up to the head, except for a rest that is short enough for the hub to
// read.
func (c *connection) replayHistory() error {
	st := &c.st
	c.at.Store(uint64(st.from.ID))
	c.s.replaying.addStream(c)
	defer c.s.replaying.removeStream(c)
	for head := st.to; st.from.ID < head.ID; {
		if err := c.replayUntil(head.ID); err != nil {
			return err
		}
		st.from = head
		if head = c.s.log.HeadPoint(); head.ID-st.from.ID < chunk {
			break
		}
	}
	return nil
}

// errWrite reports that the reader is gone or stalls.
var errWrite = errors.New("write")

// errAged reports that the stream ends because of its age.
var errAged = errors.New("stream has reached its age")

// streamAge returns the age at which a new stream ends. It is random between half of
// MaxStreamAge and MaxStreamAge. Otherwise readers that connect together would reconnect
// together for ever.
func (s *Server) streamAge() time.Duration {
	most := s.cfg.MaxStreamAge
	if most <= 0 {
		return 0
	}
	return most - rand.N(most/2+1)
}

// isAged reports whether the stream must end because of its age.
func (c *connection) isAged() bool { return c.age > 0 && time.Since(c.to.began) >= c.age }

// checkEnd returns the reason for which the stream must end now, or nil.
func (c *connection) checkEnd() error {
	if c.isAged() {
		return errAged
	}
	return c.to.checkGrant()
}

// patience returns how long to wait for events: until the next heartbeat or the end is due.
func (c *connection) patience() time.Duration {
	if c.to.checkGrant() != nil {
		return 0
	}
	d := c.s.cfg.Heartbeat - time.Since(c.written)
	if c.to.grant != nil {
		d = min(d, c.to.grant.Left())
	}
	if c.age > 0 {
		d = min(d, c.age-time.Since(c.to.began))
	}
	return d
}

// A buffer collects the output of a connection. Idle connections have none.
type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, eventPiece+4<<10)} }}

// gatherRoom returns the pending output, to append to.
func (c *connection) gatherRoom() []byte {
	if c.buf == nil {
		c.buf = buffers.Get().(*buffer)
	}
	return c.buf.b
}

// gatherBytes sets the pending output to b, which was appended to gatherRoom. It writes the
// output when it exceeds eventPiece, so that a stalled reader does not cost much memory, and
// otherwise leaves it to the next flush.
func (c *connection) gatherBytes(b []byte) {
	if c.buf.b = b; len(b) >= eventPiece {
		c.writeGathered()
	}
}

// writeGathered writes the pending output and returns the buffer to the pool.
func (c *connection) writeGathered() {
	c.waits = true
	if c.err == nil {
		_, c.err = c.w.Write(c.buf.b)
	}
	if cap(c.buf.b) <= 2*eventPiece {
		c.buf.b = c.buf.b[:0]
		buffers.Put(c.buf)
	}
	c.buf = nil
}

// flushGathered sends all pending output.
func (c *connection) flushGathered() error {
	if c.buf != nil {
		c.writeGathered()
	} else if !c.waits {
		return nil
	}
	if c.err == nil {
		c.err = c.rc.Flush()
	}
	c.waits = false
	if c.err != nil {
		return fmt.Errorf("%w: %w", errWrite, c.err)
	}
	c.to.delivered(c.events)
	c.events = 0
	c.written = time.Now()
	return nil
}

// gatherEvent appends one event to the output.
func (c *connection) gatherEvent(ev *event.Event) {
	if c.notices {
		c.gatherBytes(wire.AppendNoticeEvent(c.gatherRoom(), ev, c.s.log.Log()))
	} else {
		c.gatherBytes(wire.AppendEvent(c.gatherRoom(), ev, c.s.log.Log()))
	}
	c.events++
}

// gatherLines appends events, given as NDJSON, to the output in the form that the reader
// requested.
func (c *connection) gatherLines(lines []byte) error {
	log := c.s.log.Log()
	for len(lines) > 0 {
		var line []byte
		line, lines, _ = bytes.Cut(lines, []byte("\n"))
		if c.notices {
			ev, err := event.Stored(line)
			if err != nil {
				return err
			}
			c.gatherBytes(wire.AppendNoticeEvent(c.gatherRoom(), &ev, log))
		} else {
			at, typ, err := event.SkimPoint(line)
			if err != nil {
				return err
			}
			c.gatherBytes(wire.AppendEventLine(c.gatherRoom(), at, typ, line, log))
		}
		c.events++
	}
	return nil
}

// gatherPosition appends the reader's position to the output, so that its cursor advances even
// without events.
func (c *connection) gatherPosition(at event.Point) error {
	at, err := c.withMark(at)
	if err == nil {
		c.gatherBytes(wire.AppendPosition(c.gatherRoom(), at, c.s.log.Log()))
	}
	return err
}

// withMark looks up the mark of a position if it is not known.
func (c *connection) withMark(at event.Point) (event.Point, error) {
	if at.Mark != 0 {
		return at, nil
	}
	return c.s.markedPoint(uncancelled(c.r), at.ID, c.s.log.HeadPoint())
}

// noteEnd counts and logs the end of a stream.
func (rec *recorder) noteEnd(r *http.Request, err error) {
	reason := endReason(r, err)
	rec.s.metrics.streamsEnded.WithLabelValues(reason).Inc()
	log := rec.s.cfg.Logger.Debug
	switch reason {
	case endFailed:
		log = rec.s.cfg.Logger.Error
	case endStalled, endGone:
		log = rec.s.cfg.Logger.Warn
	}
	args := []any{"reason", reason, "path", loggedText(r.URL.Path, maxLogged), "query", loggedText(r.URL.RawQuery, maxLogged), "took_ms", milliseconds(time.Since(rec.began)), "error", err}
	log("stream ended", append(args, rec.clientArgs(r)...)...)
}

// Reasons for which streams end.
const (
	endDone    = "done"    // the reader has the whole range
	endAged    = "aged"    // MaxStreamAge
	endStopped = "stopped" // the server stops
	endStalled = "stalled" // the reader made no progress for WriteTimeout
	endLeft    = "left"    // the reader is gone
	endGone    = "gone"    // the events that the reader needs next were dropped
	endBarred  = "barred"  // its token has expired or was revoked
	endFailed  = "failed"  // the log could not be read
)

// endReason returns the reason for which the stream of r ended with err.
func endReason(r *http.Request, err error) string {
	var hole *window.NotHeldError
	switch {
	case err == nil:
		return endDone
	case errors.Is(err, errAged):
		return endAged
	case errors.Is(err, errUnauthorized):
		return endBarred
	case errors.Is(err, ErrStopped):
		return endStopped
	case errors.Is(err, errWrite) && errors.Is(err, os.ErrDeadlineExceeded):
		return endStalled
	case errors.Is(err, errWrite), r.Context().Err() != nil:
		return endLeft
	case errors.As(err, &hole):
		return endGone
	}
	return endFailed
}

// gatherLive appends the live event to the output, which tells the reader that history is
// complete.
func (c *connection) gatherLive(at event.Point) {
	c.told = true
	c.gatherBytes(wire.AppendLive(c.gatherRoom(), at, c.s.log.HeadPoint(), c.s.log.Log(), c.st.sum))
}

// isSilent reports whether a heartbeat is due.
func (c *connection) isSilent() bool { return time.Since(c.written) >= c.s.cfg.Heartbeat }

// replayUntil sends history up to position until, in chunks.
func (c *connection) replayUntil(until event.ID) error {
	ahead := c.s.prefetch(c.r.Context(), &c.st, c.st.from.ID, until)
	defer ahead.stopFetching()
	for at := c.st.from.ID; at < until; {
		if c.s.isStopped() {
			return ErrStopped
		}
		p := ahead.nextPiece()
		if p.err != nil {
			return p.err
		}
		if err := c.to.checkGrant(); err != nil {
			return err
		}
		at = p.next
		if err := c.gatherLines(p.lines); err != nil {
			return err
		}
		ends := at < until && c.isAged()
		if len(p.lines) == 0 && (ends || c.isSilent()) { // without a position, the next connection would start where this one did
			if err := c.gatherPosition(event.Point{ID: at}); err != nil {
				return err
			}
		}
		if err := c.flushGathered(); err != nil {
			return err
		}
		c.at.Store(uint64(at))
		if ends {
			return errAged
		}
	}
	return nil
}

// followLog sends the rest of history and then new events, until the reader or the server ends
// the stream.
func (c *connection) followLog() error {
	sub := c.s.hub.Subscribe(c.st.topics, c.st.from.ID)
	defer sub.Close()
	c.sub.Store(sub)
	alarm := time.AfterFunc(c.patience(), sub.Nudge) // at once if the token was revoked before nudge knew sub
	defer alarm.Stop()
	if c.room != nil {
		c.room.viewer = c.s.board.Look(board.Cursor{}, c.room.view, sub.Nudge)
		defer c.room.viewer.Close()
	}
	for {
		batch, err := sub.Next(c.r.Context())
		if err == nil {
			err = c.to.checkGrant()
		}
		if c.room != nil && (err == nil || errors.Is(err, hub.ErrQuiet)) {
			if failed := c.sendReaders(); failed != nil {
				return failed
			}
		}
		if err == nil {
			err = c.sendBatch(&batch)
		} else if errors.Is(err, hub.ErrQuiet) {
			err = c.sendHeartbeat(sub, alarm)
		}
		if err != nil {
			return err
		}
	}
}

// nudge makes followLog look whether the stream must end. It may be called from any goroutine.
func (c *connection) nudge() {
	if sub := c.sub.Load(); sub != nil {
		sub.Nudge()
	}
}

// sendBatch sends a batch of events.
func (c *connection) sendBatch(batch *hub.Batch) error {
	for _, ev := range batch.Events {
		if !c.st.leavesOut(ev) {
			c.gatherEvent(ev)
		}
	}
	at := event.Point{ID: batch.Position, Mark: batch.Mark}
	if batch.Live && !c.told {
		at, err := c.withMark(at)
		if err != nil {
			return err
		}
		c.gatherLive(at)
	}
	if c.buf == nil && c.events == 0 && c.isSilent() {
		if err := c.gatherPosition(at); err != nil {
			return err
		}
	}
	return c.flushOrEnd()
}

// sendHeartbeat sends a heartbeat on a quiet stream: the position of this reader, never the
// log's head.
func (c *connection) sendHeartbeat(sub *hub.Subscription, alarm *time.Timer) error {
	if c.patience() <= 0 { // else there was output since the alarm was set
		if err := c.gatherPosition(sub.Point()); err != nil {
			return err
		}
		if err := c.flushOrEnd(); err != nil {
			return err
		}
	}
	alarm.Reset(c.patience())
	return nil
}

// flushOrEnd flushes the output. It returns an error if the stream must end now.
func (c *connection) flushOrEnd() error {
	if err := c.flushGathered(); err != nil {
		return err
	}
	return c.checkEnd()
}
