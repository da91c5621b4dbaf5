package cache

import (
	"context"
	"database/sql"
	"strconv"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// A filePages is how large a file is, its write-ahead log aside.
type filePages struct{ pages, free, page int64 }

func (s filePages) bytes() int64 { return s.pages * s.page }

// used is what the file would have if it were as small as it can be.
func (s filePages) used() int64 { return (s.pages - s.free) * s.page }

func (db *DB) loadSize(ctx context.Context) (s filePages, err error) {
	err = db.read.QueryRowContext(ctx, `SELECT c.page_count, f.freelist_count, s.page_size
		FROM pragma_page_count c, pragma_freelist_count f, pragma_page_size s`).Scan(&s.pages, &s.free, &s.page)
	return s, db.named(orDone(ctx, err))
}

// fit moves the horizon on, a block at a time, until what the file uses fits. Below the
// horizon stay the state and the hashes: if these alone are too large, all sealed history
// goes.
func (r *retainer) fit(ctx context.Context) error {
	for {
		size, err := r.db.loadSize(ctx)
		if err != nil || size.used() <= r.cfg.MaxBytes {
			return err
		}
		at, err := r.db.loadRetained(ctx)
		if err != nil {
			return err
		}
		next := at.horizon + event.BlockSize
		if next > at.indexed {
			return nil
		}
		if err := r.db.moveHorizon(ctx, next); err != nil {
			return err
		}
		if err := r.drop(ctx); err != nil {
			return err
		}
	}
}

// Pages that are free are left for what is appended, so long as they are no more than
// these and one in shrinkShare.
const (
	shrinkLeast = 256
	shrinkShare = 8
)

// vacuumPages is how many pages one transaction gives back. Each costs about as much as
// an event.
const vacuumPages = 64

// shrink gives free pages back to the file system.
func (r *retainer) shrink(ctx context.Context) error {
	for shrunk := false; ; shrunk = true {
		size, err := r.db.loadSize(ctx)
		if err != nil {
			return err
		}
		many := size.free > shrinkLeast && size.free > size.pages/shrinkShare
		large := r.cfg.MaxBytes > 0 && size.bytes() > r.cfg.MaxBytes && size.free > 0
		if !many && !large {
			return r.truncate(ctx, shrunk)
		}
		began := time.Now()
		if err := r.db.vacuumSome(ctx); err != nil {
			return err
		}
		if after, err := r.db.loadSize(ctx); err != nil || after.free >= size.free {
			return err // a file that another program has made
		}
		if err := r.rest(ctx, time.Since(began)); err != nil {
			return err
		}
	}
}

// vacuumSome moves some pages from the end of the file to where it has free ones.
func (db *DB) vacuumSome(ctx context.Context) error {
	return db.update(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query(`PRAGMA incremental_vacuum(` + strconv.Itoa(vacuumPages) + `)`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() { // each moves one
		}
		return rows.Err()
	})
}

// truncate brings what has been given back from the write-ahead log into the file. It
// keeps nobody from writing.
func (r *retainer) truncate(ctx context.Context, shrunk bool) error {
	if !shrunk {
		return nil
	}
	return r.checkpoint(ctx)
}

// checkpoint copies what is in the write-ahead log into the file. It keeps nobody from
// writing.
func (r *retainer) checkpoint(ctx context.Context) error {
	_, err := r.db.read.ExecContext(ctx, `PRAGMA wal_checkpoint(PASSIVE)`)
	return r.db.named(orDone(ctx, err))
}
