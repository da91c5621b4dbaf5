package dbfile

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
)

// A Size is the size of a file in pages, without its write-ahead log.
type Size struct{ Pages, Free, page int64 }

// Bytes returns the size in bytes.
func (s Size) Bytes() int64 { return s.Pages * s.page }

// Used returns the bytes of the pages in use: the size of the file if it were compact.
func (s Size) Used() int64 { return (s.Pages - s.Free) * s.page }

// Size returns the size of the file.
func (f *File) Size(ctx context.Context) (s Size, err error) {
	s.page = int64(f.pageSize)
	err = f.ViewRow(ctx, `SELECT c.page_count, f.freelist_count FROM pragma_page_count c, pragma_freelist_count f`, nil, &s.Pages, &s.Free)
	return s, err
}

// vacuumBytes is how much one transaction frees. A page costs about as much as an event.
const vacuumBytes = 256 << 10

// VacuumSome moves a few pages from the end of the file to free ones.
func (f *File) VacuumSome(ctx context.Context) error {
	return f.Update(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query(`PRAGMA incremental_vacuum(` + strconv.Itoa(vacuumBytes/f.pageSize) + `)`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() { // each moves one
		}
		return rows.Err()
	})
}

// Checkpoint copies the write-ahead log into the file, without blocking writers.
func (f *File) Checkpoint(ctx context.Context) error {
	_, err := f.Read.ExecContext(ctx, `PRAGMA wal_checkpoint(PASSIVE)`)
	return f.Named(orDone(ctx, err))
}

// Vacuum rewrites the whole file without free pages.
func (f *File) Vacuum(ctx context.Context) error {
	if err := f.Lock(ctx); err != nil {
		return err
	}
	defer f.Unlock()
	if err := f.Reconnect(); err != nil { // open statements would prevent it
		return err
	}
	_, err := f.write.ExecContext(ctx, `VACUUM`)
	return f.Named(orDone(ctx, err))
}

// shrinkBytes is how much one transaction returns to the disk. It is a variable for the tests.
var shrinkBytes = 16 << 20

// GiveBack returns free pages to the disk, a few at a time, so that no other writer waits
// long, in this process or in another.
func (f *File) GiveBack(ctx context.Context) error {
	for more := true; more; {
		var err error
		if more, err = f.giveBackSome(ctx); err != nil {
			return err
		}
	}
	// The file itself shrinks when it takes over the write-ahead log. If readers prevent
	// that now, it is no failure: it happens later.
	if err := f.Lock(ctx); err != nil {
		return err
	}
	defer f.Unlock()
	_, err := f.write.ExecContext(ctx, `PRAGMA wal_checkpoint(PASSIVE)`)
	return orDone(ctx, err)
}

// giveBackSome returns some free pages to the disk, and reports whether there are more that
// it can return.
func (f *File) giveBackSome(ctx context.Context) (more bool, err error) {
	if err := f.Lock(ctx); err != nil {
		return false, err
	}
	defer f.Unlock()
	var free, now int
	if err := f.write.QueryRowContext(ctx, `PRAGMA freelist_count`).Scan(&free); err != nil {
		return false, orDone(ctx, err)
	}
	if _, err := f.write.ExecContext(ctx, fmt.Sprintf(`PRAGMA incremental_vacuum(%d)`, shrinkBytes/f.pageSize)); err != nil {
		return false, orDone(ctx, err)
	}
	if err := f.write.QueryRowContext(ctx, `PRAGMA freelist_count`).Scan(&now); err != nil {
		return false, orDone(ctx, err)
	}
	return 0 < now && now < free, nil
}

// QuickCheck has SQLite check the structure of the whole file. It returns ErrCorrupt with
// SQLite's findings.
func (f *File) QuickCheck(ctx context.Context) error {
	var result string
	if err := f.Read.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&result); err != nil {
		return Classify(err)
	}
	if result != "ok" {
		_, what, _ := strings.Cut(result, "\n") // the first line only names the database
		return fmt.Errorf("%w: %s", ErrCorrupt, cmp.Or(strings.ReplaceAll(what, "\n", "; "), result))
	}
	return nil
}

// Tables returns the names of the file's tables.
func (f *File) Tables(ctx context.Context) (names []string, err error) {
	err = f.View(ctx, func(tx *sql.Tx) error {
		names = nil
		rows, err := tx.QueryContext(ctx, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return err
			}
			names = append(names, name)
		}
		return rows.Err()
	})
	return names, err
}

// CheckTable is QuickCheck for a table and its indexes, which it compares, too.
func (f *File) CheckTable(ctx context.Context, name string) error {
	var result string
	if err := f.Read.QueryRowContext(ctx, `SELECT integrity_check FROM pragma_integrity_check(?) LIMIT 1`, name).Scan(&result); err != nil {
		return f.Named(orDone(ctx, err))
	}
	if result != "ok" {
		return f.Named(fmt.Errorf("%w: table %s: %s", ErrCorrupt, name, strings.ReplaceAll(result, "\n", "; ")))
	}
	return nil
}
