package client

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// Servers that fail at random, in every way that is known, beside one that only fails now and
// then: syncs and tails get every event once and in order, and leave nothing running.
func TestServersModel(t *testing.T) {
	first := rand.Uint64()
	for i := range uint64(longtest.Scale(3, 20, 200)) {
		t.Run(fmt.Sprintf("seed %d", first+i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runServersModel(t, first+i) })
		})
	}
}

func runServersModel(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	m := newMesh(t, 100, chaotic(rng.Uint64(), 60), chaotic(rng.Uint64(), 60), chaotic(rng.Uint64(), 5))
	m.use(func(cfg *Config) { cfg.PageLimit = 40 }, func(c *Client, db *cache.DB) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for range 4 {
			s, err := c.Sync(ctx, event.All, SyncOptions{})
			if err != nil || s.Span.To != m.db.Head() {
				t.Fatalf("Sync = %+v, %v", s, err)
			}
			wantWhole(t, m, db)
			m.put("alice/x", 50)
		}
		at := event.Beginning
		for ev, err := range c.Tail(ctx, event.All, TailOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			if at++; ev.ID != at {
				t.Fatalf("event %s comes as number %d", ev.ID, at)
			}
			if at == 300 || at == 310 || at == 320 {
				m.put("alice/x", 10)
			}
			if at == 330 {
				break
			}
		}
		wantWhole(t, m, db)
	})
}

// chaotic is a front that fails some percent of its requests.
func chaotic(seed uint64, percent int) front {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 1))
	flip := func(_ http.Header, b []byte) []byte { return bytes.Replace(b, []byte("xxx"), []byte("xyx"), 1) }
	faults := []front{silent, stuckAfter(100), stuckAfter(900), slow(2 << 10), lying(flip), refusingAll(421), refusingAll(409), refusingAll(410),
		refusingAll(403), refusingAll(503), aborting}
	return func(m *mesh, next http.Handler) http.Handler {
		var handlers []http.Handler
		for _, fault := range faults {
			handlers = append(handlers, fault(m, next))
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			h := next
			if rng.IntN(100) < percent {
				h = handlers[rng.IntN(len(handlers))]
				if percent < 10 { // the good one fails in passing
					h = handlers[len(handlers)-1-rng.IntN(2)]
				}
			}
			mu.Unlock()
			h.ServeHTTP(w, r)
		})
	}
}

// aborting is a front that ends connections without an answer.
func aborting(*mesh, http.Handler) http.Handler {
	return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
}
