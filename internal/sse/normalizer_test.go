package sse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"
)

// A specFrame is a comparable copy of a frame.
type specFrame struct {
	cursor, kind, data string
	event              bool // false if the block only moved the cursor
}

func (f specFrame) String() string {
	return fmt.Sprintf("cursor %+q type %+q data %.200q event %v", f.cursor, f.kind, f.data, f.event)
}

// A specResult is everything that a stream returns.
type specResult struct {
	frames  []specFrame
	own     []bool // whether each frame has an id of its own; nil if that is not known
	retry   time.Duration
	retried bool
	err     error
}

func (r specResult) String() string {
	var b strings.Builder
	for _, f := range r.frames {
		fmt.Fprintln(&b, f)
	}
	fmt.Fprintf(&b, "retry %v %v, end: %v", r.retry, r.retried, r.err)
	return b.String()
}

// specParse is the slow truth: the parser of the WHATWG text, step by step over
// the whole body, and the law of the limit as normalizer states it.
func specParse(body string, limit int) specResult {
	body = strings.TrimPrefix(body, "\xEF\xBB\xBF")
	var res specResult
	var id, kind, data string
	var size int
	var moved bool
	for {
		line, rest, ended := specLine(body)
		cost := len(line) + 1
		if !strings.HasPrefix(line, ":") {
			cost += size
		}
		if line != "" && cost > limit {
			res.err = &TooLargeError{Limit: limit}
			return res
		}
		if !ended {
			res.err = io.EOF
			return res
		}
		body = rest
		if line == "" {
			if data != "" {
				res.frames = append(res.frames, specFrame{id, kind, strings.TrimSuffix(data, "\n"), true})
				res.own = append(res.own, moved)
			} else if moved {
				res.frames = append(res.frames, specFrame{cursor: id})
				res.own = append(res.own, true)
			}
			kind, data, size, moved = "", "", 0, false
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		if name == "" {
			continue
		}
		size = cost
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "data":
			data += value + "\n"
		case "event":
			kind = value
		case "id":
			if !strings.Contains(value, "\x00") {
				id, moved = value, value != ""
			}
		case "retry":
			if value != "" && strings.Trim(value, "0123456789") == "" {
				res.retry, res.retried = specRetry(value), true
			}
		}
	}
}

func specLine(body string) (line, rest string, ended bool) {
	i := strings.IndexAny(body, "\r\n")
	if i < 0 {
		return body, "", false
	}
	if strings.HasPrefix(body[i:], "\r\n") {
		return body[:i], body[i+2:], true
	}
	return body[:i], body[i+1:], true
}

func specRetry(digits string) time.Duration {
	const most = math.MaxInt64 / 1_000_000
	ms, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || ms > most {
		ms = most
	}
	return time.Duration(ms) * time.Millisecond
}

// diff describes how a session's result differs from the truth, "" if it does not.
func (r specResult) diff(got specResult) string {
	sameRetry := r.retry == got.retry && r.retried == got.retried
	var a, b *TooLargeError
	sameEnd := r.err == got.err || errors.As(r.err, &a) && errors.As(got.err, &b) && *a == *b
	sameOwn := r.own == nil || got.own == nil || slices.Equal(r.own, got.own)
	if slices.Equal(r.frames, got.frames) && sameOwn && sameRetry && sameEnd {
		return ""
	}
	return fmt.Sprintf("got\n%v\nwant\n%v", got, r)
}

// piecesReader returns each piece in a separate read.
type piecesReader struct{ pieces [][]byte }

func (r *piecesReader) Read(p []byte) (int, error) {
	for len(r.pieces) > 0 && len(r.pieces[0]) == 0 {
		r.pieces = r.pieces[1:]
	}
	if len(r.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.pieces[0])
	r.pieces[0] = r.pieces[0][n:]
	return n, nil
}

// splitAt cuts body in two.
func splitAt(body []byte, i int) io.Reader {
	return &piecesReader{pieces: [][]byte{body[:i], body[i:]}}
}

