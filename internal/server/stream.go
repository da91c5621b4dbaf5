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
	"github.com/rstream-dev/rstream/internal/hub"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// prepareStream prepares an answer with SSE: history, a live event, then what happens.
func (s *Server) prepareStream(w http.ResponseWriter, r *http.Request, st *resolvedQuery) *wire.Error {
	if st.ends && st.resume && st.from.ID >= st.to.ID {
		// An EventSource would come back for ever; 204 tells it not to.
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	// The first read decides between a stream and a refusal: browsers give up
	// for good on anything but 200. At the head there is nothing to read.
	if st.from.ID < st.head.ID {
		if _, _, err := s.log.Read(uncancelled(r), st.topics, st.from.ID, st.from.ID, 0); err != nil {
			return s.readProblem(r, err)
		}
	}
	var problem *wire.Error
	if st.sum, problem = s.sumOf(r, st); problem != nil {
		return problem
	} else if st.sum != nil {
		announceSum(w.Header(), st.sum)
	}
	s.announce(w.Header(), st, wire.SSE, "no-cache, no-transform")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold events to the end
	if r.Method == http.MethodHead {
		return nil
	}
	to := recorderOf(w)
	to.stream = &connection{s: s, w: w, rc: http.NewResponseController(w), r: r, to: to, st: *st, notices: st.notices, age: s.streamAge()}
	to.stream.st.notices = false // what is read must have all that marks are made of
	return nil
}

// A connection is one SSE stream on its way out. It ends only at the end of an
// event, but for a reader that takes nothing.
type connection struct {
	s       *Server
	w       http.ResponseWriter
	rc      *http.ResponseController
	r       *http.Request
	to      *recorder
	st      resolvedQuery // what is left of it: from moves
	notices bool          // it sends notices of events
	age     time.Duration // at which it ends; 0 is never
	written time.Time
	at      atomic.Uint64 // how far history was sent
	buf     *buffer       // what has been gathered; nil if nothing
	events  int           // of them
	told    bool          // that it is live
	err     error         // of a write: nothing is written any more
}

// runStream sends the stream to its end. Almost all streams wait almost all of the time, in
// follow: what comes before is done in functions that have returned by then.
func (c *connection) runStream() {
	follows, err := c.sendExisting()
	if follows {
		err = c.followLog()
	}
	c.noteEnd(err)
}

// sendExisting sends what there is. It reports whether the stream goes on from there.
func (c *connection) sendExisting() (follows bool, err error) {
	c.gatherBytes(wire.AppendPreamble(c.gatherRoom(), c.s.cfg.Retry))
	if err := c.flushGathered(); err != nil {
		return false, err
	}
	if c.st.ends || c.st.peerHas != nil {
		if err := c.replayUntil(c.st.to.ID); err != nil {
			return false, err
		}
		c.gatherLive(c.st.to)
		if err := c.flushGathered(); err != nil || c.st.ends {
			return false, err
		}
		// A filter must leave out nothing that came after it was made.
		c.st.from, c.st.peerHas, c.st.sum = c.st.to, nil, nil
	}
	err = c.catchUp()
	return err == nil, err
}

// catchUp sends what there is, but for a rest so short that the hub may read it.
func (c *connection) catchUp() error {
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

// errWrite means that the reader has gone or takes nothing.
var errWrite = errors.New("write")

// errAged means that the stream was to end at its age.
var errAged = errors.New("stream has reached its age")

// streamAge returns when a stream ends that begins now. Streams that begin together
// end within half of the age, or their readers would come back together for ever.
func (s *Server) streamAge() time.Duration {
	most := s.cfg.MaxStreamAge
	if most <= 0 {
		return 0
	}
	return most - rand.N(most/2+1)
}

// isAged reports whether the stream is to end.
func (c *connection) isAged() bool { return c.age > 0 && time.Since(c.to.began) >= c.age }

// patience returns how long to wait for news: until the heartbeat or the end is due.
func (c *connection) patience() time.Duration {
	d := c.s.cfg.Heartbeat - time.Since(c.written)
	if c.age > 0 {
		d = min(d, c.age-time.Since(c.to.began))
	}
	return d
}

// A buffer is what a connection gathers in as long as it has something to write. Readers
// that wait have none.
type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, eventPiece+4<<10)} }}

// gatherRoom returns what has been gathered, to append to.
func (c *connection) gatherRoom() []byte {
	if c.buf == nil {
		c.buf = buffers.Get().(*buffer)
	}
	return c.buf.b
}

// gatherBytes takes b, which was appended to room. All that is gathered between two flushes
// is written in one go, but for pieces of eventPiece: a reader that takes nothing shall
// not cost much.
func (c *connection) gatherBytes(b []byte) {
	if c.buf.b = b; len(b) >= eventPiece {
		c.writeGathered()
	}
}

// writeGathered writes what is gathered and gives the buffer back.
func (c *connection) writeGathered() {
	if c.err == nil {
		_, c.err = c.w.Write(c.buf.b)
	}
	if cap(c.buf.b) <= 2*eventPiece {
		c.buf.b = c.buf.b[:0]
		buffers.Put(c.buf)
	}
	c.buf = nil
}

