package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A discarded is a response that nobody reads.
type discarded struct {
	header http.Header
	status int
	bytes  int
}

func (d *discarded) Header() http.Header    { return d.header }
func (d *discarded) WriteHeader(status int) { d.status = status }
func (d *discarded) Flush()                 {}

func (d *discarded) Write(b []byte) (int, error) {
	d.bytes += len(b)
	return len(b), nil
}

// BenchmarkReplay reads the whole history of a log on disk, without a network.
func BenchmarkReplay(b *testing.B) {
	const events, batch = 50_000, 1000
	db, err := cache.Open(b.Context(), filepath.Join(b.TempDir(), "log.db"), cache.Config{Role: cache.Server, Log: logName})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	for i := range events / batch {
		ds := make([]event.Draft, batch)
		for j := range ds {
			ds[j] = event.Draft{User: "alice", Path: fmt.Sprintf("posts/%d", j), Type: event.Put, Key: fmt.Sprintf("key%d", i*batch+j),
				Value: []byte(`{"title":"hello","body":"a post of some words, about as many as most","n":42}`)}
		}
		if _, err := db.Append(b.Context(), ds); err != nil {
			b.Fatal(err)
		}
	}
	srv := New(db, Config{})
	defer srv.Stop()
	for _, form := range []struct{ name, topic, accept string }{
		{"stream", "alice", wire.SSE},
		{"all", "*", wire.SSE},
		{"lines", "alice", wire.NDJSON},
	} {
		b.Run(form.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/events?since=beginning&until=now&topic="+form.topic, nil)
				r.Header.Set("Accept", form.accept)
				w := &discarded{header: http.Header{}, status: http.StatusOK}
				srv.ServeHTTP(w, r)
				if w.status != http.StatusOK || w.bytes < 200*events {
					b.Fatalf("status %d, %d bytes", w.status, w.bytes)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*events), "ns/event")
		})
	}
}
