package client

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

var resyncEvents = flag.Int("resync.events", 20_000, "events of the topic that is synced again; 1000000 is the goal's size")

// A talk is one request and its response, without headers.
type talk struct {
	query string
	body  int
}

// overhear records the requests that a handler answers.
func overhear(talks *[]talk) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			*talks = append(*talks, talk{r.URL.RequestURI(), rec.Body.Len()})
			for name, values := range rec.Header() {
				w.Header()[name] = values
			}
			w.WriteHeader(rec.Code)
			w.Write(rec.Body.Bytes())
		})
	}
}

// fillLog appends n small events directly to the log's file.
func fillLog(t testing.TB, f *fixture, n int) {
	t.Helper()
	var drafts []event.Draft
	for i := range n {
		drafts = append(drafts, event.Draft{User: "alice", Path: fmt.Sprintf("posts/%d", i%1000), Type: event.Put,
			Key: fmt.Sprint(i), Value: fmt.Appendf(nil, `{"n":%d}`, i)})
		if len(drafts) == 8000 || i == n-1 {
			if _, err := f.db.Append(t.Context(), drafts); err != nil {
				t.Fatal(err)
			}
			drafts = nil
		}
	}
}

// A sync of a complete and proven topic costs one comparison: one round trip of at most
// 200 bytes each way, however large the topic is.
func TestResyncIsOneRoundTrip(t *testing.T) {
	f := newFixture(t)
	fillLog(t, f, longtest.Size(event.BlockSize+100, 5*event.BlockSize))
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	for _, topic := range []event.Topic{event.All, mustTopic(t, "alice/posts/7$")} {
		if _, err := c.Sync(t.Context(), topic, SyncOptions{}); err != nil {
			t.Fatal(err)
		}
		var talks []talk
		f.through(overhear(&talks))
		s, err := c.Sync(t.Context(), topic, SyncOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f.through(func(h http.Handler) http.Handler { return h })
		if len(talks) != 1 || s.Added != 0 || s.Windows != 0 {
			t.Fatalf("sync of %s again: %d requests, %d events, %d windows; want one request: %v", topic, len(talks), s.Added, s.Windows, talks)
		}
		if n := len(talks[0].query); n > 200 {
			t.Errorf("the query has %d bytes: %s", n, talks[0].query)
		}
		if talks[0].body > 200 {
			t.Errorf("the answer has %d bytes", talks[0].body)
		}
	}
}

// BenchmarkResync is the second sync of a complete topic, warm; -resync.events sets
// its size. second-ms is the first of them.
func BenchmarkResync(b *testing.B) {
	f := newFixture(b)
	fillLog(b, f, *resyncEvents)
	c := newTestClient(b, f.newCache(), hasty(f.http.URL))
	if _, err := c.Sync(b.Context(), event.All, SyncOptions{}); err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if _, err := c.Sync(b.Context(), event.All, SyncOptions{}); err != nil {
		b.Fatal(err)
	}
	cold := time.Since(began)
	before := c.Stats()
	b.ReportAllocs()
	for b.Loop() {
		if s, err := c.Sync(b.Context(), event.All, SyncOptions{}); err != nil || s.Added > 0 {
			b.Fatal(s, err)
		}
	}
	got := c.Stats()
	b.ReportMetric(float64(cold.Microseconds())/1e3, "second-ms")
	b.ReportMetric(float64(got.Bytes-before.Bytes)/float64(b.N), "body-B/op")
	b.ReportMetric(float64(got.Requests-before.Requests)/float64(b.N), "requests/op")
}
