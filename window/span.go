package window

import (
	"fmt"
	"slices"
	"sort"

	"github.com/rstream-dev/rstream/event"
)

// A Span is the stretch (From, To]: the events after position From up to and with
// position To. It is empty if To ≤ From.
type Span struct{ From, To event.ID }

// Empty reports whether no event can lie in s.
func (s Span) Empty() bool { return s.To <= s.From }

// Contains reports whether every event of t lies in s.
func (s Span) Contains(t Span) bool { return t.Empty() || s.From <= t.From && t.To <= s.To }

// Intersect returns what lies in both s and t; it may be empty.
func (s Span) Intersect(t Span) Span { return Span{max(s.From, t.From), min(s.To, t.To)} }

// String returns the two positions with a dash between.
func (s Span) String() string { return fmt.Sprintf("%s-%s", s.From, s.To) }

// Spans is a set of events as spans: in order, none empty, none touching the
// next. The zero Spans is the empty set. Its methods never change a Spans in
// place.
type Spans []Span

// Union returns the set of all events in any of the spans.
func Union(spans ...Span) Spans {
	in := slices.DeleteFunc(slices.Clone(spans), Span.Empty)
	slices.SortFunc(in, func(a, b Span) int {
		switch {
		case a.From < b.From:
			return -1
		case a.From > b.From:
			return 1
		}
		return 0
	})
	var out Spans
	for _, s := range in {
		if n := len(out); n > 0 && s.From <= out[n-1].To {
			out[n-1].To = max(out[n-1].To, s.To)
			continue
		}
		out = append(out, s)
	}
	return out
}

// Add returns ss and s together.
func (ss Spans) Add(s Span) Spans { return Union(append(slices.Clone(ss), s)...) }

// Intersect returns what lies in both ss and ts.
func (ss Spans) Intersect(ts Spans) Spans {
	var out Spans
	for i, j := 0, 0; i < len(ss) && j < len(ts); {
		if both := ss[i].Intersect(ts[j]); !both.Empty() {
			out = append(out, both)
		}
		if ss[i].To < ts[j].To {
			i++
		} else {
			j++
		}
	}
	return out
}

// Gaps returns what of within is not in ss.
func (ss Spans) Gaps(within Span) Spans {
	var out Spans
	from := within.From
	for _, s := range ss {
		if s.To <= from {
			continue
		}
		if s.From >= within.To {
			break
		}
		if gap := (Span{from, s.From}); !gap.Empty() {
			out = append(out, gap)
		}
		from = s.To
	}
	if rest := (Span{from, within.To}); !rest.Empty() {
		out = append(out, rest)
	}
	return out
}

// Contains reports whether every event of s lies in ss.
func (ss Spans) Contains(s Span) bool {
	if s.Empty() {
		return true
	}
	i := sort.Search(len(ss), func(i int) bool { return ss[i].To > s.From })
	return i < len(ss) && ss[i].Contains(s)
}

// EndAfter returns how far ss reaches from position p without a hole. It is p
// itself if the event after p is not in ss.
func (ss Spans) EndAfter(p event.ID) event.ID {
	i := sort.Search(len(ss), func(i int) bool { return ss[i].To > p })
	if i < len(ss) && ss[i].From <= p {
		return ss[i].To
	}
	return p
}

// Count returns how many positions lie in ss: an upper bound of its events.
func (ss Spans) Count() (n uint64) {
	for _, s := range ss {
		n += uint64(s.To - s.From)
	}
	return n
}
