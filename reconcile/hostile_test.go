package reconcile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// bloomBody is a bloom frame's body with the given header and bytes of bits.
func bloomBody(m, k, length uint64, words []byte) []byte {
	b := append(make([]byte, 16), 1) // salt and count
	for _, v := range []uint64{m, k, length} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return append(b, words...)
}

func be(v ...any) (b []byte) {
	for _, v := range v {
		switch v := v.(type) {
		case []byte:
			b = append(b, v...)
		case string:
			b = append(b, v...)
		case int:
			b = append(b, byte(v))
		case uint64:
			b = binary.AppendUvarint(b, v)
		}
	}
	return b
}

var (
	digest0   = make([]byte, 32)
	salt0     = make([]byte, 16)
	summary   = frameOf(nil, kindSummary, be(0, 0, 0, 0, 1, digest0))    // one event, other logs
	summaryID = frameOf(nil, kindSummary, be(1, 0, 0, 0, 1, digest0, 1)) // one event, ids shared
	after     = func(k kind, v ...any) []byte { return frameOf(bytes.Clone(summary), k, be(v...)) }
	behindID  = func(k kind, v ...any) []byte { return frameOf(bytes.Clone(summaryID), k, be(v...)) }
	words     = func(n int, w byte) []byte { return bytes.Repeat([]byte{w}, 8*n) }
)

func frameOf(b []byte, k kind, body []byte) []byte {
	return appendFrame(b, k, func(b []byte) []byte { return append(b, body...) })
}

type hostile struct {
	name  string
	frame []byte
	large bool   // it is told to be too large rather than malformed
	want  string // in the error
}

