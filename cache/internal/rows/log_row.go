package rows

import (
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
	_, err := t.file.Exec(tx, `UPDATE log SET seen = ?, seen_mark = ? WHERE seen < ?`, p.ID, p.Mark.String(), p.ID)
	return err
}

// LoadRemovals returns how often stored events were removed from the file.
func LoadRemovals(tx *sql.Tx) (n int64, err error) {
	err = tx.QueryRow(`SELECT removals FROM log`).Scan(&n)
	return n, err
}

// Removals returns the file's count of removals, in the transaction of File.Begin.
func (t *Tables) Removals(tx *sql.Tx) (n int64, err error) {
	err = t.file.Scan(tx, `SELECT removals FROM log`, nil, &n)
	return n, err
}

// NoteRemoval counts a removal of stored events: readers of them must read again.
func NoteRemoval(tx *sql.Tx) error {
	_, err := tx.Exec(`UPDATE log SET removals = removals + 1`)
	return err
}

// CountFetched adds to the counts of events and bytes fetched from a server.
func CountFetched(tx *sql.Tx, n, bytes int) error {
	_, err := tx.Exec(`UPDATE log SET fetched = fetched + ?, received = received + ?`, n, bytes)
	return err
}

// ErrNoWindow means that the row of a log's own window is missing.
var ErrNoWindow = fmt.Errorf("%w: the log has no window", dbfile.ErrCorrupt)
