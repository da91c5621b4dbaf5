package cache

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// A Tally counts the events fetched into a file so far, and those not fetched because
// they were held.
type Tally struct {
	Fetched  int64 // events
	Received int64 // bytes of their lines
	Saved    int64 // events requested but already held
}

// tally counts received events.
func tally(tx *sql.Tx, evs []event.Event) error {
	if len(evs) == 0 {
		return nil
	}
	bytes := 0
	for i := range evs {
		bytes += len(evs[i].Line())
	}
	return rows.CountFetched(tx, len(evs), bytes)
}

// CountSaved counts events that were requested and did not have to be fetched.
func (db *DB) CountSaved(ctx context.Context, n int64) error {
	err := db.file.Update(ctx, func(tx *sql.Tx) error { return db.file.UpdateLog(tx, countSaved, n) })
	if err != nil {
		return fmt.Errorf("count saved events: %w", err)
	}
	return nil
}

var countSaved = dbfile.LogTable.Update("saved", "saved + ?1")

// Tally returns the counts so far.
func (db *DB) Tally(ctx context.Context) (t Tally, err error) {
	err = db.file.ViewLog(ctx, `fetched, received, saved`, &t.Fetched, &t.Received, &t.Saved)
	return t, err
}
