package window

import (
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
)

func mustTopic(t interface{ Fatal(...any) }, name string) event.Topic {
	topic, err := event.ParseTopic(name)
	if err != nil {
		t.Fatal(err)
	}
	return topic
}

// setTopics overlap and contain each other in every way.
var setTopics = []string{"*", "a", "a/p", "a/p/", "a/p/1$", "*/p", "b", "a/q*"}

var anyTopic = rapid.Custom(func(t *rapid.T) event.Topic {
	return mustTopic(t, rapid.SampledFrom(setTopics).Draw(t, "topic"))
})

var anyWindow = rapid.Custom(func(t *rapid.T) Window {
	bounds := rapid.SliceOfN(rapid.Uint64Range(0, positions), 3, 3).Draw(t, "bounds")
	slices.Sort(bounds)
	w := Window{Topic: anyTopic.Draw(t, "topic"), State: rapid.SampledFrom(states).Draw(t, "state"),
		From: event.ID(bounds[0]), Reached: event.ID(bounds[1]), To: event.ID(bounds[2])}
	switch w.State {
	case Committed:
		w.Reached, w.Proven = w.To, rapid.Bool().Draw(t, "proven")
	case Live:
		w.To = event.MaxID
	}
	return w
})

// truth returns the positions that windows covering topic hold, and those they have proven.
func truth(ws []Window, topic event.Topic) (held, proven bits) {
	for i := range ws {
		if w := &ws[i]; w.Topic.Contains(topic) {
			held = held.or(bitsOf(w.Held()))
			if w.Proven {
				proven = proven.or(bitsOf(w.Held()))
			}
		}
	}
	return held, proven
}

func TestSetAgainstBits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ws := rapid.SliceOfN(anyWindow, 0, 8).Draw(t, "windows")
		before := slices.Clone(ws)
		s := NewSet(ws...)
		if !slices.IsSortedFunc(s, func(a, b Window) int { return cmp.Compare(a.From, b.From) }) {
			t.Fatalf("NewSet(%v) = %v", ws, s)
		}
		topics := rapid.SliceOfN(anyTopic, 0, 3).Draw(t, "topics")
		checkHeld(t, s, ws, topics)
		checkParts(t, s, ws)
		checkMerged(t, s, s.Merged())
		if !slices.Equal(ws, before) {
			t.Fatalf("%v has become %v", before, ws)
		}
	})
}

func checkHeld(t *rapid.T, s Set, ws []Window, topics []event.Topic) {
	want := bitsOf(Span{0, positions})
	if len(topics) == 0 {
		want = bits{}
	}
	for _, topic := range topics {
		held, proven := truth(ws, topic)
		want = want.and(held)
		checkSpans(t, "Held", s.Held(topic), held)
		checkSpans(t, "Proven", s.Proven(topic), proven)
		for _, w := range s.Covering(topic) {
			if !w.Topic.Contains(topic) {
				t.Fatalf("Covering(%s) has %v", topic, w)
			}
		}
	}
	checkSpans(t, "Held", s.Held(topics...), want)
	for p := event.Beginning; p < positions; p++ {
		checkEdge(t, s, ws, topics, want, p)
	}
}

func checkEdge(t *rapid.T, s Set, ws []Window, topics []event.Topic, held bits, p event.ID) {
	end, ok, next, more := s.Edge(topics, p)
	wantEnd := p
	for wantEnd < positions && held[wantEnd] {
		wantEnd++
	}
	atEdge := len(topics) > 0
	for _, topic := range topics {
		atEdge = atEdge && slices.ContainsFunc(ws, func(w Window) bool {
			h := w.Held()
			return w.State != Pending && w.Topic.Contains(topic) && h.From <= p && p <= h.To
		})
	}
	if end != wantEnd || ok != (wantEnd > p || atEdge) {
		t.Fatalf("Edge(%v, %d) = %d, %v, want %d; held are %v", topics, p, end, ok, wantEnd, held)
	}
	if ok {
		return
	}
	wantNext, wantMore := event.Beginning, false
	for q := p; q < positions && !wantMore; q++ {
		wantNext, wantMore = q, held[q]
	}
	if more != wantMore || more && next != wantNext {
		t.Fatalf("Edge(%v, %d) goes on at %d, %v, want %d, %v", topics, p, next, more, wantNext, wantMore)
	}
}

