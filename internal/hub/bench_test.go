package hub

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// manyTopics returns n topics of n/8 users such that an event of one of the users
// matches about 5.5 of them, and storages to match.
func manyTopics(b *testing.B, n int) (ts []event.Topic, storages [][2]string) {
	for i := range n {
		user := fmt.Sprintf("user%06d", i/8)
		name := [...]string{
			user, user + "/posts", user + "/posts/", user + "/po*", user + "/posts/2026",
			user + "/posts/2026/11$", user + "/likes", user + "/profile$",
		}[i%8]
		if i%8 == 7 && i < 8*100 {
			name = fmt.Sprintf("*/topic%d", i) // a few ask for any user
		}
		ts = append(ts, topics(b, name)...)
	}
	for range 1 << 16 {
		user := fmt.Sprintf("user%06d", rand.IntN(max(n/8, 1)))
		path := [...]string{"posts/2026/11", "posts/2026/12", "posts/2026/11", "posts/1"}[rand.IntN(4)]
		storages = append(storages, [2]string{user, path})
	}
	return ts, storages
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1e3, 1e5, 1e6} {
		ts, storages := manyTopics(b, n)
		b.Run(fmt.Sprintf("subs=%d", n), func(b *testing.B) { benchMatch(b, ts, storages) })
	}
	// All of one user, each of another path: only the tree.
	ts, storages := onePerPath(b, 1e6)
	b.Run("user=1/subs=1000000", func(b *testing.B) { benchMatch(b, ts, storages) })
}

func onePerPath(b *testing.B, n int) (ts []event.Topic, storages [][2]string) {
	for i := range n {
		ts = append(ts, topics(b, fmt.Sprintf("a/rooms/%06d%s", i, [...]string{"", "/", "*", "$"}[i%4]))...)
	}
	for range 1 << 16 {
		storages = append(storages, [2]string{"a", fmt.Sprintf("rooms/%06d", rand.IntN(n))})
	}
	return ts, storages
}

func benchMatch(b *testing.B, ts []event.Topic, storages [][2]string) {
	h := New(&log{}, 0, Config{})
	before := heap()
	for i := range ts {
		h.Subscribe(ts[i:i+1], 0)
	}
	perSub := float64(heap()-before) / float64(len(ts))
	var hits []ref
	total, i := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		at := storages[i&(1<<16-1)]
		hits = h.table.matchStorage(hits[:0], at[0], at[1])
		total += len(hits)
		i++
	}
	b.ReportMetric(float64(total)/float64(i), "matches/op")
	b.ReportMetric(perSub, "B/sub")
	runtime.KeepAlive(ts)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkSubscribeAndClose(b *testing.B) {
	for _, n := range []int{1e3, 1e6} {
		b.Run(fmt.Sprintf("subs=%d", n), func(b *testing.B) {
			ts, _ := manyTopics(b, n)
			h := New(&log{}, 0, Config{})
			for i := range ts {
				h.Subscribe(ts[i:i+1], 0)
			}
			i := 0
			for b.Loop() {
				h.Subscribe(ts[i%n:i%n+1], 0).Close()
				i++
			}
		})
	}
}

// BenchmarkLeaveCrowd closes a subscription to a topic that 100,000 others subscribe to.
func BenchmarkLeaveCrowd(b *testing.B) {
	h := New(&log{}, 0, Config{})
	all := topics(b, "*")
	var subs []*Subscription
	for range 100_000 {
		subs = append(subs, h.Subscribe(all, 0))
	}
	i := 0
	for b.Loop() {
		subs[i%len(subs)].Close()
		subs[i%len(subs)] = h.Subscribe(all, 0)
		i += 7919
	}
}

// BenchmarkFanOut sends one event, in commits of some size, to a number of sleeping readers,
// until all have it.
func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		for _, size := range []int{1, 64, 1000} {
			b.Run(fmt.Sprintf("subs=%d/commit=%d", n, size), func(b *testing.B) { benchFanOut(b, n, size) })
		}
	}
}

func benchFanOut(b *testing.B, n, size int) {
	h := New(&empty{}, 0, Config{})
	ctx, stop := context.WithCancel(b.Context())
	var readers, given sync.WaitGroup
	batches := make([]int, n)
	for i := range n {
		s := h.Subscribe(topics(b, "a/p"), 0)
		if _, err := s.Next(ctx); err != nil {
			b.Fatal(err)
		}
		readers.Go(func() {
			for {
				batch, err := s.Next(ctx)
				if err != nil {
					return
				}
				batches[i]++
				given.Add(-len(batch.Events))
			}
		})
	}
	id := event.ID(1)
	evs := make([]event.Event, size)
	b.ReportAllocs()
	for b.Loop() {
		for i := range evs {
			evs[i] = newEvent(id, "a", "p/q")
			id++
		}
		given.Add(n * size)
		h.Publish(evs, id-1)
		given.Wait()
	}
	stop()
	readers.Wait()
	total := 0
	for _, got := range batches {
		total += got
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n*size), "ns/delivery")
	b.ReportMetric(float64(b.N*n*size)/float64(total), "events/batch")
}

// An empty Source must not be read in a benchmark.
type empty struct{}

func (*empty) Read(context.Context, []event.Topic, event.ID, event.ID, int) ([]event.Event, event.ID, error) {
	panic("read")
}

// BenchmarkPush is the cost of one event for each of its subscriptions if none of them reads:
// their queues fill up and are emptied.
func BenchmarkPush(b *testing.B) {
	h := New(&empty{}, 0, Config{})
	for range 1000 {
		s := h.Subscribe(topics(b, "a/p"), 0)
		if _, err := s.Next(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	ev := newEvent(1, "a", "p/q")
	for b.Loop() {
		for _, s := range h.table.all.subs {
			s.enqueue(&ev, event.Point{})
		}
		ev.ID++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*1000), "ns/push")
}
