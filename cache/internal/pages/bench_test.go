package pages

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Each benchmark does the same with rows by id and with pages, one after the other:
//
//	go test ./cache/internal/pages -run - -bench . -benchtime 1x
const (
	benchEvents = 100_000
	benchBatch  = 1000
	benchSize   = 52 // a line of 273 bytes
)

// A workload is some batches of events, in the order in which they are stored.
type workload struct {
	evs      [][]event.Event
	storages [][]int64
}

// newWorkload pulls topics in turn, each of which has one storage; the ids of all are step
// apart.
func newWorkload(topics int, step event.ID) (w workload) {
	for done := 0; done < benchEvents; {
		from := event.ID(done/(topics*benchBatch)*topics*benchBatch) * step
		for topic := range topics {
			evs := make([]event.Event, benchBatch)
			storages := make([]int64, benchBatch)
			for i := range evs {
				id := from + (event.ID(i*topics+topic))*step + 1
				evs[i], storages[i] = madeEvent(id, int64(topic+1), benchSize), int64(topic+1)
			}
			w.evs, w.storages = append(w.evs, evs), append(w.storages, storages)
			done += benchBatch
		}
	}
	return w
}

func (w *workload) len() int { return len(w.evs) * benchBatch }

// A layout stores a batch of events in a transaction.
type layout struct {
	name  string
	store func(h *handle, tx *sql.Tx, evs []event.Event, storages []int64) error
}

// insertRows stores events as rows of a table of the benchmarks, by id.
func insertRows(h *handle, tx *sql.Tx, evs []event.Event, storages []int64) error {
	for i := range evs {
		_, err := h.file.Exec(tx, `INSERT INTO bench_row (id, storage, line) VALUES (?, ?, CAST(? AS TEXT))`,
			int64(evs[i].ID), storages[i], evs[i].Line())
		if err != nil {
			return err
		}
	}
	return nil
}

var rawRows = layout{"rows", func(h *handle, tx *sql.Tx, evs []event.Event, storages []int64) error {
	return insertRows(h, tx, evs, storages)
}}

var copies = []layout{rawRows, {"pages", func(h *handle, tx *sql.Tx, evs []event.Event, storages []int64) error {
	_, _, err := h.Store(tx, evs, storages)
	return err
}}}

var servers = []layout{rawRows, {"pages", func(h *handle, tx *sql.Tx, evs []event.Event, storages []int64) error {
	_, err := h.Append(tx, evs, storages)
	return err
}}}

// openBench opens a new file that has the table of rows, too.
func openBench(b *testing.B) *handle {
	h := openTables(b)
	h.update(b, func(tx *sql.Tx) error {
		_, err := tx.Exec(`CREATE TABLE bench_row (id INTEGER PRIMARY KEY, storage INTEGER NOT NULL, line TEXT NOT NULL) STRICT`)
		return err
	})
	return h
}

func (l *layout) storeAll(b *testing.B, h *handle, w *workload) {
	for i := range w.evs {
		h.update(b, func(tx *sql.Tx) error { return l.store(h, tx, w.evs[i], w.storages[i]) })
	}
}

func benchStore(b *testing.B, layouts []layout, w workload) {
	for _, l := range layouts {
		b.Run(l.name, func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				h := openBench(b)
				b.StartTimer()
				l.storeAll(b, h, &w)
				b.StopTimer()
				size := h.number(b, `SELECT page_count * page_size FROM pragma_page_count, pragma_page_size`)
				lines := w.len() * len(w.evs[0][0].Line())
				b.ReportMetric(float64(size-lines)/float64(w.len()), "extra-B/event")
				b.StartTimer()
			}
			reportEach(b, w.len())
		})
	}
}

func reportEach(b *testing.B, n int) {
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/event")
}

func BenchmarkStore(b *testing.B) {
	b.Run("append", func(b *testing.B) { benchStore(b, servers, newWorkload(1, 1)) })
	b.Run("order", func(b *testing.B) { benchStore(b, copies, newWorkload(1, 1)) })
	for _, topics := range []int{14, 50, 100} {
		b.Run(fmt.Sprintf("turns=%d", topics), func(b *testing.B) { benchStore(b, copies, newWorkload(topics, 1)) })
	}
	b.Run("sparse", func(b *testing.B) { benchStore(b, copies, newWorkload(50, 20)) })
}

// benchFile has a workload in both layouts.
func benchFile(b *testing.B, w workload) *handle {
	b.Helper()
	h := openBench(b)
	for _, l := range copies {
		l.storeAll(b, h, &w)
	}
	return h
}

