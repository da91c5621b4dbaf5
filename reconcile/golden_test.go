package reconcile

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"math/bits"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

var update = flag.Bool("update", false, "write the golden frames anew")

// golden frames, in testdata/reconcile/frames.jsonl: a description and the bytes of each.
type goldenFrame struct {
	Name     string   `json:"name"`
	Request  string   `json:"request,omitempty"`  // hex of a request
	Response string   `json:"response,omitempty"` // hex of the response to it
	Filter   string   `json:"filter,omitempty"`   // hex of a filter that stands alone
	Holds    []string `json:"holds,omitempty"`    // hashes of the filter's set
}

func goldenSalt() (s Salt) {
	for i := range s {
		s[i] = byte(i)
	}
	return s
}

func items(ids ...event.ID) (out []Item) {
	for _, id := range ids {
		out = append(out, itemAt(id))
	}
	return out
}

// goldenRequests returns one request of each kind, from small sets. The peer holds the events 1 to
// 8 of its log.
func goldenRequests(t testing.TB) (names []string, reqs []*Request) {
	salt := goldenSalt()
	add := func(name string, shared bool, mine []Item, body func(Set, Sum) body) {
		set := setOf(shared, rangeOf(0, 8), mine)
		sum, err := set.Sum(event.MaxID)
		if err != nil {
			t.Fatal(err)
		}
		req := &Request{Shared: shared, Span: set.Span(), Sum: sum}
		if body != nil {
			req.body = body(set, sum)
		}
		names, reqs = append(names, name), append(reqs, req)
	}
	must := func(f *Filter, err error) body {
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	some := []event.ID{1, 2, 4, 5, 7}
	add("summary, to the head", true, items(1, 2, 3), nil)
	reqs[0].Span.To = event.MaxID
	add("summary, nothing held", false, nil, nil)
	add("summary, ids shared", true, items(some...), nil)
	add("gaps", true, items(some...), func(Set, Sum) body {
		return gaps{window.Spans{{From: 0, To: 2}, {From: 3, To: 5}, {From: 6, To: 7}}}
	})
	add("list", false, items(append(some, 9)...), func(s Set, _ Sum) body {
		l := list{salt: salt}
		for it := range s.Items() {
			l.shorts = append(l.shorts, salt.keyer().shortHash(&it.Hash))
		}
		slices.Sort(l.shorts)
		return l
	})
	add("bloom", false, items(some...), func(s Set, sum Sum) body { return must(NewBloom(s.Items(), sum.Count, 3, salt)) })
	add("bloom, and back", false, items(append(some, 9)...), func(s Set, sum Sum) body { return must(NewBloom(s.Items(), sum.Count, 7, salt)) })
	reqs[len(reqs)-1].Back, reqs[len(reqs)-1].BackSalt = 7, Salt{15: 1}
	add("sketch", false, items(append(some, 9)...), func(s Set, sum Sum) body {
		c, err := newSketch(s.Items(), 12, salt.keyer())
		if err != nil {
			t.Fatal(err)
		}
		return sketched{salt, sum.Count, c}
	})
	add("sketch, too small", false, items(1), func(s Set, sum Sum) body {
		c, err := newSketch(s.Items(), 2, salt.keyer())
		if err != nil {
			t.Fatal(err)
		}
		return sketched{salt, sum.Count, c}
	})
	add("inverse", false, items(append(some, 9)...), func(s Set, sum Sum) body { return must(NewInverse(s.Items(), sum.Count, 8, salt)) })
	add("leaves, ids shared", true, items(some...), func(s Set, _ Sum) body { return leavesOf(t, s, true, 1) })
	add("leaves", false, items(some...), func(s Set, _ Sum) body { return leavesOf(t, s, false, 62) })
	add("blocks", false, items(some...), func(Set, Sum) body { return blocks{62, []uint64{0, 2}} })
	add("blocks, ids shared", true, items(some...), func(Set, Sum) body { return blocks{1, []uint64{1, 3}} })
	return names, reqs
}

func leavesOf(t testing.TB, s Set, shared bool, shift int) leaves {
	l := leaves{shift: shift}
	if err := eachLeaf(s.Items(), shared, shift, func(of leaf, _ uint64) bool { l.of = append(l.of, of); return true }); err != nil {
		t.Fatal(err)
	}
	return l
}

func goldenFrames(t testing.TB) (frames []goldenFrame) {
	names, reqs := goldenRequests(t)
	for i, req := range reqs {
		resp, err := Answer(setOf(req.Shared, rangeOf(0, 8), items(1, 2, 3, 4, 5, 6, 7, 8)), req, Limits{})
		if err != nil {
			t.Fatal(names[i], err)
		}
		frames = append(frames, goldenFrame{Name: names[i], Request: hex.EncodeToString(req.AppendTo(nil)), Response: hex.EncodeToString(resp.AppendTo(nil, req.Shared))})
	}
	for _, name := range []string{"bloom", "inverse"} {
		set := setOf(false, rangeOf(0, 8), items(1, 2, 3))
		f, err := NewBloom(set.Items(), 3, 7, goldenSalt())
		if name == "inverse" {
			f, err = NewInverse(set.Items(), 3, 3, goldenSalt())
		}
		if err != nil {
			t.Fatal(err)
		}
		g := goldenFrame{Name: "filter, " + name, Filter: hex.EncodeToString(f.AppendTo(nil))}
		for it := range set.Items() {
			g.Holds = append(g.Holds, it.Hash.String())
		}
		frames = append(frames, g)
	}
	return append(frames, goldenStubFrames(t)...)
}

func TestGoldenFrames(t *testing.T) {
	file := filepath.Join("..", "testdata", "reconcile", "frames.jsonl")
	frames := goldenFrames(t)
	var now bytes.Buffer
	enc := json.NewEncoder(&now)
	for _, f := range frames {
		if err := enc.Encode(f); err != nil {
			t.Fatal(err)
		}
	}
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, now.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(now.Bytes(), want) {
		t.Errorf("the frames are not those of %s: a change of the wire needs a new version", file)
	}
}

// The golden frames parse to their original contents.
func TestFramesReadBack(t *testing.T) {
	names, reqs := goldenRequests(t)
	for i, req := range reqs {
		b := req.AppendTo(nil)
		again, err := ParseRequest(b, Limits{})
		if err != nil {
			t.Errorf("%s: %v", names[i], err)
			continue
		}
		if !bytes.Equal(again.AppendTo(nil), b) {
			t.Errorf("%s: is written differently again", names[i])
		}
		if again.Sum != req.Sum || again.Span != req.Span || again.Strategy() != req.Strategy() || again.Back != req.Back {
			t.Errorf("%s: %+v, want %+v", names[i], again, req)
		}
		resp, err := Answer(setOf(req.Shared, rangeOf(0, 8), items(1, 2, 3, 4, 5, 6, 7, 8)), again, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseResponse(resp.AppendTo(nil, req.Shared), again, Limits{})
		if err != nil {
			t.Errorf("%s: %v", names[i], err)
			continue
		}
		resp.Sum.Last, back.Filter = 0, nil
		if resp.UpTo != nil {
			resp.UpTo.Last = 0
		}
		resp.Filter = nil
		if !reflect.DeepEqual(normal(back), normal(resp)) {
			t.Errorf("%s: read back\n%+v, want\n%+v", names[i], back, resp)
		}
	}
}

func normal(r *Response) Response {
	n := *r
	if len(n.Missing) == 0 {
		n.Missing = nil
	}
	if len(n.Unknown) == 0 {
		n.Unknown = nil
	}
	if len(n.Blocks) == 0 {
		n.Blocks = nil
	}
	return n
}

// An independentBloom reads a bloom frame bit by bit, only by its specification: it uses neither
// bloom/v3 nor anything else of this package.
type independentBloom struct {
	salt  []byte
	m, k  uint64
	words []byte
}

func independent(frame []byte) (f independentBloom) {
	b := frame[4:]
	_, n := binary.Uvarint(b) // the length of the body
	b = b[n:]
	f.salt, b = b[:16], b[16:]
	_, n = binary.Uvarint(b) // the count
	b = b[n:]
	f.m, f.k = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	f.words = b[24:] // after the length of the bitset
	return f
}

func (f independentBloom) seen(hash []byte) bool {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], independentSip(f.salt, hash))
	var h [4]uint64
	h[0], h[1] = murmur3(key[:])
	h[2], h[3] = murmur3(append(key[:], 1))
	for i := uint64(0); i < f.k; i++ {
		bit := (h[i%2] + i*h[2+(i+i%2)%4/2]) % f.m
		// Bit 0 is the lowest of the last byte of the first word.
		if f.words[bit/64*8+7-bit%64/8]>>(bit%8)&1 == 0 {
			return false
		}
	}
	return true
}

