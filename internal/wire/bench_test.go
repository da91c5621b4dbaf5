package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// pageOf returns a page of events as most are.
func pageOf(n int) (evs []event.Event) {
	for i := range n {
		d := event.Draft{User: "alice", Path: fmt.Sprintf("posts/%d", i), Type: event.Put, Key: fmt.Sprintf("key%d", i),
			Value: []byte(`{"title":"hello","body":"a post of some words","n":42}`)}
		evs = append(evs, event.New(event.ID(i+1), 1_795_168_800_000_000+event.Time(i), d, d.Hash()))
	}
	return evs
}

const benchPage = 1000

// perEvent reports what each event of a page costs.
func perEvent(b *testing.B, size int) {
	b.SetBytes(int64(size))
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*benchPage), "ns/event")
}

// BenchmarkAppendEvent is 1,000 events as SSE.
func BenchmarkAppendEvent(b *testing.B) {
	evs := pageOf(benchPage)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = buf[:0]
		for i := range evs {
			buf = AppendEvent(buf, &evs[i], "K7Q2M4X9C0V3B8RT")
		}
	}
	perEvent(b, len(buf))
}

// BenchmarkAppendPage is 1,000 events as one JSON object.
func BenchmarkAppendPage(b *testing.B) {
	var lines []byte
	for _, ev := range pageOf(benchPage) {
		lines = append(ev.AppendLine(lines), '\n')
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendPage(buf[:0], lines, PageEnd{})
	}
	perEvent(b, len(buf))
}

// BenchmarkReadLines splits NDJSON into 1,000 lines, parses and checks them, as a client does
// with a page before it stores it.
func BenchmarkReadLines(b *testing.B) {
	var page []byte
	for _, ev := range pageOf(benchPage) {
		page = append(ev.AppendLine(page), '\n')
	}
	b.ReportAllocs()
	for b.Loop() {
		lines := NewLineReader(bytes.NewReader(page), MaxLine)
		for {
			line, err := lines.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				_, err = event.ParseLine(line)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	perEvent(b, len(page))
}
