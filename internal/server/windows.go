package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// getWindows returns windows of a topic's history: GET /windows.
func (s *Server) getWindows(w http.ResponseWriter, r *http.Request) *wire.Error {
	q, err := wire.ParseWindows(r.URL.RawQuery)
	if err != nil {
		return wire.Errorf(http.StatusBadRequest, "%v", err)
	}
	if problem := s.mayRead(w, q.Topics()...); problem != nil {
		return problem
	}
	head := s.log.HeadPoint()
	span, problem := s.windowSpan(r, q, head)
	if problem != nil {
		return problem
	}
	leaves, err := s.leavesOf(r.Context(), q, span)
	if err != nil {
		return s.readProblem(r, err)
	}
	digest, count := window.DigestOf(leaves)
	bounds := bounds{s: s, ctx: r.Context()}
	from, err := bounds.boundAt(span.From)
	to, err2 := bounds.boundAt(span.To)
	if err := errors.Join(err, err2); err != nil {
		return s.readProblem(r, err)
	}
	// The digest identifies the events, and the URL the form of the response.
	tag := fmt.Sprintf(`"%s-%s-%s"`, from.at, to.at, digest)
	h, same := w.Header(), matchesTag(r.Header.Values("If-None-Match"), tag)
	var answer any
	switch {
	case same: // the client has this response
	case q.Sum || q.At != nil:
		answer = windowOf(from, to, digest, count, q.At != nil)
	default:
		if answer, err = bounds.listWindows(span, leaves); err != nil {
			return s.readProblem(r, err)
		}
	}
	s.setPosition(h, wire.HeaderHead, head)
	h.Set(wire.HeaderFrom, from.at.String())
	h.Set(wire.HeaderTo, to.at.String())
	h.Set("ETag", tag)
	h.Set("Cache-Control", "no-cache") // caches may store it, but must revalidate
	if same {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return writeFresh(w, answer)
}

// leavesOf returns the leaves of the topics of q.
func (s *Server) leavesOf(ctx context.Context, q *wire.WindowQuery, span window.Span) ([]window.Leaf, error) {
	if len(q.More) == 0 {
		return s.log.Leaves(ctx, q.Topic, span)
	}
	return s.log.UnionLeaves(ctx, q.Topics(), span)
}

// A bound is the start or the end of a window.
type bound struct {
	at   event.Cursor
	time *event.Time // of the last event at or before it, or nil
}

// bounds looks up the bounds of windows.
type bounds struct {
	s    *Server
	ctx  context.Context
	last bound // the last result
}

// boundAt returns the bound at a position.
func (b *bounds) boundAt(at event.ID) (bound, error) {
	if at == b.last.at.ID && b.last.at.Log != "" { // adjacent windows share a bound
		return b.last, nil
	}
	p, now := event.Point{ID: at}, bound{}
	if at != event.Beginning {
		t, mark, ok, err := b.s.log.LastAt(b.ctx, at)
		if err != nil {
			return bound{}, err
		}
		if p.Mark = mark; ok {
			now.time = &t
		}
	}
	now.at = p.Cursor(b.s.log.Log())
	b.last = now
	return now, nil
}

// windowOf returns a range as a single window. A sum leaves out its start, to be short.
func windowOf(from, to bound, d window.Digest, count uint64, start bool) wire.Window {
	w := wire.Window{From: from.at, To: to.at, End: to.time, Count: count, Digest: d}
	if start {
		w.Start = from.time
	}
	return w
}

// maxWindows is the most windows in a list. It is a variable for the tests.
var maxWindows = 10_000

func (b *bounds) listWindows(span window.Span, leaves []window.Leaf) (list wire.WindowList, err error) {
	end := span.To
	list.Windows = []wire.Window{}
	for i := range leaves {
		part := window.BlockSpan(leaves[i].Block).Intersect(span)
		if len(list.Windows) == maxWindows {
			end = part.From
			break
		}
		digest, count := window.DigestOf(leaves[i : i+1])
		from, err := b.boundAt(part.From)
		if err != nil {
			return list, err
		}
		to, err := b.boundAt(part.To)
		if err != nil {
			return list, err
		}
		list.Windows = append(list.Windows, windowOf(from, to, digest, count, true))
	}
	for _, at := range []struct {
		of *event.Cursor
		id event.ID
	}{{&list.Next, end}, {&list.From, span.From}, {&list.To, span.To}} {
		bound, err := b.boundAt(at.id)
		if err != nil {
			return list, err
		}
		*at.of = bound.at
	}
	return list, nil
}

// windowSpan resolves the moments of q to a range. The window around a moment is a block, so
// that all clients get the same bounds; the open block ends at the head.
func (s *Server) windowSpan(r *http.Request, q *wire.WindowQuery, head event.Point) (span window.Span, problem *wire.Error) {
	if q.At != nil {
		horizon, err := s.log.Horizon(r.Context())
		if err != nil {
			return span, s.internalProblem(r, err)
		}
		at, problem := s.resolveMoment(r, *q.At, horizon, head)
		if problem != nil {
			return span, problem
		}
		if at.ID < horizon {
			return span, goneError(at.ID, horizon)
		}
		return window.BlockSpan(at.ID.Block()).Intersect(window.Span{From: horizon, To: head.ID}), nil
	}
	return s.resolveSpan(r, q.Since, q.Until, head)
}

// resolveSpan resolves two moments to a range that the log has as a whole. Without until, it ends
// at the head.
func (s *Server) resolveSpan(r *http.Request, since event.Moment, until *event.Moment, head event.Point) (span window.Span, problem *wire.Error) {
	horizon, err := s.log.Horizon(r.Context())
	if err != nil {
		return span, s.internalProblem(r, err)
	}
	from, problem := s.resolveMoment(r, since, horizon, head)
	if problem != nil {
		return span, problem
	}
	to := head
	if until != nil {
		if to, problem = s.resolveMoment(r, *until, horizon, head); problem != nil {
			return span, problem
		}
	}
	span = window.Span{From: from.ID, To: to.ID}
	return span, checkSpan(span, horizon)
}

// matchesTag reports whether If-None-Match headers match tag.
func matchesTag(headers []string, tag string) bool {
	for t := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		if t = strings.TrimPrefix(strings.TrimSpace(t), "W/"); t == tag || t == "*" {
			return true
		}
	}
	return false
}
