package server

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// page answers with one bounded page, as JSON or NDJSON. It may be shorter than
// asked for; its next position says how far it went.
func (s *Server) page(w http.ResponseWriter, r *http.Request, st stretch, form wire.Form, limit *int) *wire.Error {
	n := wire.DefaultLimit
	if limit != nil {
		n = *limit
	}
	evs, next, err := s.readPage(r, st, n)
	if err != nil {
		return s.readProblem(r, err)
	}
	tail := wire.Tail{Next: next, Live: next >= st.to}
	if sum, problem := s.sumOf(r, &st); problem != nil {
		return problem
	} else if sum != nil {
		tail.Count, tail.Digest = &sum.Count, sum.Digest
		announceSum(w.Header(), sum)
	}
	mediaType, body := wire.NDJSON, []byte(nil)
	if form == wire.Page {
		mediaType, body = wire.JSON, wire.AppendPage(nil, evs, st.appendEvent, tail)
	} else {
		body = st.appendLines(nil, evs)
	}
	st.announce(w.Header(), mediaType, "no-store")
	w.Header().Set(wire.HeaderNext, next.String())
	w.Header().Set(wire.HeaderLive, strconv.FormatBool(tail.Live))
	_, _ = w.Write(body) // the client may have gone
	recorderOf(w).delivered(len(evs))
	return nil
}

// pageTime is how long a page that leaves out most of what it reads is filled up.
const pageTime = 250 * time.Millisecond

// readPage reads up to n events, going on for a while where all that it reads is
// left out: a reader that holds most of a stretch should not ask for empty pages.
func (s *Server) readPage(r *http.Request, st stretch, n int) (evs []event.Event, next event.ID, err error) {
	next = st.from
	for began := time.Now(); n > 0 && next < st.to && time.Since(began) < pageTime; {
		at := next
		if evs, next, err = s.log.Read(r.Context(), st.topics, at, st.to, n); err != nil {
			return nil, at, err
		}
		if evs = st.without(evs); len(evs) > 0 || next == at {
			break
		}
	}
	return evs, next, nil
}

// chunk is how many events are read from the log at a time.
const chunk = 1000

// lines answers with the whole stretch as NDJSON. If it cannot be read to its end,
// the connection is cut, so that nobody takes the part for the whole.
func (s *Server) lines(w http.ResponseWriter, r *http.Request, st stretch) *wire.Error {
	evs, at, err := s.readOn(r, st, st.from)
	if err != nil {
		return s.readProblem(r, err)
	}
	sum, problem := s.sumOf(r, &st)
	if problem != nil {
		return problem
	}
	if sum != nil {
		announceSum(w.Header(), sum)
	}
	st.announce(w.Header(), wire.NDJSON, "no-store")
	if r.Method == http.MethodHead {
		return nil
	}
	var b []byte
	for {
		b = st.appendLines(b[:0], evs)
		if _, err := w.Write(b); err != nil || at >= st.to {
			recorderOf(w).delivered(len(evs))
			return nil // the reader has gone, or has it all
		}
		recorderOf(w).delivered(len(evs))
		if evs, at, err = s.readOn(r, st, at); err != nil {
			s.failure(r, fmt.Errorf("lines cut: %w", err))
			panic(http.ErrAbortHandler)
		}
	}
}

// readOn returns the next events of a stretch that is known to end.
func (s *Server) readOn(r *http.Request, st stretch, at event.ID) ([]event.Event, event.ID, error) {
	evs, next, err := s.log.Read(r.Context(), st.topics, at, st.to, chunk)
	if err == nil && next <= at && at < st.to {
		err = fmt.Errorf("the log ends at %s, before %s", at, st.to)
	}
	return st.without(evs), next, err
}
