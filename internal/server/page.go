package server

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// sendPage sends one page, as JSON or NDJSON. It may have fewer events than requested; its next
// position is where the next page begins.
func (s *Server) sendPage(w http.ResponseWriter, r *http.Request, st resolvedQuery, form wire.Form, limit *int) *wire.Error {
	n := wire.DefaultLimit
	if limit != nil {
		n = *limit
	}
	lines, next, err := s.fillPage(r, st, n)
	if err != nil {
		return s.readProblem(r, err)
	}
	at, err := s.markedPoint(r.Context(), next, st.to)
	if last, ok := lastOfLines(lines); err != nil && ok && last < next && st.passes() {
		// The event at next may be damaged, although it is of another topic.
		at, err = s.markedPoint(r.Context(), last, st.to)
	}
	if err != nil {
		return s.readProblem(r, err)
	}
	end := wire.PageEnd{Next: at.Cursor(s.log.Log()), Live: at.ID >= st.to.ID}
	if sum, problem := s.sumOf(w, r, &st); problem != nil {
		return problem
	} else if sum != nil {
		end.Sum = sum
		announceSum(w.Header(), sum)
	}
	mediaType, body := wire.NDJSON, lines
	if form == wire.Page {
		mediaType, body = wire.JSON, wire.AppendPage(nil, lines, end)
	}
	s.announce(w.Header(), &st, mediaType, "no-store")
	s.setPosition(w.Header(), wire.HeaderNext, at)
	w.Header().Set(wire.HeaderLive, strconv.FormatBool(end.Live))
	events := countLines(lines)
	wire.SetEvents(w.Header(), events)
	_, _ = w.Write(body) // fails only if the client is gone
	recorderOf(w).delivered(events)
	if st.passes() {
		s.log.LearnLeaves(st.topics, window.Span{From: st.from.ID, To: at.ID}, lines)
	}
	return nil
}

// lastOfLines returns the event of the last line, if there is one.
func lastOfLines(lines []byte) (id event.ID, ok bool) {
	lines = bytes.TrimSuffix(lines, []byte("\n"))
	skimmed, err := event.Skim(lines[bytes.LastIndexByte(lines, '\n')+1:])
	return skimmed.ID, err == nil
}

// pageTime is how long fillPage searches for an event if it leaves out all that it reads.
const pageTime = 250 * time.Millisecond

// fillPage reads up to n events. If it leaves out all events that it reads, it continues for
// a while, so that a reader that holds most of a range does not get many empty pages.
func (s *Server) fillPage(r *http.Request, st resolvedQuery, n int) (lines []byte, next event.ID, err error) {
	next = st.from.ID
	for began := time.Now(); n > 0 && next < st.to.ID && time.Since(began) < pageTime; {
		at := next
		if lines, next, err = s.readChunk(r.Context(), nil, &st, at, st.to.ID, n); err != nil {
			return nil, at, err
		}
		if len(lines) > 0 || next == at {
			break
		}
	}
	return lines, next, nil
}

// readChunk appends to b at most n events of a range up to position until, in the form that
// the reader requested.
func (s *Server) readChunk(ctx context.Context, b []byte, st *resolvedQuery, at, until event.ID, n int) (lines []byte, next event.ID, err error) {
	if st.passes() {
		return s.log.AppendLines(ctx, b, st.topics, at, until, n)
	}
	evs, next, err := s.log.Read(ctx, st.topics, at, until, n)
	return st.appendWanted(b, evs), next, err
}

// chunk is how many events are read from the log at a time.
const chunk = 1000

// sendPageLines sends the whole range as NDJSON. If it cannot be read to its end,
// sendLines aborts the connection, so that no client takes a part for the whole.
func (s *Server) sendPageLines(w http.ResponseWriter, r *http.Request, st resolvedQuery) *wire.Error {
	p := s.readPiece(r.Context(), nil, &st, st.from.ID, st.to.ID, chunk)
	if p.err != nil {
		return s.readProblem(r, p.err)
	}
	sum, problem := s.sumOf(w, r, &st)
	if problem != nil {
		return problem
	}
	if sum != nil {
		announceSum(w.Header(), sum)
	}
	s.announce(w.Header(), &st, wire.NDJSON, "no-store")
	if p.next >= st.to.ID { // this is the only piece
		wire.SetEvents(w.Header(), countLines(p.lines))
	}
	if r.Method == http.MethodHead {
		return nil
	}
	defer recorderOf(w).limitWrites(nil)()
	ahead := s.prefetch(r.Context(), &st, p.next, st.to.ID)
	defer ahead.stopFetching()
	for ; ; p = ahead.nextPiece() {
		if p.err != nil {
			s.internalProblem(r, fmt.Errorf("response aborted: %w", p.err))
			panic(http.ErrAbortHandler)
		}
		if err := recorderOf(w).checkGrant(); err != nil {
			panic(http.ErrAbortHandler) // the client must not take a part for the whole
		}
		_, err := w.Write(p.lines)
		recorderOf(w).delivered(countLines(p.lines))
		if err != nil || p.next >= st.to.ID {
			return nil // the reader is gone, or has all lines
		}
	}
}

func countLines(b []byte) int { return bytes.Count(b, []byte("\n")) }
