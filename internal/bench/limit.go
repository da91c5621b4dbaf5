package bench

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// Nothing returns a handler that does as little as possible: it answers each POST with
// a line, and GET /?events=N streams events from memory. Events posted below /broadcast
// go to every reader of /broadcast/events.
func Nothing() http.Handler {
	line := Input{User: "bench", Run: "limit"}.Events(1)[0].Line()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(line) // the client may have disconnected
	})
	mux.HandleFunc("GET /", streamNothing)
	b := &broadcaster{subs: make(map[*outgoing]struct{})}
	mux.HandleFunc("POST /broadcast/{path...}", b.post)
	mux.HandleFunc("GET /broadcast/events", b.stream)
	return mux
}

func streamNothing(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.FormValue("events"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	frames := streamOf(1000)
	w.Header().Set("Content-Type", "text/event-stream")
	for ; n >= 1000; n -= 1000 {
		if _, err := w.Write(frames); err != nil {
			return
		}
	}
	_, _ = w.Write(streamOf(n)) // the client may have disconnected
}

// streamOf returns the first n events of an input as an event stream.
func streamOf(n int) (frames []byte) {
	for _, ev := range (Input{User: "bench", Run: "limit"}).Events(n) {
		frames = fmt.Appendf(frames, "id: %s.00000\nevent: PUT\ndata: %s\n\n", ev.ID, ev.Line())
	}
	return frames
}

// RawInserts inserts events into a new SQLite file in dir, without an index, and returns
// how long that took. A transaction has up to most events and is synced to disk. The driver
// is the one that package cache registers, with its defaults.
func RawInserts(ctx context.Context, dir string, evs []event.Event, most int) (elapsed time.Duration, err error) {
	name := (&url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(dir, "raw.db"))}).String()
	db, err := sql.Open("sqlite", name+"?_pragma=journal_mode(wal)&_pragma=synchronous(full)")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, `CREATE TABLE event (id INTEGER PRIMARY KEY, storage INTEGER NOT NULL, line TEXT NOT NULL) STRICT`); err != nil {
		return 0, err
	}
	start := time.Now()
	for len(evs) > 0 {
		n := min(len(evs), most)
		if err := insertRaw(ctx, db, evs[:n]); err != nil {
			return 0, err
		}
		evs = evs[n:]
	}
	return time.Since(start), nil
}

func insertRaw(ctx context.Context, db *sql.DB, evs []event.Event) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	stmt, err := tx.PrepareContext(ctx, `INSERT INTO event (id, storage, line) VALUES (?, ?, ?)`)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for i := range evs {
		if _, err := stmt.ExecContext(ctx, int64(evs[i].ID), i%storages, string(evs[i].Line())); err != nil {
			return err
		}
	}
	return tx.Commit()
}
