package reconcile

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

var long = flag.Bool("long", false, "run the long forms of tests and benchmarks")

// itemAt is the event that the world has at id.
func itemAt(id event.ID) Item {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(id))
	return Item{ID: id, Time: event.Time(1_700_000_000_000_000 + uint64(id)*1000), Hash: sha256.Sum256(b[:])}
}

// A world is the sets of two sides: events of one log by id, or events of two logs by hash.
type world struct {
	shared bool
	local  []Item
	peer   []Item
	head   event.ID
	held   window.Spans // what the local side tells, if anything
}

// scattered is a world of n events of which the local side lacks missing and the
// peer extra, spread evenly at random.
func scattered(seed uint64, shared bool, n, missing, extra int) *world {
	w := &world{shared: shared, head: event.ID(n)}
	order := rand.New(rand.NewPCG(seed, uint64(n))).Perm(n)
	for i, at := range order {
		it := itemAt(event.ID(at + 1))
		if i >= missing {
			w.local = append(w.local, it)
		}
		if i < missing || i >= missing+extra {
			w.peer = append(w.peer, it)
		}
	}
	return w
}

func rangeOf(from, to event.ID) window.Span { return window.Span{From: from, To: to} }

// setOf returns the Set of items, which lie in span.
func setOf(shared bool, span window.Span, items []Item) Set {
	if shared {
		return FromItems(span, slices.Clone(items))
	}
	hashes := make([]event.Hash, len(items))
	for i := range items {
		hashes[i] = items[i].Hash
	}
	return FromHashes(span, hashes)
}

type holding struct {
	Set
	held window.Spans
}

func (h holding) Held() window.Spans { return h.held }

func (w *world) set() Set {
	s := setOf(w.shared, rangeOf(0, event.MaxID), w.local)
	if w.held != nil {
		return holding{s, w.held}
	}
	return s
}

// A server is a stateless server: it parses the bytes of a request, makes a set of its events in the
// range, and returns bytes. Its fields make it misbehave.
type server struct {
	w       *world
	limits  Limits
	asked   map[Strategy]int
	rounds  int
	before  func(round int)
	tamper  func(req *Request, resp *Response)
	respond func(round int, response []byte) []byte
	sets    map[event.ID]Set
}

func newServer(w *world) *server {
	return &server{w: w, asked: map[Strategy]int{}, sets: map[event.ID]Set{}}
}

func (s *server) Ask(_ context.Context, request []byte) ([]byte, error) {
	s.rounds++
	if s.before != nil {
		s.before(s.rounds)
	}
	req, err := ParseRequest(request, s.limits)
	if err != nil {
		return nil, err
	}
	s.asked[req.Strategy()]++
	resp, err := Answer(s.set(req), req, s.limits)
	if err != nil {
		return nil, err
	}
	if s.tamper != nil {
		s.tamper(req, resp)
	}
	b := resp.AppendTo(nil, req.Shared)
	if s.respond != nil {
		b = s.respond(s.rounds, b)
	}
	return b, nil
}

// set returns the set of the range of req. It is cached, as a server caches its leaves.
func (s *server) set(req *Request) Set {
	to := min(req.Span.To, s.w.head)
	if set, ok := s.sets[to]; ok {
		return set
	}
	var in []Item
	for _, it := range s.w.peer {
		if it.ID > req.Span.From && it.ID <= to {
			in = append(in, it)
		}
	}
	s.sets[to] = setOf(req.Shared, rangeOf(req.Span.From, to), in)
	return s.sets[to]
}

func (w *world) hashes(items []Item) map[event.Hash]bool {
	m := map[event.Hash]bool{}
	for _, it := range items {
		m[it.Hash] = true
	}
	return m
}

// check applies res to both sides and reports whether they end with the union.
func (w *world) check(res *Result) error {
	local, peer := w.hashes(w.local), w.hashes(w.peer)
	union := maps.Clone(local)
	maps.Copy(union, peer)
	for _, it := range res.Missing {
		if local[it.Hash] || !peer[it.Hash] {
			return fmt.Errorf("%s is told to be missing", it.Hash)
		}
		local[it.Hash] = true
	}
	for _, it := range res.Extra {
		if peer[it.Hash] || !local[it.Hash] {
			return fmt.Errorf("%s is told to be extra", it.Hash)
		}
		peer[it.Hash] = true
	}
	for _, span := range res.Pull {
		for _, it := range w.peer {
			if it.ID > span.From && it.ID <= span.To {
				local[it.Hash] = true
			}
		}
		if span == res.Span {
			maps.Copy(peer, w.hashes(w.local)) // nothing is told: all are offered
		}
	}
	if !maps.Equal(local, union) || !maps.Equal(peer, union) {
		return fmt.Errorf("%d here and %d there, want the union of %d: %s", len(local), len(peer), len(union), res.Why)
	}
	return nil
}

// negotiate runs one negotiation with salts from seed and checks the invariants of all
// negotiations.
func (w *world) negotiate(t testing.TB, s *server, cfg Config) *Result {
	t.Helper()
	if cfg.Salt == nil {
		cfg.Salt = salts(1)
	}
	res, err := Negotiate(t.Context(), w.set(), s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (w *world) mustUnite(t testing.TB, cfg Config) (*Result, *server) {
	t.Helper()
	s := newServer(w)
	res := w.negotiate(t, s, cfg)
	if err := w.check(res); err != nil {
		t.Fatalf("%v\n%s", err, explain(res))
	}
	if !res.Proven {
		t.Fatalf("not proven\n%s", explain(res))
	}
	return res, s
}

func explain(res *Result) (s string) {
	for i, r := range res.Rounds {
		s += fmt.Sprintf("round %d: %s, %d B up, %d B down (%d listed): %s\n", i+1, r.Strategy, r.Up, r.Down, r.Listed, r.Why)
	}
	return s + fmt.Sprintf("%s: %s\n", res.Outcome, res.Why)
}

// salts returns the same salts in every run.
func salts(seed uint64) func() Salt {
	r := rand.New(rand.NewPCG(seed, 2))
	return func() (s Salt) {
		binary.BigEndian.PutUint64(s[:], r.Uint64())
		binary.BigEndian.PutUint64(s[8:], r.Uint64())
		return s
	}
}

// overhead returns the bytes that a table of strategies counts: all except those that list events.
func overhead(res *Result) int {
	up, down, listed := res.Bytes()
	return up + down - listed
}
