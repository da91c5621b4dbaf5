package bench

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// What the limits of storage are, in results.
const (
	rawRows     = "raw rows"
	plainFile   = "plain file"
	randomReads = "random reads of raw rows"
)

// Raw rows are lines in a table without an index besides its key, in a file with the
// PRAGMAs of a log. The driver is the one that package cache registers.
const (
	rawPragmas = "?_pragma=auto_vacuum(2)&_pragma=journal_mode(wal)&_pragma=synchronous(full)" +
		"&_pragma=cache_size(-16384)&_pragma=journal_size_limit(16777216)&_pragma=wal_autocheckpoint(4000)"
	rawTable = `CREATE TABLE row (id INTEGER PRIMARY KEY, storage INTEGER NOT NULL, line TEXT NOT NULL) STRICT`
)

// openRaw creates a file for raw rows in dir.
func openRaw(ctx context.Context, dir string) (*sql.DB, error) {
	name := (&url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(dir, "raw.db"))}).String()
	db, err := sql.Open("sqlite", name+rawPragmas)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, rawTable); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// RawInserts inserts events as raw rows into a new file in dir, and returns how long that
// took. A transaction has up to most events and is synced to disk.
func RawInserts(ctx context.Context, dir string, evs []event.Event, most int) (elapsed time.Duration, err error) {
	db, err := openRaw(ctx, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
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
	stmt, err := tx.PrepareContext(ctx, `INSERT INTO row (id, storage, line) VALUES (?, ?, ?)`)
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

// FileWrites writes the lines of events to a new file in dir, and returns how long that
// took. Each time up to most events are written in one piece and synced to disk.
func FileWrites(dir string, evs []event.Event, most int) (elapsed time.Duration, err error) {
	f, err := os.Create(filepath.Join(dir, "plain.jsonl"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var buf []byte
	start := time.Now()
	for len(evs) > 0 {
		n := min(len(evs), most)
		buf = buf[:0]
		for i := range evs[:n] {
			buf = append(append(buf, evs[i].Line()...), '\n')
		}
		if _, err := f.Write(buf); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		evs = evs[n:]
	}
	return time.Since(start), nil
}

// RandomReads reads the raw rows with the given ids in that order, as SQLite does it
// fastest: it looks up many ids in one query, which returns their lines joined. The rows
// must exist.
func RandomReads(ctx context.Context, db *sql.DB, ids []event.ID) (elapsed time.Duration, err error) {
	const together = 1000
	read := 0
	start := time.Now()
	for rest := ids; len(rest) > 0; {
		n := min(len(rest), together)
		list := []byte{'['}
		for i, id := range rest[:n] {
			if i > 0 {
				list = append(list, ',')
			}
			list = strconv.AppendInt(list, int64(id), 10)
		}
		var lines []byte
		err := db.QueryRowContext(ctx, `SELECT group_concat(r.line, char(10)) FROM json_each(?) AS j CROSS JOIN row AS r ON r.id = j.value`,
			string(append(list, ']'))).Scan(&lines)
		if err != nil {
			return 0, err
		}
		read += 1 + bytes.Count(lines, []byte{'\n'})
		rest = rest[n:]
	}
	elapsed = time.Since(start)
	if read != len(ids) {
		return 0, fmt.Errorf("read %d of %d raw rows", read, len(ids))
	}
	return elapsed, nil
}
