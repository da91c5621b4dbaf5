package cache

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

var stateEvents = flag.Int("state.events", 100_000, "events of the copy that the state benchmarks read")

// stateCopy is a copy that holds a log in which the events of some storages take
// turns, with its states sealed.
func stateCopy(b *testing.B, storages int) (*DB, event.ID) {
	b.Helper()
	db := openClient(b)
	ctx := context.Background()
	head := event.ID(*stateEvents)
	l, _, err := db.Claim(ctx, []event.Topic{event.All}, window.Span{To: head})
	if err != nil {
		b.Fatal(err)
	}
	for at := l.Reached(); at < head; at = l.Reached() {
		to := min(at+5000, head)
		var evs []event.Event
		for id := at + 1; id <= to; id++ {
			evs = append(evs, madeEvent("us", fmt.Sprintf("quakes/%07d", int(id)*7919%storages), id))
		}
		if _, err := l.Apply(ctx, evs, to); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Commit(ctx); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	mustSeal(b, db, event.All)
	b.Logf("sealing took %s, %d ns an event", time.Since(start), time.Since(start).Nanoseconds()/int64(head))
	return db, head
}

// benchState reads the state at random moments: how long the whole takes, and how
// long the first of it.
func benchState(b *testing.B, storages int) {
	db, head := stateCopy(b, storages)
	topic := topics(b, "us/quakes")[0]
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	var first, slowest time.Duration
	members := 0
	for b.Loop() {
		at := head/2 + event.ID(rng.Int64N(int64(head/2)))
		start, n := time.Now(), 0
		err := db.State(context.Background(), topic, at, func(*event.Event) error {
			if n++; n == 1 {
				first += time.Since(start)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		members, slowest = n, max(slowest, time.Since(start))
	}
	b.ReportMetric(float64(members), "members")
	b.ReportMetric(float64(first.Microseconds())/1000/float64(b.N), "ms-first")
	b.ReportMetric(float64(slowest.Microseconds())/1000, "ms-slowest")
}

func BenchmarkStateOf100(b *testing.B)   { benchState(b, 100) }
func BenchmarkStateOf10000(b *testing.B) { benchState(b, 10_000) }
func BenchmarkStateOfEach(b *testing.B)  { benchState(b, *stateEvents) }
