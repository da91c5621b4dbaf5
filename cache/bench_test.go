package cache

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

func BenchmarkAppendBatch1000(b *testing.B) {
	db := openServer(b)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		mustAppend(b, db, drafts("alice", "posts/"+strconv.Itoa(n%50), strconv.Itoa(n), 1000)...)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(1000*n), "ns/event")
}

// BenchmarkAppendSpread1000 is the same with an event in each of 1,000 storages.
func BenchmarkAppendSpread1000(b *testing.B) {
	db := openServer(b)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		ds := make([]event.Draft, 1000)
		for i := range ds {
			ds[i] = draft("alice", "posts/"+strconv.Itoa(i), strconv.Itoa(n))
		}
		mustAppend(b, db, ds...)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(1000*n), "ns/event")
}

func BenchmarkAppendSingle64(b *testing.B) {
	db := openServer(b)
	b.ReportAllocs()
	b.SetParallelism(32) // of two processors: 64 goroutines
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			mustAppend(b, db, draft("alice", "posts/"+strconv.Itoa(int(i%50)), strconv.Itoa(int(i))))
		}
	})
}

// benchLog is a log of 1,000 storages with 100 events each.
func benchLog(b *testing.B) *DB {
	b.Helper()
	db := openServer(b)
	for i := range 100 {
		var ds []event.Draft
		for s := range 1000 {
			ds = append(ds, draft("alice", "posts/"+strconv.Itoa(s), fmt.Sprint(i, s)))
		}
		mustAppend(b, db, ds...)
	}
	return db
}

func benchRead(b *testing.B, topic string, limit, want int) {
	db := benchLog(b)
	ts := topics(b, topic)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		got := 0
		for at, head := event.Beginning, db.Head(); at < head; {
			evs, next, err := db.Read(context.Background(), ts, at, head, limit)
			if err != nil {
				b.Fatal(err)
			}
			got, at = got+len(evs), next
		}
		if got != want {
			b.Fatalf("read %d events, want %d", got, want)
		}
		n += got
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
}

func BenchmarkReadAll(b *testing.B)          { benchRead(b, "*", 1000, 100_000) }
func BenchmarkReadMany(b *testing.B)         { benchRead(b, "alice", 1000, 100_000) }
func BenchmarkReadOneOf1000(b *testing.B)    { benchRead(b, "alice/posts/77$", 1000, 100) }
func BenchmarkReadElevenOf1000(b *testing.B) { benchRead(b, "alice/posts/77*", 1000, 1100) }

func BenchmarkApply1000(b *testing.B) {
	db := openClient(b)
	l, err := db.Leases().Follow(context.Background(), topics(b, "alice"), 0)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		b.StopTimer()
		var evs []event.Event
		for id := l.Reached() + 1; len(evs) < 1000; id++ {
			evs = append(evs, madeEvent("alice", "posts/"+strconv.Itoa(int(id%50)), id))
		}
		b.StartTimer()
		if _, err := l.Apply(context.Background(), evs, l.Reached()+1000); err != nil {
			b.Fatal(err)
		}
		n += 1000
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
}

// BenchmarkRawInsert1000 measures SQLite alone on a batch like that.
func BenchmarkRawInsert1000(b *testing.B) {
	db := openServer(b)
	if err := rawExec(db, `CREATE TABLE raw_event (id INTEGER PRIMARY KEY, storage INTEGER NOT NULL, line TEXT NOT NULL) STRICT`); err != nil {
		b.Fatal(err)
	}
	line := string(madeEventLine())
	n := 0
	for b.Loop() {
		err := db.file.Update(context.Background(), func(tx *sql.Tx) error {
			stmt, err := tx.Prepare(`INSERT INTO raw_event (id, storage, line) VALUES (?, ?, ?)`)
			if err != nil {
				return err
			}
			for range 1000 {
				n++
				if _, err := stmt.Exec(n, 1, line); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
}

func madeEventLine() []byte {
	ev := madeEvent("alice", "posts/1", 1)
	return ev.Line()
}