func TestNormalizerForm(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"order", "data: a\nevent: PUT\nid: 1\n\n", "id: 1\nevent: PUT\ndata: a\n\n"},
		{"no id yet", "data: a\n\n", "id: \x00\ndata: a\n\n"},
		{"id reset", "id: 1\ndata: a\n\nid\ndata: b\n\n", "id: 1\ndata: a\n\nid: \x00\ndata: b\n\n"},
		{"id persists", "id: 1\n\ndata: a\n\n", "id: 1\n\nid: \x001\ndata: a\n\n"},
		{"id repeats", "id: 1\n\nid: 1\n\n", "id: 1\n\nid: 1\n\n"},
		{"empty type", "event:\ndata: a\n\n", "id: \x00\ndata: a\n\n"},
		{"type without data", "id: 1\nevent: PUT\n\n", "id: 1\n\n"},
		{"no colon", "data\ndata\n\n", "id: \x00\ndata: \ndata: \n\n"},
		{"dropped", "\xEF\xBB\xBF: c\r\nretry: 1\r\nx: y\r\ndata: a\r\n: d\r\n\r\n", "id: \x00\ndata: a\n\n"},
		{"tail", "id: 1\n\nid: 2\ndata: a\n", "id: 1\n\n"},
		{"nothing", ": c\n\nretry: 1\n\nevent: x\n\nid:\n\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			norm := newNormalizer(strings.NewReader(tt.in), 1<<10)
			got, err := io.ReadAll(iotest.OneByteReader(norm))
			if err != nil || string(got) != tt.want {
				t.Errorf("canonical form of %q = %q, %v, want %q", tt.in, got, err, tt.want)
			}
			if norm.endCause() != io.EOF {
				t.Errorf("cause = %v, want %v", norm.endCause(), io.EOF)
			}
		})
	}
}

// The library's parser is slow if its buffer is large, so each read returns one block.
func TestNormalizerGivesOneBlockAtATime(t *testing.T) {
	norm := newNormalizer(strings.NewReader("id: 1\n\nid: 2\n\ndata: a\n\n"), 1<<10)
	buf := make([]byte, 1<<10)
	for _, want := range []string{"id: 1\n\n", "id: 2\n\n", "id: \x002\ndata: a\n\n", ""} {
		n, _ := norm.Read(buf)
		if string(buf[:n]) != want {
			t.Errorf("Read = %q, want %q", buf[:n], want)
		}
	}
}

func TestNormalizerLimit(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		blocks   int
		tooLarge bool
	}{
		{"exact", "data: 9\ndata: 45678\n\n", 1, false},
		{"exact with CRLF", "data: 9\r\ndata: 45678\r\n\r\n", 1, false},
		{"one more", "data: 9\ndata: 456789\n\n", 0, true},
		{"one line", "data: 45678901234567\n\n", 0, true},
		{"line without end", "data: 4567890123456789", 0, true},
		{"unfinished line that fits", "data: 45678901234", 0, false},
		{"after a good one", "data: a\n\ndata: b\ndata: 456789\n\ndata: c\n\n", 1, true},
		{"each counts alone", "data: 45678901\n\ndata: 45678901\n\ndata: 45678901\n\n", 3, false},
		{"comments do not count", "data: a\n" + strings.Repeat(": c\n", 99) + "\n", 1, false},
		{"comment in a full block", "data: 9\ndata: 4567\n: c\r\n\n", 1, false},
		{"blank line after a full block", "data: 9\ndata: 45678\n\r\n\n", 1, false},
		{"comment as long as the limit", ":" + strings.Repeat("c", 18) + "\ndata: a\n\n", 1, false},
		{"longer comment", ":" + strings.Repeat("c", 19) + "\ndata: a\n\n", 0, true},
		{"comment without end", ":" + strings.Repeat("c", 1<<16), 0, true},
		{"unknown fields count", strings.Repeat("x: y\n", 5) + "\n", 0, true},
		{"ids count", strings.Repeat("id: y\n", 4) + "\n", 0, true},
		{"blank lines do not count", "data: a\n" + strings.Repeat("\n", 99), 1, false},
		{"BOM does not count", "\xEF\xBB\xBFdata: 4567890123456\n\n", 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, src := range []io.Reader{
				strings.NewReader(tt.in), iotest.OneByteReader(strings.NewReader(tt.in)),
			} {
				norm := newNormalizer(src, 20)
				got, err := io.ReadAll(norm)
				if n := bytes.Count(got, []byte("\n\n")); n != tt.blocks || err != nil {
					t.Errorf("%d blocks, %v, want %d", n, err, tt.blocks)
				}
				var tooLarge *TooLargeError
				if errors.As(norm.endCause(), &tooLarge) != tt.tooLarge {
					t.Errorf("cause = %v, want too large = %v", norm.endCause(), tt.tooLarge)
				}
				if tooLarge != nil && tooLarge.Limit != 20 {
					t.Errorf("Limit = %d, want 20", tooLarge.Limit)
				}
			}
		})
	}
}

