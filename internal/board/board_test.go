package board

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

func topics(t testing.TB, names ...string) (ts []event.Topic) {
	t.Helper()
	for _, name := range names {
		topic, err := event.ParseTopic(name)
		if err != nil {
			t.Fatal(err)
		}
		ts = append(ts, topic)
	}
	return ts
}

// A stream is a connection of these tests.
type stream struct {
	Entry
	topics    []event.Topic
	lag       atomic.Uint64
	described atomic.Int32
}

func (s *stream) Describe() Connection {
	s.described.Add(1)
	return Connection{Topics: s.topics}
}

func (s *stream) Lag() Lag {
	s.described.Add(1)
	return Lag{s.lag.Load(), true}
}

// A copied is what a viewer knows from its batches.
type copied struct {
	t     *testing.T
	conns map[uint64]*Connection
	node  Node
	at    Cursor
	begun int // number of states
}

func (c *copied) take(b Batch) {
	c.t.Helper()
	if b.Begins {
		c.begun++
		c.conns, c.node = map[uint64]*Connection{}, b.Nodes[0]
		for _, conn := range b.State {
			c.conns[conn.ID] = conn
		}
	}
	for _, change := range b.Changes {
		if change.At == veiledCursor && b.At == veiledCursor {
			c.at = Cursor{}
		} else if change.At.look != b.At.look || change.At.number <= c.at.number && change.At.look == c.at.look && !b.Begins {
			c.t.Fatalf("a change at %s after %s", change.At, c.at)
		}
		c.at = change.At
		switch conn := change.Connection; change.Kind {
		case Opened:
			if c.conns[conn.ID] != nil {
				c.t.Fatalf("%d was opened twice", conn.ID)
			}
			c.conns[conn.ID] = conn
		case Closed:
			if c.conns[conn.ID] == nil {
				c.t.Fatalf("%d was closed and is not known", conn.ID)
			}
			delete(c.conns, conn.ID)
		case Lagged:
			if old := c.conns[conn.ID]; old == nil || old.Lag == conn.Lag {
				c.t.Fatalf("%+v follows %+v", conn, old)
			}
			c.conns[conn.ID] = conn
		case NodeChanged:
			c.node = *change.Node
		}
	}
	c.at = b.At
}

// TestViewers compares what viewers get, who come, go, fall behind and come back at random,
// with the streams that are open.
func TestViewers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range longtest.Size(20, 500) {
		synctest.Test(t, func(t *testing.T) { runViewers(t, rand.New(rand.NewPCG(seed, uint64(round)))) })
	}
}

