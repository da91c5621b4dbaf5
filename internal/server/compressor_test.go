package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// decoders read the encodings as they come.
var decoders = map[string]func(io.Reader) (io.Reader, error){
	wire.Gzip: func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	wire.Zstd: func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r, zstd.WithDecoderConcurrency(1)) },
}

func decode(t *testing.T, encoding string, r io.Reader) io.Reader {
	t.Helper()
	d, err := decoders[encoding](r)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// manyValues returns a log with similar events.
func manyValues(t *testing.T, n int) *memLog {
	t.Helper()
	log := newLog()
	for i := range n {
		d := event.Draft{User: "a", Path: fmt.Sprint(i), Type: event.Put, Key: fmt.Sprint(i), Value: []byte(`"` + strings.Repeat("x", 500) + `"`)}
		if _, err := log.Append(t.Context(), []event.Draft{d}); err != nil {
			t.Fatal(err)
		}
	}
	return log
}

// The response to a batch is not compressed: that would take longer than the append.
func TestAnswersToAppendsAreNotCompressed(t *testing.T) {
	s, stop := serve(t, newLog(), Config{})
	defer stop()
	var lines strings.Builder
	for i := range 100 {
		fmt.Fprintf(&lines, "{\"user\":\"a\",\"path\":\"%d\",\"value\":1}\n", i)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/set", strings.NewReader(lines.String()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept-Encoding", "gzip, zstd")
	resp, err := s.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if answer := body(t, resp); strings.Count(answer, "\n") != 100 || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("the answer is encoded as %q and has %d lines", resp.Header.Get("Content-Encoding"), strings.Count(answer, "\n"))
	}
}

// Compressed lines are the same lines in a fraction of the bytes.
func TestCompressedLines(t *testing.T) {
	log := manyValues(t, 2500)
	s, stop := serve(t, log, Config{})
	defer stop()
	for _, target := range []string{"/events?topic=a", "/events?topic=a&limit=100", "/snapshot?topic=a", "/get?id=a/7"} {
		plain := body(t, s.get(target, "Accept", wire.NDJSON))
		for encoding := range decoders {
			resp := s.get(target, "Accept", wire.NDJSON, "Accept-Encoding", encoding)
			raw := body(t, resp)
			if len(plain) < worthwhile {
				if resp.Header.Get("Content-Encoding") != "" || raw != plain {
					t.Errorf("%s: %d bytes are compressed as %q", target, len(plain), resp.Header.Get("Content-Encoding"))
				}
				continue
			}
			if resp.Header.Get("Content-Encoding") != encoding || !strings.Contains(strings.Join(resp.Header.Values("Vary"), ","), "Accept-Encoding") {
				t.Fatalf("%s as %s: %v", target, encoding, resp.Header)
			}
			text, err := io.ReadAll(decode(t, encoding, strings.NewReader(raw)))
			if err != nil || string(text) != plain || len(raw) > len(plain)/3 {
				t.Errorf("%s as %s: %d bytes became %d and then %d, %v", target, encoding, len(plain), len(raw), len(text), err)
			}
		}
	}
}

// Responses that are not lines or a stream, were not requested compressed, or have no body are
// not compressed.
func TestNotCompressed(t *testing.T) {
	s, stop := serve(t, manyValues(t, 100), Config{})
	defer stop()
	for _, c := range [][]string{
		{"/events?topic=a", wire.JSON, "gzip"},
		{"/events?topic=a", wire.NDJSON, "br, deflate;q=0.5"},
		{"/events?topic=a", wire.NDJSON, "gzip;q=0, zstd;q=0.0"},
		{"/events?topic=a", wire.NDJSON, "*"},
		{"/events?topic=", wire.NDJSON, "gzip"},
		{"/nowhere", wire.NDJSON, "gzip"},
	} {
		resp := s.get(c[0], "Accept", c[1], "Accept-Encoding", c[2])
		if body(t, resp); resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%v: %v", c, resp.Header)
		}
	}
	w := call(New(manyValues(t, 100), Config{}), http.MethodHead, "/events?topic=a", "Accept", wire.NDJSON, "Accept-Encoding", "gzip")
	if w.Header().Get("Content-Encoding") != "" || w.Body.Len() > 0 {
		t.Errorf("HEAD: %v, %d bytes", w.Header(), w.Body.Len())
	}
}

// Each event of a compressed stream can be decoded when it happens, before the next one.
func TestCompressedStream(t *testing.T) {
	for encoding := range decoders {
		log := newLog()
		s, stop := serve(t, log, Config{})
		resp := s.get("/events?topic=a&since=beginning", "Accept", wire.SSE, "Accept-Encoding", encoding)
		if got := resp.Header.Get("Content-Encoding"); got != encoding {
			t.Fatalf("the stream is encoded as %q, want %q", got, encoding)
		}
		fs := newFrames(decode(t, encoding, resp.Body))
		if _, err := fs.next(); err != nil { // the preamble
			t.Fatal(err)
		}
		fs.want(t, "live", 0)
		for i := range 20 {
			log.put(t, "a", "x", 1)
			fs.want(t, "PUT", event.ID(i+1))
		}
		resp.Body.Close()
		stop()
	}
}

// A truncated response looks truncated, even if it is compressed.
func TestCompressedIsCut(t *testing.T) {
	for encoding := range decoders {
		s, stop := serve(t, brokenLog{memLog: manyValues(t, 400), snapshot: errors.New("on fire"), after: 300}, Config{})
		resp := s.get("/snapshot?topic=*", "Accept", wire.NDJSON, "Accept-Encoding", encoding)
		text, err := io.ReadAll(decode(t, encoding, resp.Body))
		resp.Body.Close()
		if resp.Header.Get("Content-Encoding") != encoding || err == nil {
			t.Errorf("a state that failed is whole as %s: %d bytes", encoding, len(text))
		}
		stop()
	}
}

// Lines of which more pieces follow are compressed, although the first piece has none: of a rare topic,
// it is often empty.
func TestCompressedAfterAnEmptyPiece(t *testing.T) {
	large := strings.Repeat("x", 2*worthwhile)
	for events, want := range map[string]string{"": wire.Zstd, "7": ""} {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/events?topic=a", nil)
		r.Header.Set("Accept-Encoding", wire.Zstd)
		w, end := compressedWriter(rec, r)
		w.Header().Set("Content-Type", wire.NDJSON)
		if events != "" {
			w.Header().Set(wire.HeaderEvents, events)
		}
		for _, piece := range []string{"", large, ""} {
			if _, err := io.WriteString(w, piece); err != nil {
				t.Fatal(err)
			}
		}
		end()
		if got := rec.Header().Get("Content-Encoding"); got != want || (want != "") != (rec.Body.Len() < len(large)/3) {
			t.Errorf("with %q events: %q, %d bytes of %d", events, got, rec.Body.Len(), len(large))
		}
	}
}