// independentSip is SipHash-2-4 of 32 bytes.
func independentSip(salt, in []byte) uint64 {
	k0, k1 := binary.LittleEndian.Uint64(salt), binary.LittleEndian.Uint64(salt[8:])
	v := [4]uint64{0x736f6d6570736575 ^ k0, 0x646f72616e646f6d ^ k1, 0x6c7967656e657261 ^ k0, 0x7465646279746573 ^ k1}
	rounds := func(n int) {
		for range n {
			v[0] += v[1]
			v[2] += v[3]
			v[1] = bits.RotateLeft64(v[1], 13) ^ v[0]
			v[3] = bits.RotateLeft64(v[3], 16) ^ v[2]
			v[0] = bits.RotateLeft64(v[0], 32)
			v[2] += v[1]
			v[0] += v[3]
			v[1] = bits.RotateLeft64(v[1], 17) ^ v[2]
			v[3] = bits.RotateLeft64(v[3], 21) ^ v[0]
			v[2] = bits.RotateLeft64(v[2], 32)
		}
	}
	for _, m := range []uint64{binary.LittleEndian.Uint64(in), binary.LittleEndian.Uint64(in[8:]), binary.LittleEndian.Uint64(in[16:]), binary.LittleEndian.Uint64(in[24:]), 32 << 56} {
		v[3] ^= m
		rounds(2)
		v[0] ^= m
	}
	v[2] ^= 0xff
	rounds(4)
	return v[0] ^ v[1] ^ v[2] ^ v[3]
}