// checkParts checks that the parts are held all the way, overlap the topics, and are the same
// each time.
func checkParts(t *rapid.T, s Set, ws []Window) {
	topics := rapid.SliceOfN(anyTopic, 1, 3).Draw(t, "whole")
	at := event.ID(rapid.Uint64Range(0, positions-1).Draw(t, "from"))
	most := rapid.IntRange(0, 3).Draw(t, "most")
	parts, end := s.Parts(topics, at, positions, most)
	if end <= at || end > positions || len(parts) > most {
		t.Fatalf("Parts(%v, %d, most %d) = %v up to %d", topics, at, most, parts, end)
	}
	for i, p := range parts {
		if held, _ := truth(ws, p); all(topics, p.Contains) || !slices.ContainsFunc(topics, p.Overlaps) || bitsOf(Span{at, end}).without(held) != (bits{}) {
			t.Fatalf("Parts(%v, %d) = %v up to %d, but %s is not held", topics, at, parts, end, p)
		}
		for j, q := range parts {
			if i != j && p.Contains(q) {
				t.Fatalf("Parts(%v, %d) = %v, which names %s twice", topics, at, parts, q)
			}
		}
	}
	if again, end2 := s.Parts(topics, at, positions, most); end2 != end || !slices.Equal(again, parts) {
		t.Fatalf("Parts = %v up to %d, then %v up to %d", parts, end, again, end2)
	}
}

func all(topics []event.Topic, is func(event.Topic) bool) bool {
	return !slices.ContainsFunc(topics, func(t event.Topic) bool { return !is(t) })
}

// checkMerged checks that merging changes neither the held nor the proven spans of any topic,
// and leaves as few windows as possible.
func checkMerged(t *rapid.T, s, merged Set) {
	for _, name := range setTopics {
		topic := mustTopic(t, name)
		held, proven := truth(s, topic)
		checkSpans(t, "Held of "+name+" merged", merged.Held(topic), held)
		checkSpans(t, "Proven of "+name+" merged", merged.Proven(topic), proven)
	}
	for i, w := range merged {
		if w.State != Committed || w.Held().Empty() || w.Reached != w.To {
			t.Fatalf("Merged() has %+v", w)
		}
		for j, v := range merged {
			both := v.Held().Intersect(w.Held())
			if i == j || !v.Topic.Contains(w.Topic) || v.Proven != w.Proven {
				continue
			}
			if v.Topic == w.Topic && both.To >= both.From || v.Held().Contains(w.Held()) {
				t.Fatalf("Merged() = %v, in which %v and %v could be one", merged, v, w)
			}
		}
	}
	if again := merged.Merged(); !slices.Equal(again, merged) {
		t.Fatalf("Merged() = %v, merged again %v", merged, again)
	}
}

func TestPartsTakesTheWidest(t *testing.T) {
	held := func(name string, from, to event.ID) Window {
		return Window{Topic: mustTopic(t, name), State: Committed, From: from, Reached: to, To: to}
	}
	s := NewSet(held("a/p/1$", 0, 20), held("a/p", 0, 10), held("b", 5, 20), held("a/q*", 15, 20), held("*", 18, 20))
	parts, end := s.Parts([]event.Topic{event.All}, 0, 20, 10)
	if want := []event.Topic{mustTopic(t, "a/p")}; !slices.Equal(parts, want) || end != 5 {
		t.Errorf("Parts = %v up to %d, want %v up to 5", parts, end, want)
	}
	parts, end = s.Parts([]event.Topic{event.All}, 12, 20, 1)
	if want := []event.Topic{mustTopic(t, "a/p/1$")}; !slices.Equal(parts, want) || end != 15 {
		t.Errorf("Parts = %v up to %d, want %v up to 15", parts, end, want)
	}
}
