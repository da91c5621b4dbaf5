package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// windows answers bounded history queries: GET /windows.
func (s *Server) windows(w http.ResponseWriter, r *http.Request) *wire.Error {
	q, err := wire.ParseWindows(r.URL.RawQuery)
	if err != nil {
		return wire.Errorf(http.StatusBadRequest, "%v", err)
	}
	span, problem := s.windowSpan(r, q)
	if problem != nil {
		return problem
	}
	leaves, err := s.log.Leaves(r.Context(), q.Topic, span)
	if err != nil {
		return s.readProblem(r, err)
	}
	digest, count := window.DigestOf(leaves)
	// The digest names the events, so it names every form of the answer, too.
	tag := fmt.Sprintf(`"%s-%s-%s-%t"`, span.From, span.To, digest, q.Sum)
	h := w.Header()
	h.Set("ETag", tag)
	h.Set(wire.HeaderFrom, span.From.String())
	h.Set(wire.HeaderTo, span.To.String())
	if matchesTag(r.Header.Get("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	whole := wire.Window{From: span.From, To: span.To, Count: count, Digest: digest}
	if err := s.stamp(r.Context(), &whole, !q.Sum); err != nil {
		return s.failure(r, err)
	}
	if q.Sum || q.At != nil {
		return writeJSON(w, whole)
	}
	list, err := s.windowList(r.Context(), span, leaves)
	if err != nil {
		return s.failure(r, err)
	}
	return writeJSON(w, list)
}

// maxWindows is how many windows one list holds.
const maxWindows = 10_000

func (s *Server) windowList(ctx context.Context, span window.Span, leaves []window.Leaf) (wire.WindowList, error) {
	list := wire.WindowList{From: span.From, To: span.To, Next: span.To, Windows: []wire.Window{}}
	for i := range leaves {
		part := window.BlockSpan(leaves[i].Block).Intersect(span)
		if len(list.Windows) == maxWindows {
			list.Next = part.From
			break
		}
		digest, count := window.DigestOf(leaves[i : i+1])
		w := wire.Window{From: part.From, To: part.To, Count: count, Digest: digest}
		if err := s.stamp(ctx, &w, true); err != nil {
			return list, err
		}
		list.Windows = append(list.Windows, w)
	}
	return list, nil
}

// stamp adds the times of a window's bounds.
func (s *Server) stamp(ctx context.Context, w *wire.Window, start bool) error {
	if t, ok, err := s.log.TimeAt(ctx, w.To); err != nil {
		return err
	} else if ok {
		w.End = &t
	}
	if !start {
		return nil
	}
	t, ok, err := s.log.TimeAt(ctx, w.From)
	if ok {
		w.Start = &t
	}
	return err
}

// windowSpan turns the moments of q into a stretch. The window around a moment is a
// block, so that all clients share its bounds; the open block ends at the head.
func (s *Server) windowSpan(r *http.Request, q *wire.WindowQuery) (span window.Span, problem *wire.Error) {
	head := s.log.Head()
	horizon, err := s.log.Horizon(r.Context())
	if err != nil {
		return span, s.failure(r, err)
	}
	if q.At != nil {
		at, problem := s.position(r, *q.At, head)
		if problem != nil {
			return span, problem
		}
		if at < horizon {
			return span, gone(at, horizon)
		}
		return window.BlockSpan(at.Block()).Intersect(window.Span{From: horizon, To: head}), nil
	}
	if span.From, problem = s.position(r, q.Since, head); problem != nil {
		return span, problem
	}
	span.To = head
	if q.Until != nil {
		if span.To, problem = s.position(r, *q.Until, head); problem != nil {
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

// matchesTag reports whether an If-None-Match header names tag.
func matchesTag(header, tag string) bool {
	for _, t := range strings.Split(header, ",") {
		if t = strings.TrimPrefix(strings.TrimSpace(t), "W/"); t == tag || t == "*" {
			return true
		}
	}
	return false
}
