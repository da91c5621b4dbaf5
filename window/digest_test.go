package window

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
)

// slowDigest is the literal definition of a digest.
func slowDigest(evs []event.Event) (d Digest, count uint64) {
	var outer []byte
	for i := 0; i < len(evs); {
		block := uint64(evs[i].ID-1) / event.BlockSize
		var inner []byte
		n := uint32(0)
		for ; i < len(evs) && uint64(evs[i].ID-1)/event.BlockSize == block; i++ {
			inner = binary.BigEndian.AppendUint64(inner, uint64(evs[i].ID))
			inner = binary.BigEndian.AppendUint64(inner, uint64(evs[i].Time))
			inner = append(inner, evs[i].Hash[:]...)
			n, count = n+1, count+1
		}
		outer = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(outer, block), n)
		sum := sha256.Sum256(inner)
		outer = append(outer, sum[:]...)
	}
	return sha256.Sum256(outer), count
}

func drawEvents(t *rapid.T) (evs []event.Event) {
	id := event.ID(rapid.Uint64Range(0, 3*event.BlockSize).Draw(t, "after"))
	for range rapid.IntRange(0, 30).Draw(t, "events") {
		id += event.ID(rapid.SampledFrom([]uint64{1, 1, 2, 4095, 4096, 4097, 10_000}).Draw(t, "step"))
		evs = append(evs, event.Event{ID: id, Time: event.Time(rapid.Int64().Draw(t, "time")), Hash: event.Hash{byte(id), byte(id >> 8)}})
	}
	return evs
}

func leavesOf(evs []event.Event) []Leaf {
	var l Leafer
	for i := range evs {
		l.Add(evs[i].ID, evs[i].Time, evs[i].Hash)
	}
	return l.Leaves()
}

func TestDigestIsItsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		evs := drawEvents(t)
		want, n := slowDigest(evs)
		if got, count := DigestOf(leavesOf(evs)); got != want || count != n {
			t.Fatalf("the digest is %s of %d, want %s of %d", got, count, want, n)
		}
		// Leaves of blocks that are put together are the leaves of the whole.
		var parts []Leaf
		for i := 0; i < len(evs); {
			from := i
			for i < len(evs) && evs[i].ID.Block() == evs[from].ID.Block() {
				i++
			}
			parts = append(parts, leavesOf(evs[from:i])...)
		}
		if got, _ := DigestOf(parts); got != want {
			t.Fatalf("block by block the digest is %s, want %s", got, want)
		}
		if len(evs) == 0 {
			return
		}
		i := rapid.IntRange(0, len(evs)-1).Draw(t, "changed")
		switch rapid.IntRange(0, 3).Draw(t, "what") {
		case 0:
			evs[i].Hash[31]++
		case 1:
			evs[i].Time++
		case 2:
			evs = append(evs[:i], evs[i+1:]...)
		case 3:
			evs[len(evs)-1].ID++
		}
		if got, _ := DigestOf(leavesOf(evs)); got == want {
			t.Fatal("another history has the same digest")
		}
	})
}

// A Leafer can be used again.
func TestLeaferEnds(t *testing.T) {
	var l Leafer
	if got := l.Leaves(); len(got) != 0 {
		t.Errorf("no event has the leaves %v", got)
	}
	if got := l.Last(); got != (Leaf{}) {
		t.Errorf("no event has the last leaf %v", got)
	}
	l.Add(1, 2, event.Hash{3})
	last := l.Last()
	first := l.Leaves()
	if len(first) != 1 || last != first[0] {
		t.Errorf("Last() = %v, then Leaves() = %v", last, first)
	}
	l.Add(1, 2, event.Hash{3})
	if again := l.Leaves(); len(first) != 1 || len(again) != 1 || first[0] != again[0] {
		t.Errorf("Leaves() = %v, then %v", first, again)
	}
}

func TestEmptyDigest(t *testing.T) {
	d, n := DigestOf(nil)
	if want := "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"; d.String() != want || n != 0 {
		t.Errorf("the digest of nothing is %s of %d, want SHA-256 of nothing, %s", d, n, want)
	}
}

func TestBlockSpan(t *testing.T) {
	const last = uint64(event.MaxID) / event.BlockSize
	for _, c := range []struct {
		block uint64
		want  Span
	}{
		{0, Span{0, 4096}},
		{1, Span{4096, 8192}},
		{last - 1, Span{event.ID(last-1) * 4096, event.ID(last) * 4096}},
		{last, Span{event.ID(last) * 4096, event.MaxID}},
		{last + 1, Span{event.ID(last) * 4096, event.MaxID}},
	} {
		got := BlockSpan(c.block)
		if got != c.want {
			t.Errorf("BlockSpan(%d) = %s, want %s", c.block, got, c.want)
		}
		if c.block <= last && ((got.From+1).Block() != c.block || got.To.Block() != c.block) {
			t.Errorf("BlockSpan(%d) = %s, whose ends are of the blocks %d and %d", c.block, got, (got.From + 1).Block(), got.To.Block())
		}
	}
}

func FuzzDigest(f *testing.F) {
	f.Add([]byte("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"))
	f.Add([]byte("E3"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d := Digest{1}
		if d.UnmarshalText(text) != nil {
			if d != (Digest{1}) {
				t.Fatalf("%q is refused and has become %s", text, d)
			}
			return
		}
		again, err := d.MarshalText()
		if err != nil || !bytes.Equal(again, text) || d.String() != string(text) {
			t.Fatalf("%q is written %q, %v", text, again, err)
		}
	})
}

func FuzzParseState(f *testing.F) {
	for _, s := range states {
		f.Add(s.String())
	}
	f.Fuzz(func(t *testing.T, name string) {
		if s, err := ParseState(name); err == nil && s.String() != name {
			t.Fatalf("ParseState(%q) = %s", name, s)
		} else if err != nil && s != 0 {
			t.Fatalf("ParseState(%q) = %s beside %v", name, s, err)
		}
	})
}
