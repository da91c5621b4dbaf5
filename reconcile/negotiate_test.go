package reconcile

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// tailWorld returns a world whose local side lacks the newest events.
func tailWorld(shared bool, n, missing int) *world {
	return shape{n: n, missing: missing, tail: true}.world(shared)
}

// Each strategy works without the fallback, and the bytes are those of the table, with a little
// room.
func TestEachStrategyDoesItsWork(t *testing.T) {
	only := func(counts ...any) map[Strategy]int {
		m := map[Strategy]int{}
		for i := 0; i < len(counts); i += 2 {
			m[counts[i].(Strategy)] = counts[i+1].(int)
		}
		return m
	}
	const n = 6000
	for _, c := range []struct {
		name    string
		w       *world
		with    Strategy
		asked   map[Strategy]int
		outcome Strategy
		most    int // bytes of overhead
	}{
		{"equal", scattered(1, true, n, 0, 0), Auto, only(Summary, 1), Equal, 96},
		{"equal, other logs", scattered(1, false, n, 0, 0), Auto, only(Summary, 1), Equal, 96},
		{"empty here", scattered(1, false, n, n, 0), Auto, only(Summary, 1), Empty, 96},
		{"empty there", scattered(1, false, n, 0, n), Auto, only(Summary, 1), Empty, 96},
		{"prefix", tailWorld(true, n, 1000), Auto, only(Summary, 1), Prefix, 104},
		{"few gaps", scattered(1, true, n, 10, 0), Auto, only(Gaps, 1), Gaps, 140},
		{"many gaps", scattered(1, true, n, 600, 0), Auto, only(Gaps, 1), Gaps, 1300},
		{"too many gaps for the first request", scattered(1, true, 20_000, 4000, 0), Auto, only(Summary, 1, Gaps, 1), Gaps, 7000},
		{"gaps", scattered(1, true, 20_000, 4000, 0), Gaps, only(Summary, 1, Gaps, 1), Gaps, 7000},
		{"list", scattered(1, false, 100, 40, 10), Auto, only(Summary, 1, List, 1), List, 750},
		{"list, shared", scattered(1, true, 100, 40, 0), List, only(Summary, 1, List, 1), List, 750},
		{"sketch", scattered(1, false, n, 10, 0), Auto, only(Summary, 1, Sketch, 1), Sketch, 700},
		{"sketch of both", scattered(1, false, n, 100, 100), Auto, only(Summary, 1, Sketch, 2), Sketch, 6950},
		{"bloom, then a sketch", scattered(1, false, n, n/10, 0), Auto, only(Summary, 1, Bloom, 1, Sketch, 1), Sketch, 5600},
		{"bloom there and back", scattered(1, false, n, n/10, n/10), Auto, only(Summary, 1, Sketch, 2, Bloom, 1), Sketch, 12000},
		{"bloom alone", scattered(1, false, n, n/10, 0), Bloom, only(Summary, 1, Bloom, 2), Bloom, 15950},
		{"bloom alone, of both", scattered(1, false, n, n/10, n/10), Bloom, only(Summary, 1, Bloom, 2), Bloom, 30000},
		{"bloom alone, ids shared", scattered(1, true, n, n/10, 0), Bloom, only(Summary, 1, Bloom, 2), Bloom, 15950},
		{"bloom alone, disjoint", scattered(1, false, n, n/2, n/2), Bloom, only(Summary, 1, Bloom, 3), Bloom, 21150},
		{"sketch alone", scattered(1, false, n, n/10, n/10), Sketch, only(Summary, 1, Sketch, 2), Sketch, 31750},
		{"inverse", scattered(1, false, n, 100, 0), Inverse, only(Summary, 1, Inverse, 1), Inverse, 130800},
		{"inverse, of both", scattered(1, false, n, 100, 2), Inverse, nil, Inverse, 130800},
		{"exact", scattered(1, false, n, 10, 10), Exact, only(Summary, 1, Exact, 2), Exact, 950},
		{"exact, ids shared", scattered(1, true, n, 10, 0), Exact, only(Summary, 1, Exact, 2), Exact, 400},
		{"the peer is small", peerSmall(n), Auto, nil, Sketch, 1500},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, s := c.w.mustUnite(t, Config{Strategy: c.with})
			if res.Outcome != c.outcome || overhead(res) > c.most {
				t.Errorf("%d bytes, want %s in %d\n%s", overhead(res), c.outcome, c.most, explain(res))
			}
			if c.asked != nil && !maps.Equal(s.asked, c.asked) {
				t.Errorf("asked %v, want %v\n%s", s.asked, c.asked, explain(res))
			}
			if s.asked[Exact] > 0 && c.outcome != Exact {
				t.Errorf("the fallback was asked\n%s", explain(res))
			}
			for _, r := range res.Rounds {
				if r.Why == "" || r.Up == 0 || r.Down == 0 {
					t.Errorf("a round is not explained: %+v", r)
				}
			}
		})
	}
}

