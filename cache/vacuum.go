package cache

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
)

// A filePages is how large a file is, its write-ahead log aside.
type filePages struct{ pages, free, page int64 }

func (s filePages) bytes() int64 { return s.pages * s.page }

// used is what the file would have if it were as small as it can be.
func (s filePages) used() int64 { return (s.pages - s.free) * s.page }

func (db *file) loadSize(ctx context.Context) (s filePages, err error) {
	err = db.viewRow(ctx, `SELECT c.page_count, f.freelist_count, s.page_size
		FROM pragma_page_count c, pragma_freelist_count f, pragma_page_size s`, nil, &s.pages, &s.free, &s.page)
	return s, err
}

// vacuumPages is how many pages one transaction gives back. Each costs about as much as
// an event.
const vacuumPages = 64

// vacuumSome moves some pages from the end of the file to where it has free ones.
func (db *file) vacuumSome(ctx context.Context) error {
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

// checkpoint copies what is in the write-ahead log into the file. It keeps nobody from
// writing.
func (db *file) checkpoint(ctx context.Context) error {
	_, err := db.read.ExecContext(ctx, `PRAGMA wal_checkpoint(PASSIVE)`)
	return db.named(orDone(ctx, err))
}

// vacuum writes the file anew, without a free page.
func (db *file) vacuum(ctx context.Context) error {
	if err := db.lock(ctx); err != nil {
		return err
	}
	defer db.unlock()
	if err := db.connectWriter(); err != nil { // statements would keep it from that
		return err
	}
	_, err := db.write.ExecContext(ctx, `VACUUM`)
	return db.named(orDone(ctx, err))
}

// shrinkPages is how many pages one transaction gives back to the disk.
const shrinkPages = 4096

// giveBack gives free pages back to the disk, a few at a time, so that no other writer
// waits long.
func (db *file) giveBack(ctx context.Context) error {
	if err := db.lock(ctx); err != nil {
		return err
	}
	defer db.unlock()
	for {
		var free, now int
		if err := db.write.QueryRowContext(ctx, `PRAGMA freelist_count`).Scan(&free); err != nil {
			return orDone(ctx, err)
		}
		if _, err := db.write.ExecContext(ctx, fmt.Sprintf(`PRAGMA incremental_vacuum(%d)`, shrinkPages)); err != nil {
			return orDone(ctx, err)
		}
		if err := db.write.QueryRowContext(ctx, `PRAGMA freelist_count`).Scan(&now); err != nil {
			return orDone(ctx, err)
		}
		if now == 0 || now >= free {
			break
		}
	}
	// The file itself becomes shorter when it gets what the write-ahead log has.
	// That readers keep it from that is no failure: it happens later.
	_, err := db.write.ExecContext(ctx, `PRAGMA wal_checkpoint(PASSIVE)`)
	return orDone(ctx, err)
}

// quickCheck has SQLite look through the structure of the whole file.
func (db *file) quickCheck(ctx context.Context) error {
	var result string
	if err := db.read.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&result); err != nil {
		return classify(err)
	}
	if result != "ok" {
		_, what, _ := strings.Cut(result, "\n") // the first line only names the database
		return fmt.Errorf("%w: %s", ErrCorrupt, cmp.Or(strings.ReplaceAll(what, "\n", "; "), result))
	}
	return nil
}
