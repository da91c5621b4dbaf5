package reconcile

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// A shape is a case of the table in docs: how n events differ.
type shape struct {
	name           string
	n              int
	missing, extra int
	tail           bool // the missing ones are the last
	big            bool
}

var shapes = []shape{
	{name: "d=0", n: 100_000},
	{name: "1e5_10_scattered", n: 100_000, missing: 10},
	{name: "1e5_1000_scattered", n: 100_000, missing: 1000},
	{name: "1e5_1000_two-sided", n: 100_000, missing: 500, extra: 500},
	{name: "1e5_10%_scattered", n: 100_000, missing: 10_000},
	{name: "1e5_10%_two-sided", n: 100_000, missing: 5_000, extra: 5_000},
	{name: "1e6_last_1000", n: 1_000_000, missing: 1000, tail: true, big: true},
	{name: "1e6_1000_scattered", n: 1_000_000, missing: 1000, big: true},
	{name: "1e6_10%_scattered", n: 1_000_000, missing: 100_000, big: true},
}

func (s shape) world(shared bool) *world {
	if !s.tail {
		return scattered(1, shared, s.n, s.missing, s.extra)
	}
	w := &world{shared: shared, head: event.ID(s.n)}
	for id := event.ID(1); id <= w.head; id++ {
		it := itemAt(id)
		w.peer = append(w.peer, it)
		if int(id) <= s.n-s.missing {
			w.local = append(w.local, it)
		}
	}
	return w
}

// bound is the information-theoretic minimum for sides that both know the union: log2 C(n, d) bits
// for each direction.
func (s shape) bound() float64 {
	bits := func(n, d int) float64 {
		a, _ := math.Lgamma(float64(n + 1))
		b, _ := math.Lgamma(float64(d + 1))
		c, _ := math.Lgamma(float64(n - d + 1))
		return (a - b - c) / math.Ln2
	}
	return (bits(s.n-s.extra, s.missing) + bits(s.n-s.missing, s.extra)) / 8
}

// BenchmarkNegotiate prints, for each case and strategy, the bytes sent, without those that list
// missing events, and the bound; and a table of bytes and rounds.
func BenchmarkNegotiate(b *testing.B) {
	var table strings.Builder
	table.WriteString("| case | bound | auto | sketch | bloom | inverse | exact | auto-ids |\n|---|---|---|---|---|---|---|---|\n")
	for _, s := range shapes {
		if s.big && !*long {
			continue
		}
		fmt.Fprintf(&table, "| %s | %.0f |", s.name, s.bound())
		for _, c := range []struct {
			name   string
			shared bool
			with   Strategy
		}{
			{"auto", false, Auto}, {"sketch", false, Sketch}, {"bloom", false, Bloom}, {"inverse", false, Inverse},
			{"exact", false, Exact}, {"auto-ids", true, Auto},
		} {
			if c.shared && s.extra > 0 || c.with == Inverse && s.n > maxSlots {
				table.WriteString(" |")
				continue
			}
			var res *Result
			b.Run(fmt.Sprintf("%s/%s", s.name, c.name), func(b *testing.B) {
				w := s.world(c.shared)
				set, srv := w.set(), newServer(w)
				b.ReportAllocs()
				for b.Loop() {
					var err error
					if res, err = Negotiate(b.Context(), set, srv, Config{Strategy: c.with, Salt: salts(1)}); err != nil {
						b.Fatal(err)
					}
				}
				_, _, listed := res.Bytes()
				b.ReportMetric(float64(overhead(res)), "wire-B")
				b.ReportMetric(float64(listed), "listed-B")
				b.ReportMetric(float64(len(res.Rounds)), "rounds")
				b.ReportMetric(s.bound(), "bound-B")
			})
			if res != nil { // it was not filtered out
				fmt.Fprintf(&table, " %d/%d |", overhead(res), len(res.Rounds))
			} else {
				table.WriteString(" |")
			}
		}
		table.WriteString("\n")
	}
	fmt.Print(table.String())
}

// BenchmarkSet is the cost of a set and its sum.
func BenchmarkSet(b *testing.B) {
	n := 100_000
	if *long {
		n = 1_000_000
	}
	for _, shared := range []bool{false, true} {
		w := scattered(1, shared, n, 0, 0)
		b.Run(fmt.Sprintf("n=%d/shared=%v", n, shared), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.set().Sum(event.MaxID); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The bytes and rounds of the cases above do not exceed the measured ones by much.
func TestTable(t *testing.T) {
	if !*long {
		t.Skip("needs -long")
	}
	most := map[string][2]int{ // bytes, rounds
		"d=0/false":                {96, 1},
		"d=0/true":                 {96, 1},
		"1e5_10_scattered/false":   {805, 2},
		"1e5_10_scattered/true":    {140, 1},
		"1e5_1000_scattered/false": {21_500, 2},
		"1e5_1000_scattered/true":  {2400, 1},
		"1e5_1000_two-sided/false": {28_000, 3},
		"1e5_10%_scattered/false":  {76_000, 3},
		"1e5_10%_scattered/true":   {18_500, 2},
		"1e5_10%_two-sided/false":  {135_000, 4},
		"1e6_last_1000/true":       {104, 1},
		"1e6_last_1000/false":      {22_400, 2},
		"1e6_1000_scattered/false": {22_400, 2},
		"1e6_1000_scattered/true":  {3000, 1},
	}
	for _, s := range shapes {
		for _, shared := range []bool{false, true} {
			name := fmt.Sprintf("%s/%v", s.name, shared)
			want, ok := most[name]
			if !ok {
				continue
			}
			res, _ := s.world(shared).mustUnite(t, Config{})
			if got := overhead(res); got > want[0] || len(res.Rounds) > want[1] {
				t.Errorf("%s: %d bytes in %d rounds, want %d in %d\n%s", name, got, len(res.Rounds), want[0], want[1], explain(res))
			}
		}
	}
}

// BenchmarkBloom builds a filter of 100,000 events and looks them up.
func BenchmarkBloom(b *testing.B) {
	const n = 100_000
	w := scattered(1, false, n, 0, 0)
	set := w.set()
	filter := func(b *testing.B) *Filter {
		f, err := NewBloom(set.Items(), n, 4, Salt{1})
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	b.Run("make", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			filter(b)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/event")
	})
	b.Run("seen", func(b *testing.B) {
		f := filter(b)
		h, i := event.Hash{}, uint64(0)
		b.ReportAllocs()
		for b.Loop() {
			i++
			binary.BigEndian.PutUint64(h[:], i*0x9e3779b97f4a7c15)
			f.Seen(h)
		}
	})
}
