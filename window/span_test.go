package window

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
)

// positions is the number of events of the slow oracle: bit i is event i+1.
const positions = 24

type bits [positions]bool

func bitsOf(spans ...Span) (b bits) {
	for _, s := range spans {
		for id := s.From + 1; id <= s.To; id++ {
			b[id-1] = true
		}
	}
	return b
}

var anySpan = rapid.Custom(func(t *rapid.T) Span {
	position := rapid.Uint64Range(0, positions)
	return Span{event.ID(position.Draw(t, "from")), event.ID(position.Draw(t, "to"))} // it may be empty or turned round
})

// checkSpans checks that ss is in its one form and holds exactly want.
func checkSpans(t *rapid.T, what string, ss Spans, want bits) {
	t.Helper()
	for i, s := range ss {
		if s.Empty() || i > 0 && s.From <= ss[i-1].To {
			t.Fatalf("%s = %v, which is not in order, without empty and without touching spans", what, ss)
		}
	}
	if got := bitsOf(ss...); got != want {
		t.Fatalf("%s = %v, which holds\n%v, want\n%v", what, ss, got, want)
	}
}

func TestSpansAgainstBits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(anySpan, 0, 6).Draw(t, "in")
		other := rapid.SliceOfN(anySpan, 0, 6).Draw(t, "other")
		one := anySpan.Draw(t, "one")
		ss, ts := Union(in...), Union(other...)
		a, b, c := bitsOf(in...), bitsOf(other...), bitsOf(one)
		before := append(Spans(nil), ss...)

		checkSpans(t, "Union", ss, a)
		checkSpans(t, "Add", ss.Add(one), a.or(c))
		checkSpans(t, "Intersect", ss.Intersect(ts), a.and(b))
		checkSpans(t, "Gaps", ss.Gaps(one), c.without(a))
		if got, want := ss.Contains(one), (c.without(a) == bits{}); got != want {
			t.Fatalf("%v.Contains(%v) = %v, want %v", ss, one, got, want)
		}
		if got, want := ss.Count(), a.count(); got != want {
			t.Fatalf("%v.Count() = %d, want %d", ss, got, want)
		}
		checkEndAfter(t, ss, a)
		checkSpan(t, one, anySpan.Draw(t, "two"))
		for i := range before {
			if before[i] != ss[i] {
				t.Fatalf("%v has become %v", before, ss)
			}
		}
	})
}

func checkEndAfter(t *rapid.T, ss Spans, held bits) {
	for p := event.Beginning; p <= positions; p++ {
		want := p
		for want < positions && held[want] {
			want++
		}
		if got := ss.EndAfter(p); got != want {
			t.Fatalf("%v.EndAfter(%d) = %d, want %d", ss, p, got, want)
		}
	}
}

func checkSpan(t *rapid.T, s, u Span) {
	a, b := bitsOf(s), bitsOf(u)
	if got, want := s.Contains(u), (b.without(a) == bits{}); got != want {
		t.Fatalf("%v.Contains(%v) = %v, want %v", s, u, got, want)
	}
	if got, want := s.Empty(), (a == bits{}); got != want {
		t.Fatalf("%v.Empty() = %v, want %v", s, got, want)
	}
	both := s.Intersect(u)
	if got, want := bitsOf(both), a.and(b); got != want {
		t.Fatalf("%v.Intersect(%v) = %v", s, u, both)
	}
}

func (b bits) or(c bits) bits {
	for i := range b {
		b[i] = b[i] || c[i]
	}
	return b
}

func (b bits) and(c bits) bits {
	for i := range b {
		b[i] = b[i] && c[i]
	}
	return b
}

func (b bits) without(c bits) bits {
	for i := range b {
		b[i] = b[i] && !c[i]
	}
	return b
}

func (b bits) count() (n uint64) {
	for _, set := range b {
		if set {
			n++
		}
	}
	return n
}

func TestSpansWithoutEnd(t *testing.T) {
	all := Spans{{event.Beginning, event.MaxID}}
	if got := all.Count(); got != uint64(event.MaxID) {
		t.Errorf("Count() = %d, want %d", got, uint64(event.MaxID))
	}
	if gaps := all.Gaps(all[0]); len(gaps) != 0 {
		t.Errorf("Gaps = %v, want none", gaps)
	}
	if got := (Spans{{5, event.MaxID}}).EndAfter(5); got != event.MaxID {
		t.Errorf("EndAfter(5) = %s, want %s", got, event.MaxID)
	}
	if got := (Span{0, 1}).String(); got != "0000000000000-0000000000001" {
		t.Errorf("String() = %s", got)
	}
}