// murmur3 is MurmurHash3_x64_128 with seed 0 of fewer than 16 bytes.
func murmur3(b []byte) (h1, h2 uint64) {
	const c1, c2 = 0x87c37b91114253d5, 0x4cf5ad432745937f
	var tail [16]byte
	copy(tail[:], b)
	k1, k2 := binary.LittleEndian.Uint64(tail[:]), binary.LittleEndian.Uint64(tail[8:])
	h2 = bits.RotateLeft64(k2*c2, 33) * c1
	h1 = bits.RotateLeft64(k1*c1, 31) * c2
	h1, h2 = h1^uint64(len(b)), h2^uint64(len(b))
	h1 += h2
	h2 += h1
	fmix := func(k uint64) uint64 {
		k = (k ^ k>>33) * 0xff51afd7ed558ccd
		k = (k ^ k>>33) * 0xc4ceb9fe1a85ec53
		return k ^ k>>33
	}
	h1, h2 = fmix(h1), fmix(h2)
	h1 += h2
	return h1, h2 + h1
}

// docs/protocol.md is sufficient to test membership.
func TestBloomBySpecificationAlone(t *testing.T) {
	for _, k := range []int{1, 2, 3, 7, 16} {
		w := scattered(21, false, 3000, 1000, 0)
		set := w.set()
		f, err := NewBloom(set.Items(), 2000, k, salts(uint64(k))())
		if err != nil {
			t.Fatal(err)
		}
		ind := independent(f.AppendTo(nil))
		parsed, err := ParseFilter(f.AppendTo(nil), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		held := w.hashes(w.local)
		wrong := 0
		for id := event.ID(1); id <= 9_000; id++ {
			h := itemAt(id).Hash
			got := ind.seen(h[:])
			if got != f.Seen(h) || got != parsed.Seen(h) {
				t.Fatalf("k=%d: %s is seen %v, %v and %v", k, h, got, f.Seen(h), parsed.Seen(h))
			}
			switch {
			case held[h] && !got:
				t.Fatalf("k=%d: %s is held and not seen", k, h)
			case !held[h] && got:
				wrong++
			}
		}
		if rate, want := float64(wrong)/7_000, 1/float64(uint(1)<<k); rate > 1.3*want+0.002 {
			t.Errorf("k=%d: one in %.0f is seen wrongly, want one in %.0f", k, 1/rate, 1/want)
		}
	}
}

// The golden filters contain the listed events.
func TestGoldenFilters(t *testing.T) {
	for _, g := range goldenFrames(t) {
		if g.Filter == "" {
			continue
		}
		b, err := hex.DecodeString(g.Filter)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ParseFilter(b, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, text := range g.Holds {
			h, err := event.ParseHash(text)
			if err != nil {
				t.Fatal(err)
			}
			if f.Seen(h) {
				seen++
			}
			if f.slots == nil && !independent(b).seen(h[:]) {
				t.Errorf("%s: the specification does not find %s", g.Name, h)
			}
		}
		if f.slots == nil && seen != len(g.Holds) || seen == 0 {
			t.Errorf("%s: %d of %d are seen", g.Name, seen, len(g.Holds))
		}
		if f.Seen(itemAt(1000).Hash) && f.slots != nil {
			t.Errorf("%s: sees what was never put in", g.Name)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