// hostileRequests must be refused before they cost anything.
func hostileRequests() []hostile {
	return []hostile{
		{"nothing", nil, false, "begin"},
		{"text", []byte(`{"items":[]}`), false, "begin"},
		{"half a header", []byte{magic0, magic1, 1}, false, "begin"},
		{"another version", []byte{magic0, magic1, 2, 1, 0}, false, "version 2"},
		{"a length beyond the end", []byte{magic0, magic1, 1, 1, 5, 0}, false, "length"},
		{"a length of 2^63", be(magic0, magic1, 1, 1, uint64(1)<<63), false, "length"},
		{"a length that does not end", append([]byte{magic0, magic1, 1, 1}, bytes.Repeat([]byte{0x80}, 11)...), false, "length"},
		{"a length in more bytes than it needs", append([]byte{magic0, magic1, 1, 1, 0xa5, 0x80, 0}, summary[5:]...), false, "shortest"},
		{"an answer", frameOf(nil, kindAnswer, summary), false, "kind 16"},
		{"a filter alone", frameOf(nil, kindBloom, nil), false, "kind 4"},
		{"a short summary", frameOf(nil, kindSummary, make([]byte, 10)), false, "digest"},
		{"a long summary", frameOf(nil, kindSummary, append(be(0, 0, 0, 0, 1, digest0), 0)), false, "left"},
		{"unknown flags", frameOf(nil, kindSummary, be(2, 0, 0, 0, 1, digest0)), false, "flags"},
		{"a backward range", frameOf(nil, kindSummary, be(0, 0, 5, 4, 1, digest0)), false, "ends before"},
		{"a position over the largest", frameOf(nil, kindSummary, be(0, 0, uint64(1)<<63, 0, 1, digest0)), false, "from"},
		{"a count of 2^41", frameOf(nil, kindSummary, be(0, 0, 0, 0, uint64(1)<<41, digest0)), false, "count"},
		{"a last before the range", frameOf(nil, kindSummary, be(1, 0, 5, 9, 1, digest0, 5)), false, "last"},
		{"a last after the range", frameOf(nil, kindSummary, be(1, 0, 5, 9, 1, digest0, 10)), false, "last"},
		{"a last of nothing", frameOf(nil, kindSummary, be(1, 0, 0, 0, 0, digest0, 1)), false, "last"},
		{"200 hash functions back", frameOf(nil, kindSummary, be(0, 200, 0, 0, 1, digest0, salt0)), false, "back"},
		{"no salt for the way back", frameOf(nil, kindSummary, be(0, 3, 0, 0, 1, digest0)), false, "salt"},
		{"a second summary", append(bytes.Clone(summary), summary...), false, "kind 1"},
		{"a third frame", append(after(kindList, salt0, 0), summary...), false, "left"},
		{"an unknown kind", after(99), false, "kind 99"},

		// What bloom/v3's own decoder would panic, die, hang or lie on.
		{"bloom: length 2^63", after(kindBloom, bloomBody(64, 1, 1<<63, nil)), false, "m"},
		{"bloom: length 2^48", after(kindBloom, bloomBody(1<<48, 1, 1<<48, nil)), false, "m"},
		{"bloom: length 2^37", after(kindBloom, bloomBody(1<<37, 1, 1<<37, words(1, 0))), false, "m"},
		{"bloom: length 2^33 of m 64", after(kindBloom, bloomBody(64, 1, 1<<33, words(1, 0))), false, "bitset"},
		{"bloom: m of zero", after(kindBloom, bloomBody(0, 1, 0, nil)), false, "m"},
		{"bloom: m of one", after(kindBloom, bloomBody(1, 1, 1, words(1, 0))), false, "m"},
		{"bloom: m beyond the bits", after(kindBloom, bloomBody(1000, 1, 64, words(1, 0))), false, "m"},
		{"bloom: m of all bytes", after(kindBloom, bloomBody(256, 1, 256, words(1, 0))), false, "bits for m"},
		{"bloom: k of zero", after(kindBloom, bloomBody(64, 0, 64, words(1, 0))), false, "k"},
		{"bloom: k of 33", after(kindBloom, bloomBody(64, 33, 64, words(1, 0))), false, "k"},
		{"bloom: k of 2^40, all ones", after(kindBloom, bloomBody(64, 1<<40, 64, words(1, 0xff))), false, "k"},
		{"bloom: all ones", after(kindBloom, bloomBody(64, 1, 64, words(1, 0xff))), false, "set"},
		{"bloom: 39 of 64 ones", after(kindBloom, bloomBody(64, 1, 64, []byte{0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0})), false, "set"},
		{"bloom: trailing bytes", after(kindBloom, bloomBody(64, 1, 64, words(1, 0)), 0), false, "bits for m"},
		{"bloom: a trailing word", after(kindBloom, bloomBody(64, 1, 64, words(2, 0))), false, "bits for m"},
		{"bloom: bits after m", after(kindBloom, bloomBody(65, 1, 65, be(words(1, 0), 0x80, 0, 0, 0, 0, 0, 0, 0))), false, "bits after m"},
		{"bloom: half a header", after(kindBloom, bloomBody(64, 1, 64, nil)[:30]), false, "want 8"},
		{"bloom: nothing", after(kindBloom), false, "salt"},
		{"bloom: 5 MiB", after(kindBloom, make([]byte, 5<<20)), true, "filter"},
		{"a request of 9 MiB", make([]byte, 9<<20), true, "request"},

		{"inverse: no slots", after(kindInverse, salt0, 1, 0), false, "slots"},
		{"inverse: 2^30 slots", after(kindInverse, salt0, 1, uint64(1)<<30), false, "slots"},
		{"inverse: 2^17 slots of nothing", after(kindInverse, salt0, 1, uint64(1)<<17), false, "slots"},
		{"inverse: hashes missing", after(kindInverse, salt0, 1, 8, 0xff, digest0), false, "used"},
		{"inverse: hashes too many", after(kindInverse, salt0, 1, 8, 0, digest0), false, "used"},
		{"inverse: slots after the last", after(kindInverse, salt0, 1, 1, 0x2, digest0), false, "slots after"},

		{"sketch: no cells", after(kindSketch, salt0, 0), false, "cells"},
		{"sketch: 2^40 cells", after(kindSketch, salt0, uint64(1)<<40), false, "cells"},
		{"sketch: fewer bytes than cells", after(kindSketch, salt0, 10, make([]byte, 20)), false, "cells"},
		{"sketch: 70,000 cells", after(kindSketch, salt0, uint64(70_000), make([]byte, 13*70_000)), true, "cells"},
		{"sketch: a cell that counts more than all", after(kindSketch, salt0, 1, make([]byte, 12), 4), false, "counts"},
		{"sketch: a cell that counts less than nothing", after(kindSketch, salt0, 1, make([]byte, 12), 3), false, "counts"},
		{"sketch: a count of 2^63", after(kindSketch, salt0, 1, make([]byte, 12), uint64(math.MaxUint64)), false, "count"},

		{"list: 65", after(kindList, salt0, 65, make([]byte, 65*8)), true, "short hashes"},
		{"list: not in order", after(kindList, salt0, 2, words(1, 2), words(1, 1)), false, "order"},
		{"list: twice", after(kindList, salt0, 2, words(1, 1), words(1, 1)), false, "order"},
		{"list: 2^40", after(kindList, salt0, uint64(1)<<40), false, "short hashes"},

		{"gaps: without ids", after(kindGaps, 0), false, "ids"},
		{"gaps: 2^40", behindID(kindGaps, uint64(1)<<40), false, "spans"},
		{"gaps: 300,000", behindID(kindGaps, uint64(300_000), bytes.Repeat([]byte{1}, 600_000)), true, "spans"},
		{"gaps: an empty span", behindID(kindGaps, 1, 1, 0), false, "spans"},
		{"gaps: touching spans", behindID(kindGaps, 2, 1, 1, 0, 1), false, "spans"},
		{"gaps: overflow", behindID(kindGaps, 2, 1, 1, uint64(math.MaxInt64), 1), false, "gap"},

		{"leaves: 2^40", after(kindLeaves, 50, uint64(1)<<40), false, "leaves"},
		{"leaves: 20,000", after(kindLeaves, 50, uint64(20_000), make([]byte, 20_000*33)), true, "leaves"},
		{"leaves: not in order", after(kindLeaves, 50, 2, 1, digest0, 0, digest0), false, "order"},
		{"leaves: a shift of 65", after(kindLeaves, 65, 0), false, "shift"},
		{"blocks: a shift of 200", after(kindBlocks, 200, 0), false, "shift"},
		{"blocks: 20,000", after(kindBlocks, 50, uint64(20_000), bytes.Repeat([]byte{1}, 20_000)), true, "blocks"},
		{"blocks: overflow", after(kindBlocks, 0, 2, uint64(math.MaxUint64), 1), false, "blocks"},
	}
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestHostileRequests(t *testing.T) {
	for _, h := range hostileRequests() {
		var err error
		start := time.Now()
		cost := allocated(func() { _, err = ParseRequest(h.frame, Limits{}) })
		took := time.Since(start)
		var bad *FrameError
		if !errors.As(err, &bad) || bad.TooLarge != h.large || !strings.Contains(err.Error(), h.want) {
			t.Errorf("%s: %v, want %q, too large %v", h.name, err, h.want, h.large)
		}
		if cost > 64<<10 || took > time.Second {
			t.Errorf("%s: costs %d bytes and %v", h.name, cost, took)
		}
	}
}

// Truncated requests, requests with further bytes, and a filter alone are refused.
func TestCutFrames(t *testing.T) {
	names, reqs := goldenRequests(t)
	for i, req := range reqs {
		b := req.AppendTo(nil)
		resp, err := Answer(setOf(req.Shared, rangeOf(0, 8), items(1, 2, 3, 4, 5, 6, 7, 8)), req, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		answer := resp.AppendTo(nil, req.Shared)
		whole := len(appendSummary(req))
		for n := range len(b) {
			if _, err := ParseRequest(b[:n], Limits{}); err == nil && n != whole {
				t.Errorf("%s: %d of %d bytes are taken", names[i], n, len(b))
			}
		}
		for n := range len(answer) {
			if _, err := ParseResponse(answer[:n], req, Limits{}); err == nil {
				t.Errorf("%s: %d of %d bytes of the answer are taken", names[i], n, len(answer))
			}
		}
		if _, err := ParseRequest(append(b, 0), Limits{}); err == nil {
			t.Errorf("%s: a byte after the request is accepted", names[i])
		}
		if _, err := ParseResponse(append(answer, 0), req, Limits{}); err == nil {
			t.Errorf("%s: a byte after the answer is accepted", names[i])
		}
	}
}

// appendSummary appends the first frame of req, which alone is a valid request.
func appendSummary(req *Request) []byte {
	alone := *req
	alone.body = nil
	return alone.AppendTo(nil)
}

func TestHostileResponses(t *testing.T) {
	req, err := ParseRequest(summary, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	reqID, err := ParseRequest(summaryID, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	answer := func(v ...any) []byte { return frameOf(nil, kindAnswer, be(v...)) }
	for _, h := range []struct {
		name  string
		req   *Request
		frame []byte
		want  string
	}{
		{"a request", req, summary, "kind 1"},
		{"2^40 items", req, answer(hasMissingByte, 9, 9, digest0, uint64(1)<<40), "items"},
		{"70,000 items", req, answer(hasMissingByte, 9, uint64(100_000), digest0, uint64(70_000), make([]byte, 70_000*32)), "items"},
		{"more items than bytes", req, answer(hasMissingByte, 9, 9, digest0, 5, make([]byte, 40)), "items"},
		{"more items than the set has", req, answer(hasMissingByte, 9, 1, digest0, 2, words(4, 1), words(4, 2)), "items"},
		{"items out of order", req, answer(hasMissingByte, 9, 9, digest0, 2, words(4, 2), words(4, 1)), "order"},
		{"an item after the range", reqID, answer(hasMissingByte, 9, 9, digest0, 1, 10, words(1, 0), digest0), "order"},
		{"an item at the beginning", reqID, answer(hasMissingByte, 9, 9, digest0, 1, 0, words(1, 0), digest0), "order"},
		{"2^40 short hashes", req, answer(1<<3, 9, 9, digest0, uint64(1)<<40), "short"},
		{"2^40 blocks", req, answer(1<<5, 9, 9, digest0, 0, uint64(1)<<40), "blocks"},
		{"covers 2^40 blocks", req, answer(1<<5, 9, 9, digest0, uint64(1)<<40, 0), "covered"},
		{"a filter that is missing", req, answer(1, 9, 9, digest0), "missing"},
		{"a filter that is not told", req, append(answer(0, 9, 9, digest0), summary...), "left"},
		{"a filter that is none", req, append(answer(1, 9, 9, digest0), summary...), "not a filter"},
		{"more before the end than at it", req, answer(1<<1, 9, 9, digest0, 10, digest0), "before the end"},
	} {
		var err error
		cost := allocated(func() { _, err = ParseResponse(h.frame, h.req, Limits{}) })
		if err == nil || !strings.Contains(err.Error(), h.want) {
			t.Errorf("%s: %v, want %q", h.name, err, h.want)
		}
		if cost > 64<<10 {
			t.Errorf("%s: costs %d bytes", h.name, cost)
		}
	}
	// A range that was pinned stays as it was.
	pinned := *req
	pinned.Span.To = 100
	if _, err := ParseResponse(answer(0, 99, 0, digest0), &pinned, Limits{}); err == nil {
		t.Error("an answer about another range is taken")
	}
}

const hasMissingByte = 1 << 2

// Well-formed requests cost no more than their limits, no matter what they contain.
func TestDearestRequests(t *testing.T) {
	const n = 20_000
	many := frameOf(nil, kindSummary, be(0, 0, 0, 0, uint64(65_536), digest0))
	ofMany := func(k kind, v ...any) []byte { return frameOf(bytes.Clone(many), k, be(v...)) }
	set := setOf(false, rangeOf(0, n), scattered(1, false, n, 0, 0).peer)
	random := make([]byte, 13*65_536)
	for i := range len(random) / 8 {
		binary.BigEndian.PutUint64(random[8*i:], mixBits(uint64(i)))
	}
	var cells []byte
	for i := range 65_536 {
		cells = binary.AppendUvarint(append(cells, random[12*i:12*i+12]...), 0)
	}
	var pure []byte // each cell claims to hold one
	for i := range 65_536 {
		x := mixBits(uint64(i) + 1)
		pure = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(pure, x), checkOf(x))
		pure = binary.AppendVarint(pure, 1-expected(65_536, i))
	}
	for _, h := range []struct {
		name  string
		frame []byte
	}{
		{"inverse: 2^17 empty slots", after(kindInverse, salt0, 1, uint64(1)<<17, make([]byte, 1<<14))},
		{"bloom: 4 MiB of nothing", after(kindBloom, bloomBody(1<<25-512, 32, 1<<25-512, make([]byte, 1<<22-64)))},
		{"sketch: noise", ofMany(kindSketch, salt0, uint64(65_536), cells)},
		{"sketch: all pure", ofMany(kindSketch, salt0, uint64(65_536), pure)},
		{"leaves: a block for each event", after(kindLeaves, 0, 0)},
		{"blocks: all in one", after(kindBlocks, 64, 1, 0)},
		{"gaps: as many as there may be", behindID(kindGaps, 0)},
		{"back: 32 hash functions", frameOf(nil, kindSummary, be(0, 32, 0, 0, 1, digest0, salt0))},
	} {
		var req *Request
		var resp *Response
		var err error
		cost := allocated(func() { req, err = ParseRequest(h.frame, Limits{}) })
		if err != nil {
			t.Errorf("%s: %v", h.name, err)
			continue
		}
		if cost > 8<<20 {
			t.Errorf("%s: reading it costs %d bytes", h.name, cost)
		}
		if req.Shared {
			continue
		}
		start := time.Now()
		cost = allocated(func() { resp, err = Answer(set, req, Limits{}) })
		if err != nil {
			t.Errorf("%s: %v", h.name, err)
			continue
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: the answer takes %v", h.name, took)
		}
		if cost > 8<<20 {
			t.Errorf("%s: the answer costs %d bytes", h.name, cost)
		}
		if b := resp.AppendTo(nil, false); len(b) > 8<<20 {
			t.Errorf("%s: the answer has %d bytes", h.name, len(b))
		}
	}
}

// Cells that are crafted to peel for ever do not.
func TestPeelEnds(t *testing.T) {
	for seed := range uint64(2000) {
		r := salts(seed)
		next := func() uint64 { s := r(); return binary.BigEndian.Uint64(s[:]) }
		m := 1 + int(next()%12)
		s := make(sketch, m)
		for i := range s {
			x := next()
			switch next() % 4 {
			case 0: // pure, and in a cell that its walk may not touch
				s[i] = cell{x, checkOf(x), 1}
			case 1:
				s[i] = cell{x, checkOf(x), -1}
			case 2: // the same one again
				s[i] = s[next()%uint64(m)]
			default:
				s[i] = cell{x, uint32(next()), int64(next()%5) - 2}
			}
		}
		plus, minus, ok := s.peel()
		if ok && len(plus)+len(minus) > m {
			t.Fatalf("seed %d: %d cells peel into %d", seed, m, len(plus)+len(minus))
		}
	}
}

// A request for a larger range than the set that answers it is an error of the caller.
func TestAnswerChecksItsSet(t *testing.T) {
	req, err := ParseRequest(summary, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Answer(setOf(true, rangeOf(0, 8), items(1)), req, Limits{}); err == nil {
		t.Error("a request without ids is answered from a set with them")
	}
	if _, err := Answer(setOf(false, rangeOf(1, 8), items(2)), req, Limits{}); err == nil {
		t.Error("a request is answered from another range")
	}
	large := Limits{Items: 3}
	req.Back = 1
	if _, err := Answer(setOf(false, rangeOf(0, 8), items(1, 2, 3, 4)), req, large); !refused(err) {
		t.Errorf("a set over the limit: %v", err)
	}
}

func TestStrategyNames(t *testing.T) {
	forced := []Strategy{Auto, Gaps, List, Bloom, Sketch, Inverse, Exact}
	for s := range Strategy(len(strategyNames) + 1) {
		got, err := ParseStrategy(s.String())
		if slices.Contains(forced, s) != (err == nil) || err == nil && got != s {
			t.Errorf("ParseStrategy(%s) = %v, %v", s, got, err)
		}
	}
}
