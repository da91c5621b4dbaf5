package reconcile

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

var strategies = []Strategy{Auto, Gaps, List, Bloom, Sketch, Inverse, Exact}

// drawWorld draws two sides of up to most events.
func drawWorld(t *rapid.T, most int) *world {
	w := &world{shared: rapid.Bool().Draw(t, "shared")}
	n := rapid.IntRange(0, most).Draw(t, "events")
	// Most events are on both sides; how many are not, and whose they are, varies.
	here := rapid.IntRange(0, 100).Draw(t, "missing %")
	there := rapid.IntRange(0, 100).Draw(t, "extra %")
	step := rapid.SampledFrom([]uint64{1, 1, 3, 5000}).Draw(t, "step")
	seed := rapid.Uint64().Draw(t, "seed")
	for i := range n {
		w.head += event.ID(step)
		it := itemAt(w.head)
		r := mixBits(seed + uint64(i))
		if int(r%100) >= here {
			w.local = append(w.local, it)
		}
		if int(r>>32%100) >= there {
			w.peer = append(w.peer, it)
		}
	}
	w.head += event.ID(rapid.IntRange(0, 10).Draw(t, "quiet"))
	return w
}

func drawConfig(t *rapid.T) Config {
	c := Config{
		Strategy:  rapid.SampledFrom(strategies).Draw(t, "strategy"),
		MaxRounds: rapid.SampledFrom([]int{0, 1, 2, 3}).Draw(t, "rounds"),
		Salt:      salts(rapid.Uint64().Draw(t, "salts")),
	}
	c.Limits = drawLimits(t)
	return c
}

func drawLimits(t *rapid.T) Limits {
	return Limits{
		Filter:  rapid.SampledFrom([]int{0, 0, 100, 1000}).Draw(t, "filter"),
		Cells:   rapid.SampledFrom([]int{0, 0, 1, 100}).Draw(t, "cells"),
		Leaves:  rapid.SampledFrom([]int{0, 0, 1, 16}).Draw(t, "leaves"),
		Missing: rapid.SampledFrom([]int{0, 0, 20, 100}).Draw(t, "listed"),
	}
}

// For all sets, strategies and limits, both sides end with the union, and it is proven unless the
// limits forbid even Exact.
func TestUnion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, 400)
		cfg := drawConfig(t)
		s := newServer(w)
		s.limits = drawLimits(t)
		res, err := Negotiate(t.Context(), w.set(), s, cfg)
		if refused(err) {
			return // not even an answer fits
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := w.check(res); err != nil {
			t.Fatalf("%v\n%s", err, explain(res))
		}
		if free := (Limits{}); s.limits == free && cfg.Limits == free && !res.Proven {
			t.Fatalf("not proven\n%s", explain(res))
		}
		provenIs(t, w, res)
	})
}

// provenIs checks that Proven is true only if the sets are equal outside of Pull.
func provenIs(t *rapid.T, w *world, res *Result) {
	if !res.Proven {
		return
	}
	outside := func(items []Item) map[Item]bool {
		m := map[Item]bool{}
		for _, it := range items {
			if !slices.ContainsFunc(res.Pull, func(p window.Span) bool { return it.ID > p.From && it.ID <= p.To }) {
				m[Item{Hash: it.Hash}] = true
			}
		}
		return m
	}
	here, there := outside(w.local), outside(w.peer)
	maps.Copy(here, outside(res.Missing))
	for _, it := range res.Extra {
		delete(here, Item{Hash: it.Hash})
	}
	if !w.shared && len(res.Pull) > 0 {
		return // everything: nothing is claimed
	}
	if !maps.Equal(here, there) {
		t.Fatalf("proven, but %d here are not the %d there\n%s", len(here), len(there), explain(res))
	}
}

// A peer with false filters causes delay but never loss.
func TestUnionWithLies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, 300)
		cfg := Config{Strategy: rapid.SampledFrom(strategies).Draw(t, "strategy"), Salt: salts(1)}
		lie := rapid.Uint64().Draw(t, "lie")
		share := rapid.Uint64Range(0, 100).Draw(t, "lies %")
		lies := func(it Item) bool { return mixBits(lie^it.key(false))%100 < share }
		s := newServer(w)
		s.tamper = func(req *Request, resp *Response) {
			if req.Strategy() != Exact {
				resp.Missing = slices.DeleteFunc(resp.Missing, lies)
			}
		}
		res, err := Negotiate(t.Context(), w.set(), s, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.check(res); err != nil || !res.Proven {
			t.Fatalf("%v, proven %v\n%s", err, res.Proven, explain(res))
		}
		filters := len(slices.DeleteFunc(res.Rounds, func(r Round) bool { return r.Strategy == Exact }))
		if filters > 8 {
			t.Fatalf("%d rounds before Exact", filters)
		}
	})
}