// peerSmall returns a world whose peer has 100 events, of which the local side has half.
func peerSmall(n int) *world {
	w := scattered(1, false, n, 50, 0)
	w.peer = append(w.peer[:0:0], w.peer...)
	local := w.hashes(w.local)
	kept := 0
	w.peer = slices.DeleteFunc(w.peer, func(it Item) bool {
		if local[it.Hash] {
			kept++
			return kept > 50
		}
		return false
	})
	return w
}

// With shared ids, the range after the newest held event is pulled, and only the range before it is
// negotiated.
func TestTailIsPulled(t *testing.T) {
	for _, with := range []Strategy{Auto, Gaps, Sketch, Bloom, Exact} {
		w := scattered(3, true, 3000, 100, 0)
		w.local = slices.DeleteFunc(w.local, func(it Item) bool { return it.ID > 2000 })
		last := slices.MaxFunc(w.local, Item.Compare).ID
		res, _ := w.mustUnite(t, Config{Strategy: with})
		if want := (window.Spans{{From: last, To: 3000}}); !slices.Equal(res.Pull, want) {
			t.Errorf("%s: Pull = %v, want %v", with, res.Pull, want)
		}
		if len(res.Missing) == 0 || len(res.Missing) > 100 || res.Missing[len(res.Missing)-1].ID > last {
			t.Errorf("%s: %d are missing", with, len(res.Missing))
		}
		if res.Sum.Count != 3000 {
			t.Errorf("%s: the peer's sum counts %d", with, res.Sum.Count)
		}
	}
}

// A Holder's windows make the list of gaps short even if the ids are sparse.
func TestHolder(t *testing.T) {
	w := &world{shared: true, head: 30_000}
	for id := event.ID(3); id <= w.head; id += 3 {
		w.peer = append(w.peer, itemAt(id))
		if id <= 10_000 || id > 10_300 {
			w.local = append(w.local, itemAt(id))
		}
	}
	w.held = window.Spans{{From: 0, To: 10_000}, {From: 10_300, To: 30_000}}
	res, s := w.mustUnite(t, Config{})
	if !maps.Equal(s.asked, map[Strategy]int{Gaps: 1}) || overhead(res) > 120 || len(res.Missing) != 100 {
		t.Errorf("%d bytes, %d missing\n%s", overhead(res), len(res.Missing), explain(res))
	}
	// It may be wrong.
	w.held = window.Spans{{From: 0, To: 30_000}}
	w.mustUnite(t, Config{})
	w.held = window.Spans{{From: 0, To: 6_000}}
	w.mustUnite(t, Config{})
}

