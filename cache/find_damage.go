package cache

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/pages"
)

// FindDamage reads all pages and postings of the file once and calls fn with each whose
// checksum differs, which Damaged counts from then on, and with what SQLite cannot read. It
// holds no transaction for long, and pauses for nine times as long as it works: a million
// events take some seconds. CheckContents checks more, and does not pause.
func (db *DB) FindDamage(ctx context.Context, fn func(error)) error {
	return db.findDamage(ctx, fn, func(worked time.Duration) error { return pause(ctx, 9*worked) })
}

func (db *DB) findDamage(ctx context.Context, fn func(error), rest func(worked time.Duration) error) error {
	c := pages.Checking{SumsOnly: true, Storages: map[int64]map[int64]bool{}}
	c.Found = func(damage *pages.DamageError) error {
		fn(db.file.Named(damage))
		return nil
	}
	steps := []func(tx *sql.Tx) (done bool, err error){
		func(tx *sql.Tx) (bool, error) { return c.CheckPages(ctx, tx, 0) },
		func(tx *sql.Tx) (bool, error) { return c.CheckPostings(ctx, tx) },
	}
	for _, step := range steps {
		for done := false; !done; {
			began := time.Now()
			err := db.file.View(ctx, func(tx *sql.Tx) (err error) {
				done, err = step(tx)
				return err
			})
			if errors.Is(err, ErrCorrupt) {
				fn(err)
				break // there is no way past it but that of CheckContents
			}
			if err == nil {
				err = rest(time.Since(began))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
