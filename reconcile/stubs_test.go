package reconcile

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// goldenStubs are a request for all stubs, and one for those of events in a filter.
func goldenStubs(t testing.TB) (names []string, reqs []*StubRequest) {
	known := setOf(false, rangeOf(0, 8), items(2, 5, 7))
	f, err := NewBloom(known.Items(), 3, 7, Salt{15: 1})
	if err != nil {
		t.Fatal(err)
	}
	return []string{"stubs", "stubs, of a filter"}, []*StubRequest{
		{Span: rangeOf(0, 8), Width: 5, Salt: goldenSalt()},
		{Span: rangeOf(1, 7), Width: 8, Salt: goldenSalt(), Filter: f},
	}
}

func answerStubs(t testing.TB, req *StubRequest, limits Limits) *StubResponse {
	t.Helper()
	there := slices.DeleteFunc(items(1, 2, 3, 4, 5, 6, 7, 8), func(it Item) bool { return it.ID <= req.Span.From || it.ID > req.Span.To })
	resp, err := AnswerStubs(setOf(true, req.Span, there), req, limits)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func goldenStubFrames(t testing.TB) (frames []goldenFrame) {
	names, reqs := goldenStubs(t)
	for i, req := range reqs {
		resp := answerStubs(t, req, Limits{})
		frames = append(frames, goldenFrame{Name: names[i], Request: hex.EncodeToString(req.AppendTo(nil)), Response: hex.EncodeToString(resp.AppendTo(nil, req.Width))})
	}
	return frames
}

// Frames of stubs parse to their original contents. Truncated ones, and ones with further bytes, are
// refused.
func TestStubsReadBack(t *testing.T) {
	names, reqs := goldenStubs(t)
	for i, req := range reqs {
		b := req.AppendTo(nil)
		again, err := ParseStubRequest(b, Limits{})
		if err != nil || !bytes.Equal(again.AppendTo(nil), b) || !IsStubRequest(b) {
			t.Fatalf("%s: %v", names[i], err)
		}
		resp := answerStubs(t, again, Limits{})
		answer := resp.AppendTo(nil, req.Width)
		back, err := ParseStubs(answer, req, Limits{})
		if err != nil || back.To != resp.To || !slices.Equal(back.Stubs, resp.Stubs) || len(back.Stubs) < 3 {
			t.Errorf("%s: %+v, %v, want %+v", names[i], back, err, resp)
		}
		for _, stub := range back.Stubs {
			if it := itemAt(stub.ID); stub.Time != it.Time || stub.Short != req.Short(it.Hash) {
				t.Errorf("%s: %+v of %+v", names[i], stub, it)
			}
		}
		whole := *req
		whole.Filter = nil
		end := len(whole.AppendTo(nil)) // without its filter it is a request, too
		for n := range len(b) {
			if _, err := ParseStubRequest(b[:n], Limits{}); err == nil && n != end {
				t.Errorf("%s: %d of %d bytes are taken", names[i], n, len(b))
			}
		}
		for n := range len(answer) {
			if _, err := ParseStubs(answer[:n], req, Limits{}); err == nil {
				t.Errorf("%s: %d of %d bytes of the answer are taken", names[i], n, len(answer))
			}
		}
		if _, err := ParseStubRequest(append(b, 0), Limits{}); err == nil {
			t.Errorf("%s: a byte after the request is accepted", names[i])
		}
		if _, err := ParseStubs(append(answer, 0), req, Limits{}); err == nil {
			t.Errorf("%s: a byte after the answer is accepted", names[i])
		}
	}
}

// docs/protocol.md is sufficient to read stubs.
func TestStubsBySpecificationAlone(t *testing.T) {
	_, reqs := goldenStubs(t)
	answer := answerStubs(t, reqs[0], Limits{}).AppendTo(nil, 5)
	want := []byte{0xf5, 0x72, 1, 17, 0, 8, 8}
	at := uint64(0)
	for id := event.ID(1); id <= 8; id++ {
		it := itemAt(id)
		salt := goldenSalt()
		short := independentSip(salt[:], it.Hash[:])
		step := uint64(it.Time) - at
		at = uint64(it.Time)
		want = append(want, 1)
		for ; step > 0x7f; step >>= 7 {
			want = append(want, byte(step)|0x80)
		}
		want = append(want, byte(step), byte(short>>56), byte(short>>48), byte(short>>40), byte(short>>32), byte(short>>24))
	}
	want[4] = byte(len(want) - 5)
	if !bytes.Equal(answer, want) {
		t.Errorf("%x, want %x", answer, want)
	}
}

// Responses that are limited, by their stubs or by the events read, continue and have the same
// result.
func TestStubsGoOn(t *testing.T) {
	_, reqs := goldenStubs(t)
	for _, whole := range reqs {
		want := answerStubs(t, whole, Limits{}).Stubs
		for _, limits := range []Limits{{Stubs: 1}, {Stubs: 3}, {Items: 1}, {Items: 2, Stubs: 1}} {
			req := *whole
			var got []Stub
			for req.Span.From < req.Span.To {
				resp := answerStubs(t, &req, limits)
				back, err := ParseStubs(resp.AppendTo(nil, req.Width), &req, limits)
				if err != nil {
					t.Fatal(err)
				}
				got, req.Span.From = append(got, back.Stubs...), back.To
			}
			if !slices.Equal(got, want) {
				t.Errorf("%+v: %+v, want %+v", limits, got, want)
			}
		}
	}
}

// A short hash of this width distinguishes the events of both sides.
func TestWidthFor(t *testing.T) {
	for _, tt := range []struct {
		known, there uint64
		want         int
	}{{0, 0, 1}, {1, 1, 1}, {100, 100, 3}, {100_000, 100_000, 5}, {2 << 20, 2 << 20, 7}, {math.MaxUint64, math.MaxUint64, 8}} {
		if got := WidthFor(tt.known, tt.there); got != tt.want {
			t.Errorf("WidthFor(%d, %d) = %d, want %d", tt.known, tt.there, got, tt.want)
		}
		if bits := float64(8 * tt.want); tt.known < 1<<30 && float64(tt.known)*float64(tt.there)/math.Exp2(bits) > 1.0/64 {
			t.Errorf("%d and %d: %d bytes are too few", tt.known, tt.there, tt.want)
		}
	}
}

// These requests must be refused before they cost anything.
func TestHostileStubs(t *testing.T) {
	where := func(v ...any) []byte { return frameOf(nil, kindWhere, be(v...)) }
	filter := frameOf(nil, kindBloom, bloomBody(64, 1, 64, words(1, 0)))
	for _, h := range []hostile{
		{"nothing", nil, false, "begin"},
		{"a summary", summary, false, "kind 1"},
		{"a width of zero", where(0, 0, 8, salt0), false, "width"},
		{"a width of nine", where(9, 0, 8, salt0), false, "width"},
		{"no salt", where(5, 0, 8), false, "salt"},
		{"a backward range", where(5, 8, 7, salt0), false, "ends before"},
		{"a position over the largest", where(5, 0, uint64(1)<<63, salt0), false, "to"},
		{"a byte too many", where(5, 0, 8, salt0, 0), false, "left"},
		{"a list after it", append(where(5, 0, 8, salt0), frameOf(nil, kindList, be(salt0, 0))...), false, "not a filter"},
		{"two filters after it", append(where(5, 0, 8, salt0), append(filter, filter...)...), false, "left"},
		{"a filter of all ones", append(where(5, 0, 8, salt0), frameOf(nil, kindBloom, bloomBody(64, 1, 64, words(1, 0xff)))...), false, "set"},
		{"a filter of 5 MiB", append(where(5, 0, 8, salt0), frameOf(nil, kindBloom, make([]byte, 5<<20))...), true, "filter"},
		{"9 MiB", make([]byte, 9<<20), true, "request"},
	} {
		var err error
		cost := allocated(func() { _, err = ParseStubRequest(h.frame, Limits{}) })
		checkHostile(t, h, err, cost)
	}
	_, reqs := goldenStubs(t)
	stubs := func(v ...any) []byte { return frameOf(nil, kindStubs, be(v...)) }
	five := []byte("12345")
	for _, h := range []hostile{
		{"an answer of another kind", frameOf(nil, kindAnswer, be(8, 0)), false, "kind 16"},
		{"2^40 stubs", stubs(8, uint64(1)<<40), false, "stubs"},
		{"300,000 stubs", stubs(8, uint64(300_000), make([]byte, 300_000*7)), true, "stubs"},
		{"more stubs than bytes", stubs(8, 2, 1, 1, five, 1), false, "stubs"},
		{"an end after the range", stubs(9, 0), false, "to"},
		{"an end at the beginning", stubs(0, 0), false, "to"},
		{"the same id again", stubs(8, 2, 1, 1, five, 0, 1, five), false, "order"},
		{"an id of zero", stubs(8, 1, 0, 1, five), false, "order"},
		{"an id behind the end", stubs(4, 1, 5, 1, five), false, "order"},
		{"an id over the largest", stubs(8, 1, uint64(math.MaxUint64), 1, five), false, "id"},
		{"a time that goes back", stubs(8, 2, 1, 2, five, 1, uint64(math.MaxUint64), five), false, "order"},
		{"a time without a text", stubs(8, 1, 1, uint64(math.MaxInt64), five), false, "order"},
		{"a cut hash", stubs(8, 1, uint64(1), 0, "1234"), false, "stubs"},
		{"a byte too many", stubs(8, 1, 1, 1, five, 0), false, "left"},
		{"9 MiB", make([]byte, 9<<20), true, "response"},
	} {
		var err error
		cost := allocated(func() { _, err = ParseStubs(h.frame, reqs[0], Limits{}) })
		checkHostile(t, h, err, cost)
	}
}

func checkHostile(t *testing.T, h hostile, err error, cost uint64) {
	t.Helper()
	var bad *FrameError
	if !errors.As(err, &bad) || bad.TooLarge != h.large || !strings.Contains(err.Error(), h.want) {
		t.Errorf("%s: %v, want %q, too large %v", h.name, err, h.want, h.large)
	}
	if cost > 64<<10 {
		t.Errorf("%s: costs %d bytes", h.name, cost)
	}
}

// A set that does not match the request is an error of the caller.
func TestAnswerStubsChecksItsSet(t *testing.T) {
	req := &StubRequest{Span: rangeOf(0, 8), Width: 5}
	if _, err := AnswerStubs(setOf(false, rangeOf(0, 8), items(1)), req, Limits{}); err == nil {
		t.Error("a set without ids answers")
	}
	if _, err := AnswerStubs(setOf(true, rangeOf(0, 7), items(1)), req, Limits{}); err == nil {
		t.Error("a set of another range answers")
	}
}

// Each of 100,000 stubs takes eight bytes: an id, a time at most two milliseconds after the previous
// one, and five bytes of a hash.
func TestStubsAreSmall(t *testing.T) {
	const n = 100_000
	rng := rand.New(rand.NewPCG(1, 2))
	var there []Item
	at := event.Time(1_795_168_800_000_000)
	for id := range event.ID(n) {
		it := itemAt(id + 1)
		at += event.Time(rng.IntN(2000))
		it.Time = at
		there = append(there, it)
	}
	req := &StubRequest{Span: rangeOf(0, n), Width: WidthFor(n, n), Salt: salts(1)()}
	resp, err := AnswerStubs(setOf(true, req.Span, there), req, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if size := len(resp.AppendTo(nil, req.Width)); size > 8*n {
		t.Errorf("%d bytes for %d events", size, n)
	}
}

// Every accepted request encodes to the same bytes, gets a response, and the response parses. Every
// accepted response encodes to the same bytes.
func FuzzStubs(f *testing.F) {
	for _, g := range goldenStubFrames(f) {
		f.Add(unhex(f, g.Request), uint8(5))
		f.Add(unhex(f, g.Response), uint8(5))
		f.Add(unhex(f, g.Response), uint8(8))
	}
	f.Fuzz(func(t *testing.T, b []byte, width uint8) {
		if req, err := ParseStubRequest(b, Limits{}); err == nil {
			if again := req.AppendTo(nil); !bytes.Equal(again, b) && !toleratesWords(b, again) {
				t.Fatalf("%x is written %x", b, again)
			}
			var there []Item
			for id := req.Span.From + 1; id <= req.Span.To && id > 0 && id < req.Span.From+9; id++ {
				there = append(there, itemAt(id))
			}
			resp, err := AnswerStubs(setOf(true, req.Span, there), req, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			back, err := ParseStubs(resp.AppendTo(nil, req.Width), req, Limits{})
			if err == nil && !slices.Equal(back.Stubs, resp.Stubs) {
				t.Fatalf("the answer %+v is read as %+v", resp, back)
			}
		}
		req := &StubRequest{Span: rangeOf(0, event.MaxID), Width: int(width%8) + 1}
		if resp, err := ParseStubs(b, req, Limits{}); err == nil && !bytes.Equal(resp.AppendTo(nil, req.Width), b) {
			t.Fatalf("%x is written %x", b, resp.AppendTo(nil, req.Width))
		}
	})
}
