package rows

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// ParseMark parses a stored mark; an empty one is unknown, and zero.
func ParseMark(s string) (event.Mark, error) {
	if s == "" {
		return 0, nil
	}
	m, err := event.ParseMark(s)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", dbfile.ErrCorrupt, err)
	}
	return m, nil
}

// NoteMark keeps the mark that a server has sent for a position of a copy, if it is the
// newest one so far. It belongs in the transaction that makes the copy hold the events
// before the position: held events without a mark could be mixed with another history.
func (t *Tables) NoteMark(tx *sql.Tx, p event.Point) error {
	if p.Mark == 0 {
		return nil
	}
	_, err := t.file.Exec(tx, noteMark, p.ID, p.Mark.String())
	return err
}

var (
	noteMark     = dbfile.LogTable.Update("seen", "?1", "seen_mark", "?2") + ` AND seen < ?1`
	noteRemoval  = dbfile.LogTable.Update("removals", "removals + 1")
	countFetched = dbfile.LogTable.Update("fetched", "fetched + ?1", "received", "received + ?2")
)

// LoadRemovals returns how often stored events were removed from the file.
func LoadRemovals(tx *sql.Tx) (n int64, err error) {
	err = dbfile.ScanLog(context.Background(), tx, `removals`, &n)
	return n, err
}

// Removals returns the file's count of removals, in the transaction of File.Begin.
func (t *Tables) Removals(tx *sql.Tx) (n int64, err error) {
	err = t.file.ScanLog(tx, `removals`, &n)
	return n, err
}

// NoteRemoval counts a removal of stored events: readers of them must read again.
func NoteRemoval(tx *sql.Tx) error {
	return dbfile.UpdateLog(tx, noteRemoval)
}

// CountFetched adds to the counts of events and bytes fetched from a server.
func CountFetched(tx *sql.Tx, n, bytes int) error {
	return dbfile.UpdateLog(tx, countFetched, n, bytes)
}
