package window

import (
	"cmp"
	"maps"
	"slices"

	"github.com/rstream-dev/rstream/event"
)

// A Set holds the windows of one copy of a log, of all topics, in the order of their
// starts. A window covers its topic and every topic within it. Methods never change a
// Set in place.
type Set []Window

// NewSet returns a Set of ws, sorted. It does not change ws.
func NewSet(ws ...Window) Set {
	s := slices.Clone(ws)
	slices.SortStableFunc(s, func(a, b Window) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), compareTopics(a.Topic, b.Topic))
	})
	return s
}

// Covering returns the windows of s that cover topic.
func (s Set) Covering(topic event.Topic) Set {
	var out Set
	for i := range s {
		if s[i].Topic.Contains(topic) {
			out = append(out, s[i])
		}
	}
	return out
}

// Held returns the spans in which each of topics is held. Without topics, it returns
// none.
func (s Set) Held(topics ...event.Topic) Spans {
	if len(topics) == 0 {
		return nil
	}
	held := Spans{{event.Beginning, event.MaxID}}
	for _, t := range topics {
		held = held.Intersect(Union(s.heldSpans(t)...))
	}
	return held
}

// heldSpans returns the held span of each window that covers t. The span of a window
// that holds nothing yet is empty, but its From is the start of the window.
func (s Set) heldSpans(t event.Topic) (spans []Span) {
	for i := range s {
		if w := &s[i]; w.State != Pending && w.Topic.Contains(t) {
			spans = append(spans, w.Held())
		}
	}
	return spans
}

// Proven returns the spans in which topic is held and proven to be complete.
func (s Set) Proven(topic event.Topic) Spans {
	var spans []Span
	for _, w := range s.Covering(topic) {
		if w.Proven {
			spans = append(spans, w.Held())
		}
	}
	return Union(spans...)
}

// Edge returns the position up to which all of topics are held from position p on
// without a gap. That is p itself if p is within or at the edge of a held span of each
// topic, and the events after it are not held of all. Otherwise ok is false: then next
// is the next position from which all topics are held, if more is true.
func (s Set) Edge(topics []event.Topic, p event.ID) (end event.ID, ok bool, next event.ID, more bool) {
	held := s.Held(topics...)
	if end = held.EndAfter(p); end > p || len(topics) > 0 && s.touches(topics, p) {
		return end, true, 0, false
	}
	for _, span := range held {
		if span.From > p {
			return p, false, span.From, true
		}
	}
	return p, false, 0, false
}

// touches reports whether p lies in or at the edge of a held span of each topic.
func (s Set) touches(topics []event.Topic, p event.ID) bool {
	for _, t := range topics {
		if !slices.ContainsFunc(s.heldSpans(t), func(held Span) bool { return held.From <= p && p <= held.To }) {
			return false
		}
	}
	return true
}

// Parts returns up to most topics that are held from position at on and overlap topics
// without containing all of them, and the position up to which exactly these topics are
// held, at most until. Up to there, events of these topics need not be fetched.
func (s Set) Parts(topics []event.Topic, at, until event.ID, most int) (parts []event.Topic, end event.ID) {
	end = until
	reach := map[event.Topic]event.ID{}
	for i := range s {
		w := &s[i]
		held := w.Held()
		switch {
		case held.Empty(), held.To <= at, !slices.ContainsFunc(topics, w.Topic.Overlaps):
		case !slices.ContainsFunc(topics, func(t event.Topic) bool { return !w.Topic.Contains(t) }):
		case held.From > at:
			end = min(end, held.From)
		default:
			reach[w.Topic] = max(reach[w.Topic], held.To)
		}
	}
	// Sorted, so that the result does not depend on the order of the map.
	for _, t := range slices.SortedFunc(maps.Keys(reach), compareTopics) {
		covered := slices.ContainsFunc(parts, func(p event.Topic) bool { return p.Contains(t) })
		if !covered && len(parts) < most {
			parts = append(slices.DeleteFunc(parts, t.Contains), t)
		}
	}
	for _, t := range parts {
		end = min(end, reach[t])
	}
	slices.SortFunc(parts, compareTopics)
	return parts, end
}

// narrower reports whether t is a proper subset of wider.
func narrower(t, wider event.Topic) bool { return wider.Contains(t) && !t.Contains(wider) }

func compareTopics(a, b event.Topic) int { return cmp.Compare(a.String(), b.String()) }

// Merged returns the fewest committed windows that hold the same events as the windows
// of s, in any state. Proven and unproven spans are not merged with each other.
func (s Set) Merged() Set {
	proven, held := map[event.Topic]Spans{}, map[event.Topic]Spans{}
	for i := range s {
		w := &s[i]
		if w.State == Pending {
			continue
		}
		held[w.Topic] = held[w.Topic].Add(w.Held())
		if w.Proven {
			proven[w.Topic] = proven[w.Topic].Add(w.Held())
		}
	}
	var out []Window
	add := func(t event.Topic, spans Spans, among map[event.Topic]Spans, isProven bool) {
		for _, span := range spans {
			if !coveredByWider(among, t, span) {
				out = append(out, Window{Topic: t, State: Committed, From: span.From, To: span.To, Reached: span.To, Proven: isProven})
			}
		}
	}
	for t, spans := range held {
		add(t, proven[t], proven, true)
		for _, whole := range spans {
			add(t, proven[t].Gaps(whole), held, false)
		}
	}
	return NewSet(out...)
}

func coveredByWider(held map[event.Topic]Spans, t event.Topic, span Span) bool {
	for wider, spans := range held {
		if narrower(t, wider) && spans.Contains(span) {
			return true
		}
	}
	return false
}
