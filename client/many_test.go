package client

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A narrow proxy refuses request lines over 8 KiB, as nginx does, and counts the requests
// that it forwards.
type narrow struct {
	next             http.Handler
	gets, posts, too atomic.Int64
	cut              atomic.Bool // the next stream that is posted is cut off
}

func (n *narrow) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case len(r.Method)+len(r.RequestURI)+len("  HTTP/1.1\r\n") > 8<<10:
		n.too.Add(1)
		http.Error(w, "<h1>414 Request-URI Too Large</h1>", http.StatusRequestURITooLong)
		return
	case !strings.HasPrefix(r.URL.Path, "/events"):
	case r.Method == http.MethodPost:
		n.posts.Add(1)
	default:
		n.gets.Add(1)
	}
	if r.Header.Get("Accept") == wire.SSE && r.Method == http.MethodPost && n.cut.Swap(false) {
		panic(http.ErrAbortHandler)
	}
	n.next.ServeHTTP(w, r)
}

// longTopics returns topics of which 40 are too long for a request line.
func longTopics(t *testing.T, n int) (topics []event.Topic) {
	for i := range n {
		topics = append(topics, mustTopic(t, fmt.Sprintf("did:plc:longidentifier%010d/app.feed.%0200d", i, i)))
	}
	return topics
}

// Topics that do not fit a URL can be followed through a proxy that refuses long URLs,
// without missing an event, even after a cut. A few topics stay in the URL.
func TestManyTopicsThroughProxy(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	proxy := &narrow{}
	f.through(func(next http.Handler) http.Handler {
		proxy.next = next
		return proxy
	})
	topics := longTopics(t, 40)
	storage := func(i int) string { return strings.TrimSuffix(topics[i].String(), "/") + "/1" }
	for i := 0; i < len(topics); i += 10 {
		f.put(storage(i), 1)
	}
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	proxy.cut.Store(true)
	n := 0
	for b, err := range c.Batches(t.Context(), topics, TailOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n += len(b.Events); n == 4 {
			f.put(storage(39), 1) // live
		}
		if n >= 5 {
			break
		}
	}
	if n != 5 || proxy.too.Load() != 0 || proxy.posts.Load() < 2 || proxy.cut.Load() {
		t.Errorf("%d events, %d requests were too long, %d POST, not cut %v", n, proxy.too.Load(), proxy.posts.Load(), proxy.cut.Load())
	}
	posts, gets := proxy.posts.Load(), proxy.gets.Load()
	few := newTestClient(t, f.newCache(), hasty(f.http.URL))
	for _, err := range few.Batches(t.Context(), topics[:5], TailOptions{UntilLive: true}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if proxy.posts.Load() != posts || proxy.gets.Load() == gets {
		t.Errorf("5 topics took %d POST and %d GET", proxy.posts.Load()-posts, proxy.gets.Load()-gets)
	}
}
