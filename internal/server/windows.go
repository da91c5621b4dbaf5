package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// windows answers bounded history queries: GET /windows.
func (s *Server) windows(w http.ResponseWriter, r *http.Request) *wire.Error {
	q, err := wire.ParseWindows(r.URL.RawQuery)
	if err != nil {
		return wire.Errorf(http.StatusBadRequest, "%v", err)
	}
	head := s.log.Head()
	span, problem := s.windowSpan(r, q, head)
	if problem != nil {
		return problem
	}
	leaves, err := s.log.Leaves(r.Context(), q.Topic, span)
	if err != nil {
		return s.readProblem(r, err)
	}
	digest, count := window.DigestOf(leaves)
	// The digest names the events, the URL the form of the answer.
	tag := fmt.Sprintf(`"%s-%s-%s"`, span.From, span.To, digest)
	same := matchesTag(r.Header.Values("If-None-Match"), tag)
	var answer any
	if times := (boundTimes{s: s, ctx: r.Context()}); same {
		// The client has it.
	} else if q.Sum || q.At != nil {
		answer, err = times.window(span, digest, count, q.At != nil)
	} else {
		answer, err = times.list(span, leaves)
	}
	if err != nil {
		return s.readProblem(r, err)
	}
	h := w.Header()
	h.Set(wire.HeaderHead, head.String())
	h.Set(wire.HeaderFrom, span.From.String())
	h.Set(wire.HeaderTo, span.To.String())
	h.Set("ETag", tag)
	h.Set("Cache-Control", "no-cache") // it may be kept, and asked about
	if same {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return writeFresh(w, answer)
}

// boundTimes tells the times of windows' bounds.
type boundTimes struct {
	s    *Server
	ctx  context.Context
	last event.ID // the bound that was asked for last; 0 if none was
	time *event.Time
}

// of returns the time of the last event at or before at, nil if there is none.
func (b *boundTimes) of(at event.ID) (*event.Time, error) {
	if at == event.Beginning {
		return nil, nil
	}
	if at != b.last { // neighbours share a bound
		t, ok, err := b.s.log.TimeAt(b.ctx, at)
		if err != nil {
			return nil, err
		}
		if b.last, b.time = at, &t; !ok {
			b.time = nil
		}
	}
	return b.time, nil
}

// window describes a stretch as one. A sum is to be short and leaves out its start.
func (b *boundTimes) window(span window.Span, d window.Digest, count uint64, start bool) (w wire.Window, err error) {
	w = wire.Window{From: span.From, To: span.To, Count: count, Digest: d}
	if start {
		if w.Start, err = b.of(span.From); err != nil {
			return w, err
		}
	}
	w.End, err = b.of(span.To)
	return w, err
}

// maxWindows is how many windows one list holds. It is a variable for the tests.
var maxWindows = 10_000

func (b *boundTimes) list(span window.Span, leaves []window.Leaf) (wire.WindowList, error) {
	list := wire.WindowList{From: span.From, To: span.To, Next: span.To, Windows: []wire.Window{}}
	for i := range leaves {
		part := window.BlockSpan(leaves[i].Block).Intersect(span)
		if len(list.Windows) == maxWindows {
			list.Next = part.From
			break
		}
		digest, count := window.DigestOf(leaves[i : i+1])
		w, err := b.window(part, digest, count, true)
		if err != nil {
			return list, err
		}
		list.Windows = append(list.Windows, w)
	}
	return list, nil
}

// windowSpan turns the moments of q into a stretch. The window around a moment is a
// block, so that all clients share its bounds; the open block ends at the head.
func (s *Server) windowSpan(r *http.Request, q *wire.WindowQuery, head event.ID) (span window.Span, problem *wire.Error) {
	if q.At != nil {
		horizon, err := s.log.Horizon(r.Context())
		if err != nil {
			return span, s.failure(r, err)
		}
		at, problem := s.position(r, *q.At, head)
		if problem != nil {
			return span, problem
		}
		if at < horizon {
			return span, gone(at, horizon)
		}
		return window.BlockSpan(at.Block()).Intersect(window.Span{From: horizon, To: head}), nil
	}
	return s.spanOf(r, q.Since, q.Until, head)
}

// spanOf turns two moments into a stretch that can be answered whole. Without until it
// ends at the head.
func (s *Server) spanOf(r *http.Request, since event.Moment, until *event.Moment, head event.ID) (span window.Span, problem *wire.Error) {
	horizon, err := s.log.Horizon(r.Context())
	if err != nil {
		return span, s.failure(r, err)
	}
	if span.From, problem = s.position(r, since, head); problem != nil {
		return span, problem
	}
	span.To = head
	if until != nil {
		if span.To, problem = s.position(r, *until, head); problem != nil {
			return span, problem
		}
	}
	if span.From < horizon {
		return span, gone(span.From, horizon)
	}
	if span.From > span.To {
		return span, wire.Errorf(http.StatusBadRequest, "since %s lies after until %s", span.From, span.To)
	}
	return span, nil
}

// matchesTag reports whether If-None-Match headers name tag.
func matchesTag(headers []string, tag string) bool {
	for t := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		if t = strings.TrimPrefix(strings.TrimSpace(t), "W/"); t == tag || t == "*" {
			return true
		}
	}
	return false
}
