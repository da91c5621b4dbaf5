package source

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
)

// An event like those of Wikimedia, in length and shape.
const benchEvent = `{"meta":{"id":"0123456789-%d","domain":"en.wikipedia.org","stream":"mediawiki.recentchange"},"id":%d,"type":"edit","namespace":0,"title":"A title","comment":"a comment","timestamp":1763640000,"user":"Somebody","bot":false,"length":{"old":1000,"new":1020}}`

// BenchmarkFollow measures the whole way of an event, from a local stream to the file. Use
// the time of the process, not of the wall, on a busy machine.
func BenchmarkFollow(b *testing.B) {
	for _, bb := range []struct {
		name string
		m    Mapping
	}{{"plain", Mapping{}}, {"expressions", Mapping{User: ".meta.domain", Path: ".meta.stream", Where: ".bot | not"}}} {
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
			b.ResetTimer()
			begun := processTime(b)
			if _, err := Follow(b.Context(), cfg); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64((processTime(b)-begun).Microseconds())/float64(b.N), "CPU-µs/op")
			if int(db.Head()) != b.N {
				b.Errorf("%d events of %d", db.Head(), b.N)
			}
		})
	}
}