// A filter that claims to contain everything, half, or one chosen event only causes delay: the
// negotiation stays within its rounds and then compares exactly.
func TestFilterThatLies(t *testing.T) {
	for _, c := range []struct {
		name string
		lies func(Item) bool
	}{
		{"of everything", func(Item) bool { return true }},
		{"of half", func(it Item) bool { return it.Hash[0]%2 == 0 }},
		{"of one", func(it Item) bool { return it.Hash == itemAt(77).Hash }},
	} {
		for _, with := range []Strategy{Auto, Bloom, Sketch, Inverse, List, Gaps} {
			for _, shared := range []bool{false, true} {
				w := scattered(5, shared, 800, 120, 0)
				w.local = slices.DeleteFunc(w.local, func(it Item) bool { return it.ID == 77 })
				s := newServer(w)
				s.tamper = func(req *Request, resp *Response) {
					if req.Strategy() != Exact {
						resp.Missing = slices.DeleteFunc(resp.Missing, c.lies)
					}
				}
				res := w.negotiate(t, s, Config{Strategy: with})
				if err := w.check(res); err != nil || !res.Proven {
					t.Errorf("%s, %s: proven %v, %v\n%s", c.name, with, res.Proven, err, explain(res))
				}
				filters := 0
				for _, r := range res.Rounds {
					if r.Strategy != Exact {
						filters++
					}
				}
				if filters > 8 || s.asked[Bloom]+s.asked[Inverse]+s.asked[List] > 1+maxCorrections {
					t.Errorf("%s, %s: %v\n%s", c.name, with, s.asked, explain(res))
				}
			}
		}
	}
}

// A peer that contradicts itself is not trusted: everything is left to be pulled.
func TestPeerThatContradictsItself(t *testing.T) {
	for _, with := range []Strategy{Auto, Bloom, Exact} {
		w := scattered(6, false, 3000, 30, 5)
		s := newServer(w)
		s.tamper = func(_ *Request, resp *Response) { resp.Sum.Digest[0] ^= 1 }
		res := w.negotiate(t, s, Config{Strategy: with})
		if res.Proven || res.Outcome != Pull || !slices.Equal(res.Pull, window.Spans{{From: 0, To: 3000}}) || len(res.Missing)+len(res.Extra) > 0 {
			t.Errorf("%s: %+v", with, res)
		}
		if err := w.check(res); err != nil {
			t.Errorf("%s: %v", with, err)
		}
	}
	// One that covers no block, or repeats the leaves for ever, is left in time.
	for _, spoil := range []func(*Response){
		func(r *Response) { r.Covered, r.Missing, r.Partial = 0, nil, true },
		func(r *Response) { r.Partial = true },
	} {
		w := scattered(6, false, 3000, 30, 5)
		s := newServer(w)
		s.tamper = func(req *Request, resp *Response) {
			if req.Strategy() == Exact {
				spoil(resp)
			}
		}
		res := w.negotiate(t, s, Config{Strategy: Exact})
		if err := w.check(res); err != nil || len(res.Rounds) > maxExact+20 {
			t.Errorf("%d rounds: %v", len(res.Rounds), err)
		}
	}
}

// If a peer refuses filters as too large, Exact follows, and if it refuses that, everything is
// pulled.
func TestRefusals(t *testing.T) {
	w := scattered(7, false, 5000, 1000, 0)
	s := newServer(w)
	s.limits = Limits{Filter: 100, Cells: 1}
	res := w.negotiate(t, s, Config{})
	if err := w.check(res); err != nil || res.Outcome != Exact {
		t.Errorf("%v\n%s", err, explain(res))
	}
	s = newServer(w)
	s.limits = Limits{Items: 1}
	res = w.negotiate(t, s, Config{})
	if err := w.check(res); err != nil || res.Outcome != Pull || res.Proven {
		t.Errorf("%v\n%s", err, explain(res))
	}
	// The sums are told whatever the limits.
	for _, w := range []*world{tailWorld(true, 3000, 10), scattered(7, true, 3000, 10, 0)} {
		s = newServer(w)
		s.limits = Limits{Items: 1}
		res = w.negotiate(t, s, Config{})
		if err := w.check(res); err != nil || res.Sum.Count != 3000 {
			t.Errorf("%v\n%s", err, explain(res))
		}
	}
	s = newServer(w)
	s.limits = Limits{Body: 10}
	if _, err := Negotiate(t.Context(), w.set(), s, Config{}); !refused(err) {
		t.Errorf("a refused hello: %v", err)
	}
}