func scanRows(tx *sql.Tx, fn func(id event.ID, storage int64, line []byte)) error {
	rows, err := tx.Query(`SELECT id, storage, line FROM bench_row WHERE id > ? AND id <= ? ORDER BY id`, 0, event.MaxID)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id event.ID
		var storage int64
		var line []byte
		if err := rows.Scan(&id, &storage, &line); err != nil {
			return err
		}
		fn(id, storage, line)
	}
	return rows.Err()
}

func BenchmarkScan(b *testing.B) {
	for _, topics := range []int{1, 100} {
		w := newWorkload(topics, 1)
		h := benchFile(b, w)
		benchRead(b, h, fmt.Sprintf("topics=%d/rows", topics), w.len(), func(tx *sql.Tx) (n int, err error) {
			return n, scanRows(tx, func(event.ID, int64, []byte) { n++ })
		})
		benchRead(b, h, fmt.Sprintf("topics=%d/pages", topics), w.len(), func(tx *sql.Tx) (n int, err error) {
			return n, Scan(context.Background(), tx, Query{Span: everything}, func(Line) error { n++; return nil })
		})
	}
}

// benchRead measures a read of want events.
func benchRead(b *testing.B, h *handle, name string, want int, read func(tx *sql.Tx) (int, error)) {
	b.Run(name, func(b *testing.B) {
		for range b.N {
			h.view(b, func(tx *sql.Tx) error {
				n, err := read(tx)
				if err == nil && n != want {
					err = fmt.Errorf("read %d events, want %d", n, want)
				}
				return err
			})
		}
		reportEach(b, want)
	})
}

// BenchmarkLines reads 10,000 lines at random whose places are known.
func BenchmarkLines(b *testing.B) {
	w := newWorkload(1, 1)
	h := benchFile(b, w)
	var all []Posted
	h.view(b, func(tx *sql.Tx) (err error) {
		all, err = ReadPostingsOf(context.Background(), tx, []int64{1}, everything)
		return err
	})
	random := rand.New(rand.NewPCG(1, 2))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	all = all[:10_000]
	benchRead(b, h, "rows", len(all), func(tx *sql.Tx) (n int, err error) {
		for i := range all {
			var line []byte
			if err := tx.QueryRow(`SELECT line FROM bench_row WHERE id = ?`, all[i].ID).Scan(&line); err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	})
	benchRead(b, h, "pages", len(all), func(tx *sql.Tx) (n int, err error) {
		return n, ReadLines(context.Background(), tx, all, func(int, []byte) error { n++; return nil })
	})
}

// BenchmarkFind reads one line by its id, a thousand times.
func BenchmarkFind(b *testing.B) {
	for _, topics := range []int{1, 100} {
		w := newWorkload(topics, 1)
		h := benchFile(b, w)
		random := rand.New(rand.NewPCG(1, 2))
		benchRead(b, h, fmt.Sprintf("topics=%d/rows", topics), 1000, func(tx *sql.Tx) (n int, err error) {
			for ; n < 1000; n++ {
				var line []byte
				id := random.IntN(w.len()) + 1
				if err := tx.QueryRow(`SELECT line FROM bench_row WHERE id = ?`, id).Scan(&line); err != nil {
					return n, err
				}
			}
			return n, nil
		})
		benchRead(b, h, fmt.Sprintf("topics=%d/pages", topics), 1000, func(tx *sql.Tx) (n int, err error) {
			for ; n < 1000; n++ {
				line, _, err := Find(context.Background(), tx, event.ID(random.IntN(w.len())+1))
				if err != nil || line == nil {
					return n, err
				}
			}
			return n, nil
		})
	}
}

// BenchmarkTail reads ten events from random positions on.
func BenchmarkTail(b *testing.B) {
	w := newWorkload(1, 1)
	h := benchFile(b, w)
	random := rand.New(rand.NewPCG(1, 2))
	for _, dense := range []bool{false, true} {
		benchRead(b, h, fmt.Sprintf("dense=%v", dense), 1000, func(tx *sql.Tx) (n int, err error) {
			for ; n < 1000; n += 10 {
				at := event.ID(random.IntN(w.len() - 10))
				q := Query{Span: window.Span{From: at, To: at + 10}, Dense: dense}
				if err := Scan(context.Background(), tx, q, func(Line) error { return nil }); err != nil {
					return n, err
				}
			}
			return n, nil
		})
	}
}