func runViewers(t *testing.T, r *rand.Rand) {
	var reg Registry
	var head atomic.Int64
	b := New(&reg, Config{Ring: 1 + r.IntN(20), Node: func() Node { return Node{Name: "n", Head: fmt.Sprint(head.Load())} }})
	defer b.Close()
	open := map[*stream]bool{}
	type looker struct {
		*Viewer
		copied
		view  View
		woken atomic.Bool
	}
	var lookers []*looker
	var left []*looker
	names := []string{"a", "a/p", "a/p$", "b", "b/q/", "*"}
	anyOf := func() *stream {
		return slices.SortedFunc(maps.Keys(open), func(a, b *stream) int { return int(a.id) - int(b.id) })[r.IntN(len(open))]
	}
	for range 300 {
		switch k := r.IntN(20); {
		case k < 6:
			s := &stream{topics: topics(t, names[r.IntN(len(names))])}
			reg.Add(&s.Entry, s)
			open[s] = true
		case k < 10 && len(open) > 0:
			s := anyOf()
			reg.Remove(&s.Entry)
			delete(open, s)
		case k < 12 && len(open) > 0:
			anyOf().lag.Add(1)
			head.Add(1)
		case k < 13:
			time.Sleep(time.Duration(r.IntN(12)) * time.Second)
			synctest.Wait()
		case k < 15 && len(lookers) < 4:
			l := &looker{copied: copied{t: t}}
			if len(left) > 0 && r.IntN(2) == 0 { // it comes back
				l, left = left[0], left[1:]
			} else if r.IntN(2) == 0 {
				l.view = View{Sees: func(c *Connection) bool { return c.Topics[0] != event.All }, Veiled: r.IntN(2) == 0}
			}
			l.woken.Store(true)
			l.Viewer = b.Look(l.copied.at, l.view, func() { l.woken.Store(true) })
			lookers = append(lookers, l)
		case k < 17 && len(lookers) > 0:
			i := r.IntN(len(lookers))
			lookers[i].Viewer.Close()
			lookers[i].Viewer.Close()
			left = append(left, lookers[i])
			lookers = slices.Delete(lookers, i, i+1)
		case len(lookers) > 0:
			l := lookers[r.IntN(len(lookers))]
			l.woken.Store(false)
			l.take(l.Next())
		}
	}
	time.Sleep(5 * time.Second) // the lags are read again
	synctest.Wait()
	for _, l := range lookers {
		was := l.Viewer.at
		if l.take(l.Next()); !l.woken.Load() && l.Viewer.at != was {
			t.Errorf("a viewer was not woken")
		}
		want := map[uint64]*Connection{}
		for s := range open {
			c := Connection{Node: "n", ID: s.id, Topics: s.topics, Lag: s.Lag()}
			if l.view.Veiled {
				c.ID = b.veiledID("n", s.id)
			}
			if l.view.Sees == nil || l.view.Sees(&c) {
				want[c.ID] = &c
			}
		}
		if len(l.conns) != len(want) || l.node.Head != fmt.Sprint(head.Load()) {
			t.Errorf("a viewer has %d connections, want %d; the head is %s, want %d", len(l.conns), len(want), l.node.Head, head.Load())
		}
		for id, c := range want {
			if got := l.conns[id]; got == nil || got.Node != c.Node || got.Lag != c.Lag || !slices.Equal(got.Topics, c.Topics) {
				t.Errorf("a viewer has %+v, want %+v", got, c)
			}
		}
		if counts := l.CountTopics(); !slices.Equal(counts, CountTopics(slices.Collect(maps.Values(want)))) {
			t.Errorf("the counts are %v", counts)
		}
	}
	for _, l := range lookers {
		l.Viewer.Close()
	}
	time.Sleep(10 * time.Second)
	synctest.Wait()
	if b.IsWatching() || b.members != nil || b.changes != nil || len(reg.watchers) > 0 {
		t.Error("without viewers, the board goes on")
	}
	for s := range open {
		s.described.Store(0)
	}
	time.Sleep(time.Hour)
	for s := range open {
		reg.Remove(&s.Entry)
		if s.described.Load() > 0 {
			t.Error("a connection was described, and nobody looked")
		}
	}
	if reg.Open() != 0 || reg.newest != nil {
		t.Errorf("the registry has %d connections", reg.Open())
	}
}

// TestReconnect: a viewer that comes back soon gets only what it missed; later, or from
// elsewhere, it gets the state.
func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg Registry
		b := New(&reg, Config{})
		defer b.Close()
		c := copied{t: t}
		look := func() {
			v := b.Look(c.at, View{}, func() {})
			defer v.Close()
			c.take(v.Next())
		}
		look()
		var s stream
		reg.Add(&s.Entry, &s)
		time.Sleep(9 * time.Second)
		look()
		if c.begun != 1 || len(c.conns) != 1 {
			t.Errorf("%d states, %d connections", c.begun, len(c.conns))
		}
		time.Sleep(11 * time.Second)
		reg.Remove(&s.Entry)
		look()
		if c.begun != 2 || len(c.conns) != 0 {
			t.Errorf("%d states, %d connections", c.begun, len(c.conns))
		}
		for _, text := range []string{c.at.look + ".99", "x.0", ".0"} {
			c.at, _ = ParseCursor(text)
			look()
		}
		if c.begun != 5 {
			t.Errorf("%d states", c.begun)
		}
	})
}