// flushGathered sends all that has been gathered.
func (c *connection) flushGathered() error {
	if c.buf != nil {
		c.writeGathered()
	} else if c.events == 0 {
		return nil
	}
	if c.err == nil {
		c.err = c.rc.Flush()
	}
	if c.err != nil {
		return fmt.Errorf("%w: %w", errWrite, c.err)
	}
	c.to.delivered(c.events)
	c.events = 0
	c.written = time.Now()
	return nil
}

// gatherEvent gathers one event.
func (c *connection) gatherEvent(ev *event.Event) {
	if c.notices {
		c.gatherBytes(wire.AppendNoticeEvent(c.gatherRoom(), ev, c.s.log.Log()))
	} else {
		c.gatherBytes(wire.AppendEvent(c.gatherRoom(), ev, c.s.log.Log()))
	}
	c.events++
}

// gatherLines gathers events that are given as NDJSON, as their reader wants them.
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
			s, mark, err := event.SkimMark(line)
			if err != nil {
				return err
			}
			c.gatherBytes(wire.AppendEventLine(c.gatherRoom(), event.Point{ID: s.ID, Mark: mark}, s.Type, line, log))
		}
		c.events++
	}
	return nil
}

// gatherPosition gathers how far the reader is, so that a long silence moves its cursor,
// too.
func (c *connection) gatherPosition(at event.Point) error {
	at, err := c.withMark(at)
	if err == nil {
		c.gatherBytes(wire.AppendPosition(c.gatherRoom(), at, c.s.log.Log()))
	}
	return err
}

// withMark looks up the mark of a position, if nobody has told it.
func (c *connection) withMark(at event.Point) (event.Point, error) {
	if at.Mark != 0 {
		return at, nil
	}
	return c.s.markedPoint(uncancelled(c.r), at.ID, c.s.log.HeadPoint())
}

// noteEnd notes why the stream has ended.
func (c *connection) noteEnd(err error) {
	reason := c.reason(err)
	c.s.metrics.streamsEnded.WithLabelValues(reason).Inc()
	log := c.s.cfg.Logger.Debug
	switch reason {
	case endFailed:
		log = c.s.cfg.Logger.Error
	case endStalled, endGone:
		log = c.s.cfg.Logger.Warn
	}
	log("stream ended", "reason", reason, "path", c.r.URL.Path, "query", c.r.URL.RawQuery, "age", time.Since(c.to.began), "error", err)
}

// Why streams end.
const (
	endDone    = "done"    // its reader has all of the stretch
	endAged    = "aged"    // MaxStreamAge
	endStopped = "stopped" // the server stops
	endStalled = "stalled" // the reader took nothing for WriteTimeout
	endLeft    = "left"    // the reader has gone
	endGone    = "gone"    // what the reader needs next is no longer held
	endFailed  = "failed"  // the log could not be read
)

func (c *connection) reason(err error) string {
	var hole *window.NotHeldError
	switch {
	case err == nil:
		return endDone
	case errors.Is(err, errAged):
		return endAged
	case errors.Is(err, ErrStopped):
		return endStopped
	case errors.Is(err, errWrite) && errors.Is(err, os.ErrDeadlineExceeded):
		return endStalled
	case errors.Is(err, errWrite), c.r.Context().Err() != nil:
		return endLeft
	case errors.As(err, &hole):
		return endGone
	}
	return endFailed
}

// gatherLive gathers, once, that the reader has come to the end of what was there.
func (c *connection) gatherLive(at event.Point) {
	c.told = true
	c.gatherBytes(wire.AppendLive(c.gatherRoom(), at, c.s.log.HeadPoint(), c.s.log.Log(), c.st.sum))
}

// isSilent reports whether the reader should have had a sign of life.
func (c *connection) isSilent() bool { return time.Since(c.written) >= c.s.cfg.Heartbeat }

// replayUntil sends what there is up to position until, in chunks.
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
		at = p.next
		if err := c.gatherLines(p.lines); err != nil {
			return err
		}
		ends := at < until && c.isAged()
		if len(p.lines) == 0 && (ends || c.isSilent()) { // without a position, the next connection would begin where this one did
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

// followLog sends the rest of history and then what happens, until the reader or the server
// ends it.
func (c *connection) followLog() error {
	sub := c.s.hub.Subscribe(c.st.topics, c.st.from.ID)
	defer sub.Close()
	alarm := time.AfterFunc(c.patience(), sub.Nudge)
	defer alarm.Stop()
	for {
		batch, err := sub.Next(c.r.Context())
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

// sendBatch sends a batch.
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

// sendHeartbeat sends a quiet stream a sign of life: the position of this very reader, never the
// log's head.
func (c *connection) sendHeartbeat(sub *hub.Subscription, alarm *time.Timer) error {
	if c.patience() <= 0 { // else something was written since the alarm was set
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

// flushOrEnd flushes, and ends a stream that is old enough.
func (c *connection) flushOrEnd() error {
	if err := c.flushGathered(); err != nil {
		return err
	}
	if c.isAged() {
		return errAged
	}
	return nil
}