func TestNormalizerEmptyReads(t *testing.T) {
	norm := newNormalizer(emptyReader{}, 20)
	if got, err := io.ReadAll(norm); len(got) > 0 || err != nil || norm.endCause() != io.ErrNoProgress {
		t.Errorf("ReadAll = %q, %v, cause %v, want %v", got, err, norm.endCause(), io.ErrNoProgress)
	}
}

type emptyReader struct{}

func (emptyReader) Read([]byte) (int, error) { return 0, nil }

func TestNormalizerAllocations(t *testing.T) {
	norm := newNormalizer(&loopReader{body: benchBody(10, 300)}, 1<<20)
	buf := make([]byte, 1<<10)
	read := func() {
		for range 100 {
			if _, err := norm.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := testing.AllocsPerRun(10, read); n > 0 {
		t.Errorf("%v allocations in 100 blocks, want none", n)
	}
}

// nasty are the parts of random bodies: input on which parsers of event streams are known
// to fail.
var nasty = []string{
	"\n", "\n", "\n\n", "\r", "\r\r", "\r\n", "\r\n\r\n", "\n\r", "\r\n\n",
	"data", "data:", "data: ", "data: a", "data:a", "data: a\n\n", "data:  a ", "data: {\"n\":1}\n",
	"id", "id:", "id: ", "id: 1", "id: 2\n", "id: 3\n\n", "id: \x00", "id:4\r\r",
	"event", "event:", "event: PUT", "event: DEL\n", "retry:", "retry: 10\n", "retry: 1x\n", "retry: 99999999999999999999\n",
	":", ": c", ": c\n", ":\n\n", " ", "  ", "\x00", "\t", "\xEF\xBB\xBF", "\xEF", "\xBB", "\xFF", "é", "\u2028",
	"Data: a\n", "ID: 1\n", "x: y\n", "xxxxxxxxxxxxxxxxxxxx",
}

func TestSessionAgainstSpec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.SliceOfN(rapid.SampledFrom(nasty), 0, 60).Draw(t, "tokens")
		limit := rapid.SampledFrom([]int{20, 60, 1 << 20}).Draw(t, "limit")
		body := []byte(strings.Join(tokens, ""))
		cuts := rapid.SliceOfN(rapid.IntRange(0, len(body)), 0, 20).Draw(t, "cuts")
		slices.Sort(cuts)
		var src piecesReader
		from := 0
		for _, cut := range append(cuts, len(body)) {
			src.pieces = append(src.pieces, body[from:cut])
			from = cut
		}
		got := readSession(&src, limit)
		if diff := specParse(string(body), limit).diff(got); diff != "" {
			t.Fatalf("%q cut at %v: %s", body, cuts, diff)
		}
	})
}

func FuzzNormalizer(f *testing.F) {
	for _, file := range streamFiles(f) {
		f.Add(file.body)
	}
	f.Add([]byte(strings.Join(nasty, "")))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, limit := range []int{24, 1 << 20} {
			want := specParse(string(body), limit)
			if diff := want.diff(readSession(bytes.NewReader(body), limit)); diff != "" {
				t.Fatalf("limit %d, one piece: %s", limit, diff)
			}
			bytewise := iotest.OneByteReader(bytes.NewReader(body))
			if diff := want.diff(readSession(bytewise, limit)); diff != "" {
				t.Fatalf("limit %d, byte by byte: %s", limit, diff)
			}
		}
	})
}

// loopReader returns body over and over.
type loopReader struct {
	body []byte
	pos  int
}

func (r *loopReader) Read(p []byte) (int, error) {
	if r.pos == len(r.body) {
		r.pos = 0
	}
	n := copy(p, r.body[r.pos:])
	r.pos += n
	return n, nil
}

// benchBody is n events with size bytes of data each.
func benchBody(n, size int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "id: %013d.K7Q2M\nevent: PUT\ndata: %s\n\n", i, strings.Repeat("x", size))
	}
	return b.Bytes()
}

func BenchmarkNormalizer(b *testing.B) {
	body := benchBody(1000, 300)
	norm := newNormalizer(&loopReader{body: body}, 1<<20)
	buf := make([]byte, 1<<10)
	b.SetBytes(int64(len(body) / 1000))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := norm.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