// TestWake: a viewer is woken once, however many changes there are, until it has taken them.
func TestWake(t *testing.T) {
	var reg Registry
	b := New(&reg, Config{})
	defer b.Close()
	woken := 0
	v := b.Look(Cursor{}, View{}, func() { woken++ })
	defer v.Close()
	v.Next()
	for range 2 {
		for range 5 {
			var s stream
			reg.Add(&s.Entry, &s)
			defer reg.Remove(&s.Entry)
		}
		v.Next()
	}
	if woken != 2 {
		t.Errorf("the viewer was woken %d times", woken)
	}
}

// TestCountTopics compares the counts with those of a count by hand.
func TestCountTopics(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	names := []string{"*", "*/p", "*/p/1$", "a", "a/p", "a/p/", "a/p*", "a/p/1$", "a/q", "b", "b/p/1$", "b/p/1/2"}
	for range longtest.Size(200, 20_000) {
		var conns []*Connection
		for range r.IntN(12) {
			c := &Connection{}
			for range 1 + r.IntN(3) {
				c.Topics = append(c.Topics, topics(t, names[r.IntN(len(names))])...)
			}
			conns = append(conns, c)
		}
		var want []TopicCount
		for _, name := range slices.Sorted(slices.Values(names)) {
			n := TopicCount{Topic: topics(t, name)[0]}
			for _, c := range conns {
				if slices.Contains(c.Topics, n.Topic) {
					n.Connections++
				}
				if slices.ContainsFunc(c.Topics, func(t event.Topic) bool { return t.Contains(n.Topic) }) {
					n.Readers++
				}
			}
			if n.Connections > 0 {
				want = append(want, n)
			}
		}
		if got := CountTopics(conns); !slices.Equal(got, want) {
			t.Fatalf("%v: got %v, want %v", conns, got, want)
		}
	}
}

func FuzzParseCursor(f *testing.F) {
	f.Add("ABCDEFGH.7")
	f.Add("0000000000001.K7Q2M")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCursor(s)
		if err != nil {
			return
		}
		if again, err := ParseCursor(c.String()); err != nil || again != c {
			t.Errorf("%q: %v, %v", s, again, err)
		}
	})
}

// TestEntrySize: a connection takes little memory while nobody looks.
func TestEntrySize(t *testing.T) {
	if size := unsafe.Sizeof(Entry{}); size > 64 {
		t.Errorf("an entry has %d bytes", size)
	}
}

// BenchmarkOpenAndClose opens and closes a connection while nobody looks, and while ten do.
func BenchmarkOpenAndClose(b *testing.B) {
	for _, viewers := range []int{0, 1, 10} {
		b.Run(fmt.Sprintf("viewers=%d", viewers), func(b *testing.B) {
			var reg Registry
			board := New(&reg, Config{})
			defer board.Close()
			for range viewers {
				v := board.Look(Cursor{}, View{}, func() {})
				v.Next()
				defer v.Close()
			}
			s := stream{topics: topics(b, "a/p")}
			b.ReportAllocs()
			for b.Loop() {
				reg.Add(&s.Entry, &s)
				reg.Remove(&s.Entry)
			}
		})
	}
}

// TestVeiledIDs: different ids stay different, and are exact numbers in JavaScript.
func TestVeiledIDs(t *testing.T) {
	b := New(&Registry{}, Config{})
	of := map[uint64]uint64{}
	for id := range uint64(10_000) {
		veiled := b.veiledID("n", id)
		if other, taken := of[veiled]; taken || veiled > 1<<53 {
			t.Fatalf("the id %d becomes %d, as does %d", id, veiled, other)
		}
		of[veiled] = id
	}
	if other := New(&Registry{}, Config{}); other.veiledID("n", 1) == b.veiledID("n", 1) {
		t.Error("another board veils ids in the same way")
	}
}