// Partial responses are repeated until nothing is left; a block that never fits is split.
func TestPartialAnswers(t *testing.T) {
	for _, shared := range []bool{false, true} {
		for _, with := range []Strategy{Auto, Bloom, List, Exact} {
			w := scattered(8, shared, 1000, 500, 0)
			if with == List {
				w = scattered(8, shared, 1000, 950, 0)
			}
			s := newServer(w)
			s.limits = Limits{Missing: 50, Leaves: 4}
			res := w.negotiate(t, s, Config{Strategy: with, Limits: Limits{Missing: 5000, Leaves: 4}})
			if err := w.check(res); err != nil || !res.Proven {
				t.Errorf("%s: %v, proven %v, %d rounds: %s", with, err, res.Proven, len(res.Rounds), res.Why)
			}
		}
	}
}

// Events that are appended to both logs meanwhile are after the range.
func TestAppendsMeanwhile(t *testing.T) {
	for _, shared := range []bool{false, true} {
		for _, with := range []Strategy{Auto, Bloom, Sketch, Exact} {
			w := scattered(9, shared, 3000, 400, 0)
			s := newServer(w)
			pinned := *w
			s.before = func(round int) {
				if round > 1 {
					w.head++
					w.peer = append(w.peer, itemAt(w.head))
				}
			}
			res := w.negotiate(t, s, Config{Strategy: with})
			if res.Span.To != 3000 || !res.Proven {
				t.Errorf("%s: the range is %s, proven %v", with, res.Span, res.Proven)
			}
			if err := pinned.check(res); err != nil {
				t.Errorf("%s: %v", with, err)
			}
		}
	}
}

// A log that was rolled back refuses a requester that is ahead of it.
func TestAhead(t *testing.T) {
	w := scattered(1, true, 100, 0, 0)
	w.head = 50
	if _, err := Negotiate(t.Context(), w.set(), newServer(w), Config{}); !errors.Is(err, ErrAhead) {
		t.Errorf("Negotiate = %v, want ErrAhead", err)
	}
}

// Responses that are truncated, repeated or of other rounds are detected by their form, or because
// the sums differ.
func TestSpoiledResponses(t *testing.T) {
	for _, with := range []Strategy{Auto, Bloom, Exact} {
		w := scattered(10, false, 2000, 300, 20)
		var seen [][]byte
		record := func(_ int, b []byte) []byte { seen = append(seen, slices.Clone(b)); return b }
		s := newServer(w)
		s.respond = record
		w.negotiate(t, s, Config{Strategy: with})

		s = newServer(w)
		s.respond = func(_ int, b []byte) []byte { return b[:len(b)-1] }
		var bad *FrameError
		if _, err := Negotiate(t.Context(), w.set(), s, Config{Strategy: with}); !errors.As(err, &bad) || bad.TooLarge {
			t.Errorf("%s: a response that is cut: %v", with, err)
		}
		for name, respond := range map[string]func(int, []byte) []byte{
			"the first again":  func(int, []byte) []byte { return seen[0] },
			"the last at once": func(int, []byte) []byte { return seen[len(seen)-1] },
			"in reverse":       func(round int, _ []byte) []byte { return seen[max(0, len(seen)-round)] },
			"one behind":       func(round int, b []byte) []byte { seen = append(seen, b); return seen[max(0, round-2)] },
		} {
			s := newServer(w)
			s.respond = respond
			res, err := Negotiate(t.Context(), w.set(), s, Config{Strategy: with})
			if err != nil {
				continue
			}
			if err := w.check(res); err != nil {
				t.Errorf("%s, %s: %v\n%s", with, name, err, explain(res))
			}
		}
	}
}

