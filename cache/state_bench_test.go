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
	l, _, err := db.Leases().Claim(ctx, []event.Topic{event.All}, window.Span{To: head})
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

// benchState reads the state at random moments, and reports the time to its end and to its
// first event, on average and at most.
func benchState(b *testing.B, storages int) {
	db, head := stateCopy(b, storages)
	topic := topics(b, "us/quakes")[0]
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	var all, first, slowest, slowestFirst time.Duration
	members := 0
	for b.Loop() {
		at := head/2 + event.ID(rng.Int64N(int64(head/2)))
		start, n := time.Now(), 0
		err := db.State(context.Background(), topic, at, func(*event.Event) error {
			if n++; n == 1 {
				took := time.Since(start)
				first, slowestFirst = first+took, max(slowestFirst, took)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(start)
		members, all, slowest = n, all+took, max(slowest, took)
	}
	report := func(name string, d time.Duration) { b.ReportMetric(float64(d.Microseconds())/1000, name) }
	b.ReportMetric(float64(members), "members")
	report("ms-mean", all/time.Duration(b.N))
	report("ms-slowest", slowest)
	report("ms-first", first/time.Duration(b.N))
	report("ms-first-slowest", slowestFirst)
}

func BenchmarkStateOf100(b *testing.B)   { benchState(b, 100) }
func BenchmarkStateOf10000(b *testing.B) { benchState(b, 10_000) }
func BenchmarkStateOfEach(b *testing.B)  { benchState(b, *stateEvents) }

// benchSeals seals the states of a growing log, and reports the time per event.
func benchSeals(b *testing.B, storages int) {
	const together = 2000
	db := openServer(b)
	var sealing time.Duration
	n := 0
	for b.Loop() {
		ds := make([]event.Draft, together)
		for i := range ds {
			ds[i] = draft("us", fmt.Sprintf("quakes/%07d", (n+i)*7919%storages), fmt.Sprint(n+i))
		}
		mustAppend(b, db, ds...)
		n += together
		start := time.Now()
		mustSeal(b, db, event.All)
		sealing += time.Since(start)
	}
	b.ReportMetric(float64(sealing.Nanoseconds())/float64(n), "ns-sealing/event")
}

func BenchmarkSealsOf1000(b *testing.B)  { benchSeals(b, 1000) }
func BenchmarkSealsOf10000(b *testing.B) { benchSeals(b, 10_000) }