// With a peer that sends any valid responses, the local side is correct after pulling, or nothing is
// proven.
func TestLiesAreNotProven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, 100)
		other := drawWorld(t, 100)
		other.shared = w.shared
		s := newServer(w)
		from := rapid.IntRange(1, 4).Draw(t, "lies from round")
		s.before = func(round int) {
			if round >= from {
				s.w, s.sets = other, map[event.ID]Set{}
			}
		}
		res, err := Negotiate(t.Context(), w.set(), s, Config{Strategy: rapid.SampledFrom(strategies).Draw(t, "strategy"), Salt: salts(2)})
		if err != nil {
			return
		}
		if res.Proven && len(res.Rounds) < from {
			provenIs(t, w, res)
		}
	})
}

// Three replicas that reconcile around a ring, twice, all hold the same.
func TestRing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 150).Draw(t, "events")
		seed := rapid.Uint64().Draw(t, "seed")
		replicas := make([]map[event.Hash]bool, 3)
		for r := range replicas {
			replicas[r] = map[event.Hash]bool{}
		}
		for i := range n {
			in := mixBits(seed+uint64(i))%7 + 1 // at least one has it
			for r := range replicas {
				if in>>r&1 == 1 {
					replicas[r][itemAt(event.ID(i+1)).Hash] = true
				}
			}
		}
		strategy := rapid.SampledFrom(strategies).Draw(t, "strategy")
		for step := range 6 {
			a, b := replicas[step%3], replicas[(step+1)%3]
			w := &world{local: itemsOf(a), peer: itemsOf(b), head: 1}
			res, err := Negotiate(t.Context(), w.set(), newServer(w), Config{Strategy: strategy, Salt: salts(seed)})
			if err != nil || !res.Proven {
				t.Fatal(err, explain(res))
			}
			for _, it := range res.Missing {
				a[it.Hash] = true
			}
			if len(res.Pull) > 0 {
				maps.Copy(a, b)
			}
			for _, it := range res.Extra {
				b[it.Hash] = true
			}
		}
		if len(replicas[0]) != n || !maps.Equal(replicas[0], replicas[1]) || !maps.Equal(replicas[1], replicas[2]) {
			t.Fatalf("%d, %d, %d of %d", len(replicas[0]), len(replicas[1]), len(replicas[2]), n)
		}
	})
}

// itemsOf returns hashes as items of a world without ids, all at position 1.
func itemsOf(m map[event.Hash]bool) (items []Item) {
	for h := range m {
		items = append(items, Item{ID: 1, Hash: h})
	}
	return items
}

// A damaged copy has another event with the same id: the peer's hash is missing, and the other one is
// extra.
func TestIDCollisions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{shared: true, head: event.ID(rapid.IntRange(1, 200).Draw(t, "events"))}
		bad := event.ID(rapid.IntRange(1, int(w.head)).Draw(t, "bad"))
		what := rapid.IntRange(0, 2).Draw(t, "what")
		for id := event.ID(1); id <= w.head; id++ {
			it := itemAt(id)
			w.peer = append(w.peer, it)
			if id == bad {
				switch what {
				case 0:
					it.Hash[0] ^= 1
				case 1:
					it.Time++
				case 2:
					it.Hash = itemAt(id + 1000).Hash
				}
			}
			w.local = append(w.local, it)
		}
		strategy := rapid.SampledFrom(strategies).Draw(t, "strategy")
		res, err := Negotiate(t.Context(), w.set(), newServer(w), Config{Strategy: strategy, Salt: salts(3)})
		if err != nil {
			t.Fatal(err)
		}
		if !res.Proven || !slices.Equal(res.Missing, []Item{itemAt(bad)}) || !slices.Equal(res.Extra, []Item{w.local[bad-1]}) {
			t.Fatalf("missing %v, extra %v\n%s", res.Missing, res.Extra, explain(res))
		}
	})
}

// A sketch peels to the difference or reports that it does not; it is never wrong.
func TestSketchIsTheDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, 200)
		m := rapid.IntRange(1, 400).Draw(t, "cells")
		key := salts(rapid.Uint64().Draw(t, "salt"))().keyer()
		local, err := newSketch(yieldItems(w.local), m, key)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := newSketch(yieldItems(w.peer), m, key)
		if err != nil {
			t.Fatal(err)
		}
		peer.minus(local)
		plus, minus, ok := peer.peel()
		if !ok {
			return
		}
		here, there := w.hashes(w.local), w.hashes(w.peer)
		want := func(from []Item, not map[event.Hash]bool) (shorts []uint64) {
			for _, it := range from {
				if !not[it.Hash] {
					shorts = append(shorts, key.shortHash(&it.Hash))
				}
			}
			slices.Sort(shorts)
			return shorts
		}
		slices.Sort(plus)
		slices.Sort(minus)
		if !slices.Equal(plus, want(w.peer, here)) || !slices.Equal(minus, want(w.local, there)) {
			t.Fatalf("peels into %d and %d", len(plus), len(minus))
		}
	})
}

// The largest inverse filter of a response is within the limit of its reader.
func TestMaxFullSlots(t *testing.T) {
	s := newSlots(MaxFullSlots)
	for i := range s.hashes {
		s.used[i/8] |= 1 << (i % 8)
	}
	full := &Filter{Count: maxCount, slots: s}
	if _, err := ParseFilter(full.AppendTo(nil), Limits{}); err != nil {
		t.Error(err)
	}
}
