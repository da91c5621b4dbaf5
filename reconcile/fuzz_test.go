package reconcile

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

func addGolden(f *testing.F, pick func(goldenFrame) string) {
	for _, g := range goldenFrames(f) {
		if b := unhex(f, pick(g)); len(b) > 0 {
			f.Add(b)
		}
	}
}

// Every accepted request encodes to the same bytes, gets a response, and the response parses.
func FuzzRequest(f *testing.F) {
	addGolden(f, func(g goldenFrame) string { return g.Request })
	for _, h := range hostileRequests() {
		if len(h.frame) < 1000 {
			f.Add(h.frame)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := ParseRequest(b, Limits{})
		if err != nil {
			return
		}
		if again := req.AppendTo(nil); !bytes.Equal(again, b) && !toleratesWords(b, again) {
			t.Fatalf("%x is written %x", b, again)
		}
		span := req.Span
		if span.To == event.MaxID {
			span.To = span.From + min(100, event.MaxID-span.From)
		}
		var mine []Item
		for id := span.From + 1; id <= span.To && id < span.From+9; id++ {
			mine = append(mine, itemAt(id))
		}
		resp, err := Answer(setOf(req.Shared, span, mine), req, Limits{})
		if err != nil {
			return
		}
		back, err := ParseResponse(resp.AppendTo(nil, req.Shared), req, Limits{})
		if err != nil {
			t.Fatalf("the answer is refused: %v", err)
		}
		if !slices.Equal(back.Missing, resp.Missing) || !slices.Equal(back.Unknown, resp.Unknown) || back.Sum.Count != resp.Sum.Count {
			t.Fatalf("the answer %+v is read as %+v", resp, back)
		}
	})
}

// toleratesWords reports whether a differs from b only in a bitset whose length is in whole words.
func toleratesWords(a, b []byte) bool {
	differ := 0
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			differ++
		}
	}
	return len(a) == len(b) && differ <= 8
}

func FuzzResponse(f *testing.F) {
	addGolden(f, func(g goldenFrame) string { return g.Response })
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, shared := range []bool{false, true} {
			req := &Request{Shared: shared, Span: rangeOf(0, event.MaxID)}
			resp, err := ParseResponse(b, req, Limits{})
			if err != nil {
				continue
			}
			again, err := ParseResponse(resp.AppendTo(nil, shared), req, Limits{})
			if err != nil || !slices.Equal(again.Missing, resp.Missing) || !slices.Equal(again.Unknown, resp.Unknown) ||
				!slices.Equal(again.Blocks, resp.Blocks) || again.Sum != resp.Sum || again.To != resp.To {
				t.Fatalf("%x is read as %+v and then as %+v, %v", b, resp, again, err)
			}
		}
	})
}

// The bits of a filter match the specification.
func FuzzFilter(f *testing.F) {
	addGolden(f, func(g goldenFrame) string { return g.Filter })
	for _, h := range hostileRequests() {
		if rest, ok := bytes.CutPrefix(h.frame, summary); ok && len(rest) < 1000 {
			f.Add(rest)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		filter, err := ParseFilter(b, Limits{})
		if err != nil {
			return
		}
		seen := 0
		for id := event.ID(1); id <= 64; id++ {
			h := itemAt(id).Hash
			got := filter.Seen(h)
			if filter.bloom != nil && got != independent(b).seen(h[:]) {
				t.Fatalf("%x: %s is seen: %v", b, h, got)
			}
			if got {
				seen++
			}
		}
		if seen == 64 && filter.slots == nil && filter.bloom.K() > 8 {
			t.Fatalf("%x says yes to everything", b)
		}
		if again, err := ParseFilter(filter.AppendTo(nil), Limits{}); err != nil || again.Count != filter.Count {
			t.Fatalf("%x is written so that it is refused: %v", b, err)
		}
	})
}

// Any cells peel in bounded work, and if all end empty, the result adds up.
func FuzzPeel(f *testing.F) {
	f.Add([]byte{})
	x := make([]byte, 13)
	binary.BigEndian.PutUint64(x, 7)
	binary.BigEndian.PutUint32(x[8:], checkOf(7))
	x[12] = 1
	f.Add(x)
	f.Add(append(bytes.Clone(x), x...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := make(sketch, 0, len(b)/13)
		for ; len(b) >= 13; b = b[13:] {
			s = append(s, cell{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:]), int64(int8(b[12]))})
		}
		whole := slices.Clone(s)
		plus, minus, ok := s.peel()
		if !ok {
			return
		}
		again := make(sketch, len(whole))
		for _, short := range plus {
			again.putShort(short, 1, nil)
		}
		for _, short := range minus {
			again.putShort(short, -1, nil)
		}
		if !slices.Equal(again, whole) {
			t.Fatalf("%v peels into %v and %v, which are %v", whole, plus, minus, again)
		}
	})
}

// For any two small sets, drawn from bytes, every strategy finds the plain difference.
func FuzzNegotiate(f *testing.F) {
	f.Add([]byte{1, 2, 3, 0, 1, 2, 3}, uint8(0), uint64(1))
	f.Add(bytes.Repeat([]byte{3, 1, 3, 2}, 40), uint8(3), uint64(2))
	f.Fuzz(func(t *testing.T, sides []byte, how uint8, seed uint64) {
		w := &world{shared: how&1 == 1, head: event.ID(min(len(sides), 500))}
		for i, side := range sides[:w.head] {
			it := itemAt(event.ID(i + 1))
			if side&1 == 1 {
				w.local = append(w.local, it)
			}
			if side&2 == 2 {
				w.peer = append(w.peer, it)
			}
		}
		cfg := Config{Strategy: strategies[int(how>>1)%len(strategies)], Salt: salts(seed)}
		res, err := Negotiate(t.Context(), w.set(), newServer(w), cfg)
		if err != nil || !res.Proven {
			t.Fatal(err)
		}
		if err := w.check(res); err != nil {
			t.Fatal(err)
		}
		if res.Outcome != Empty && res.Outcome != Prefix && len(res.Pull) == 0 {
			missing, local := w.hashes(res.Missing), w.hashes(w.local)
			want := w.hashes(w.peer)
			maps.DeleteFunc(want, func(h event.Hash, _ bool) bool { return local[h] })
			if !maps.Equal(missing, want) {
				t.Fatalf("%d are missing, want %d", len(missing), len(want))
			}
		}
	})
}