// Without a fresh salt, a false positive would be one for ever. With one, an event crafted to be a
// false positive is delayed by one round, not hidden.
func TestFreshSaltsConverge(t *testing.T) {
	w := scattered(11, false, 50, 0, 0)
	known := Salt{1}
	f, err := NewBloom(w.set().Items(), 50, aloneHashes, known)
	if err != nil {
		t.Fatal(err)
	}
	id := event.ID(51)
	for !f.Seen(itemAt(id).Hash) {
		id++
	}
	w.peer, w.head = append(w.peer, itemAt(id)), id
	res, _ := w.mustUnite(t, Config{Strategy: Bloom, Salt: func() Salt { return known }})
	if res.Outcome != Exact {
		t.Errorf("one salt ends in %s\n%s", res.Outcome, explain(res))
	}
	fresh, first := salts(1), true
	res, _ = w.mustUnite(t, Config{Strategy: Bloom, Salt: func() Salt {
		if first {
			first = false
			return known
		}
		return fresh()
	}})
	if res.Outcome != Bloom || len(res.Rounds) != 3 {
		t.Errorf("fresh salts end in %s\n%s", res.Outcome, explain(res))
	}
}

// Local items that cannot be read, or are out of order, end the negotiation.
func TestSetsThatFail(t *testing.T) {
	w := scattered(12, false, 100, 50, 0)
	broken := errors.New("disk")
	for _, c := range []struct {
		set  Set
		want error
	}{
		{failing{w.set(), broken}, broken},
		{unordered{w.set()}, ErrOrder},
	} {
		if _, err := Negotiate(t.Context(), c.set, newServer(w), Config{}); !errors.Is(err, c.want) {
			t.Errorf("Negotiate = %v, want %v", err, c.want)
		}
	}
	s := newServer(w)
	s.sets[w.head] = failing{setOf(false, rangeOf(0, w.head), w.peer), broken}
	for _, with := range []Strategy{Auto, Bloom, Sketch, Inverse, Exact} {
		if _, err := Negotiate(t.Context(), w.set(), s, Config{Strategy: with}); !errors.Is(err, broken) {
			t.Errorf("%s: %v, want %v", with, err, broken)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Negotiate(ctx, w.set(), newServer(w), Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Negotiate = %v after cancel", err)
	}
}

// failing yields half of its items and then an error; its Sum is known.
type failing struct {
	Set
	err error
}

func (f failing) Items() Items {
	return func(yield func(Item, error) bool) {
		n := 0
		for it := range f.Set.Items() {
			if n++; n > 20 {
				yield(Item{}, f.err)
				return
			}
			if !yield(it, nil) {
				return
			}
		}
	}
}

type unordered struct{ Set }

func (u unordered) Sum(event.ID) (Sum, error) { return SumOf(u.Items(), false) }

func (u unordered) Items() Items {
	return func(yield func(Item, error) bool) {
		for it := range u.Set.Items() {
			for range 2 {
				if !yield(it, nil) {
					return
				}
			}
		}
	}
}

// The digests are those of package window, and those of sha256sum over sorted hashes.
func TestSums(t *testing.T) {
	w := scattered(13, true, 10_000, 5000, 0)
	for _, upTo := range []event.ID{0, 1, 4096, 4097, 9_999, event.MaxID} {
		var leafer window.Leafer
		items := slices.SortedFunc(slices.Values(w.local), Item.Compare)
		want := Sum{}
		for _, it := range items {
			if it.ID <= upTo {
				leafer.Add(it.ID, it.Time, it.Hash)
				want.Last = it.ID
			}
		}
		want.Digest, want.Count = window.DigestOf(leafer.Leaves())
		if got, err := w.set().Sum(upTo); err != nil || got != want {
			t.Errorf("Sum(%s) = %+v, %v, want %+v", upTo, got, err, want)
		}
	}
	a, b := itemAt(1).Hash, itemAt(2).Hash
	if strings.Compare(string(a[:]), string(b[:])) > 0 {
		a, b = b, a
	}
	got, err := FromHashes(window.Span{}, []event.Hash{b, a, b}).Sum(event.MaxID)
	if want := (Sum{Count: 2, Digest: sha256.Sum256(append(a[:], b[:]...))}); err != nil || got != want {
		t.Errorf("Sum = %+v, %v, want %+v", got, err, want)
	}
}
