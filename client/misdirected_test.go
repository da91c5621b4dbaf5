package client

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A server that has said that another one has a topic is asked last about it, and about no other
// topic.
func TestMisdirectedIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var streams atomic.Int64
		others := func(m *mesh, next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/" || strings.HasPrefix(r.URL.Query().Get("topic"), "bob") {
					next.ServeHTTP(w, r)
					return
				}
				if r.Header.Get("Accept") == wire.SSE {
					streams.Add(1)
				}
				w.Header().Set(wire.HeaderLog, m.db.Log())
				wire.Errorf(http.StatusMisdirectedRequest, "no").Write(w)
			})
		}
		m := newMesh(t, 50, others, good)
		m.use(func(cfg *Config) { cfg.PageLimit = 10 }, func(c *Client, db *cache.DB) {
			alice, bob := mustTopic(t, "alice"), mustTopic(t, "bob")
			for range 3 {
				if _, err := c.Sync(t.Context(), alice, SyncOptions{}); err != nil {
					t.Fatal(err)
				}
				m.put("alice/x", 1)
			}
			if got := m.requests("a", "topic=alice"); got != 1 {
				t.Errorf("%d requests for alice went to a server that does not follow it", got)
			}
			m.put("bob/x", 10)
			if _, err := c.Sync(t.Context(), bob, SyncOptions{}); err != nil || m.requests("a", "topic=bob") == 0 {
				t.Errorf("Sync = %v, and the first server has got %d requests for bob", err, m.requests("a", "topic=bob"))
			}
			for ev, err := range c.Tail(t.Context(), alice, TailOptions{Range: Range{Since: c.momentAt(50)}}) {
				if err != nil {
					t.Fatal(err)
				}
				if ev.ID >= 53 {
					break
				}
			}
			if streams.Load() != 0 {
				t.Errorf("%d streams were asked of a server that does not follow the topic", streams.Load())
			}
			d := event.Draft{User: "alice", Path: "x", Type: event.Put, Value: []byte("1")}
			for _, d.Key = range []string{"a", "b", "c"} {
				if _, err := c.Put(t.Context(), []event.Draft{d}); err != nil {
					t.Fatal(err)
				}
			}
			if got := m.requests("a", "/set"); got != 1 {
				t.Errorf("%d appends went to it", got)
			}
			time.Sleep(misdirectedTime)
			if _, err := c.Sync(t.Context(), alice, SyncOptions{}); err != nil || m.requests("a", "topic=alice") < 2 {
				t.Errorf("Sync = %v, and it is not asked again later", err)
			}
		})
	})
}
