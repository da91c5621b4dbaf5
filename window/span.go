package window

import (
	"fmt"
	"slices"
	"sort"

	"github.com/rstream-dev/rstream/event"
)

// A Span is the range (From, To]: the events after position From, up to and including
// position To. It is empty if To ≤ From.
type Span struct{ From, To event.ID }

// Empty reports whether s is empty.
func (s Span) Empty() bool { return s.To <= s.From }

// Contains reports whether every event of t lies in s.
func (s Span) Contains(t Span) bool { return t.Empty() || s.From <= t.From && t.To <= s.To }

// Intersect returns the intersection of s and t, which may be empty.
func (s Span) Intersect(t Span) Span { return Span{max(s.From, t.From), min(s.To, t.To)} }

// String returns the two positions, separated by a dash.
func (s Span) String() string { return fmt.Sprintf("%s-%s", s.From, s.To) }

// Spans is a set of ids as spans: in order, not empty, and with a gap between any two.
// A nil Spans is the empty set. Methods never change a Spans in place.
type Spans []Span

// Union returns the union of spans, which may be empty, overlap and be in any order.
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

// Add returns the union of ss and s.
func (ss Spans) Add(s Span) Spans { return Union(append(slices.Clone(ss), s)...) }

// Intersect returns the intersection of ss and ts.
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

// Gaps returns the parts of within that are not in ss.
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

// EndAfter returns the position up to which ss reaches from position p without a gap.
// That is p itself if the id after p is not in ss.
func (ss Spans) EndAfter(p event.ID) event.ID {
	i := sort.Search(len(ss), func(i int) bool { return ss[i].To > p })
	if i < len(ss) && ss[i].From <= p {
		return ss[i].To
	}
	return p
}

// Count returns the number of ids in ss, an upper bound on its events.
func (ss Spans) Count() (n uint64) {
	for _, s := range ss {
		n += uint64(s.To - s.From)
	}
	return n
}
