package source

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// An event like those of Wikimedia, in length and shape.
const benchEvent = `{"meta":{"id":"0123456789-%d","domain":"en.wikipedia.org","stream":"mediawiki.recentchange"},"id":%d,"type":"edit","namespace":0,"title":"A title","comment":"a comment","timestamp":1763640000,"user":"Somebody","bot":false,"length":{"old":1000,"new":1020}}`

// BenchmarkFollow measures the whole way of an event, from a local stream to the file, without
// expressions and with three, and reading it alone: the response is made before. Use the time of
// the process, not of the wall, on a busy machine.
func BenchmarkFollow(b *testing.B) {
	for _, bb := range []struct {
		name string
		m    Mapping
	}{{"parse", Mapping{}}, {"plain", Mapping{}}, {"expressions", Mapping{User: ".meta.domain", Path: ".meta.stream", Where: ".bot | not"}}} {
		b.Run(bb.name, func(b *testing.B) {
			var stream bytes.Buffer
			for i := range b.N {
				fmt.Fprintf(&stream, "event: message\nid: %d\ndata: "+benchEvent+"\n\n", i+1, i, i)
			}
			stream.WriteString(endBlock)
			address := serveFunc(b, func(w http.ResponseWriter, _ *http.Request) { w.Write(stream.Bytes()) })
			db := newLog(b)
			cfg := followConfig(b, address, "sse", db)
			var err error
			if cfg.Mapper, err = NewMapper("src", bb.m); err != nil {
				b.Fatal(err)
			}
			measureEvents(b, func() {
				if bb.name == "parse" {
					readFrames(b, &cfg)
				} else if _, err := Follow(b.Context(), cfg); err != nil {
					b.Fatal(err)
				}
			})
			if bb.name != "parse" && int(db.Head()) != b.N {
				b.Errorf("%d events of %d", db.Head(), b.N)
			}
		})
	}
}

// measureEvents calls fn, which takes b.N events.
func measureEvents(b *testing.B, fn func()) {
	b.ResetTimer()
	begun := processTime(b)
	fn()
	b.StopTimer()
	b.ReportMetric(float64((processTime(b)-begun).Microseconds())/float64(b.N), "CPU-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// readFrames reads b.N frames of a source, and stores nothing.
func readFrames(b *testing.B, cfg *FollowConfig) {
	conn, err := cfg.connect(b.Context(), "", false)
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		if _, err := conn.next(); err != nil {
			b.Fatal(err)
		}
	}
	conn.close()
}

// BenchmarkUpstream measures the whole way of an event of an rstream server to the file of a
// relay, and reading it alone: the response is made before.
func BenchmarkUpstream(b *testing.B) {
	const log = "K7Q2M4X9C0V3B8RT"
	at := func(n int) string { return event.CursorOf(event.ID(n), log).String() }
	stream := func(n int) []byte {
		var stream bytes.Buffer
		for i := 1; i <= n; i++ {
			d := event.Draft{User: "alice", Path: fmt.Sprint("posts/", i%100), Type: event.Put, Key: fmt.Sprint("k", i), Value: []byte(`{"text":"something of a usual length"}`)}
			ev := event.New(event.ID(i), 1, d, d.Hash())
			fmt.Fprintf(&stream, "id: %s\nevent: PUT\ndata: %s\n\n", at(i), ev.Line())
		}
		fmt.Fprintf(&stream, "id: %s\nevent: live\ndata: {}\n\n", at(n))
		return stream.Bytes()
	}
	for _, name := range []string{"parse", "store"} {
		b.Run(name, func(b *testing.B) {
			body := stream(b.N)
			address := serveFunc(b, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Rstream-Log", log)
				w.Header().Set("Rstream-From", at(0))
				_, _ = w.Write(body)
			})
			db := newLog(b)
			cfg := upstreamConfig(b, "lab", address, db)
			measureEvents(b, func() {
				if name == "parse" {
					readFrames(b, &cfg)
				} else if _, err := Follow(b.Context(), cfg); err != nil {
					b.Fatal(err)
				}
			})
			if name == "store" && int(db.Head()) != b.N {
				b.Errorf("%d events of %d", db.Head(), b.N)
			}
		})
	}
}
