package cache

import (
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A row is a window as the file keeps it.
type row struct {
	window.Window
	id    int64
	owner string
	lease int64
}

// loadWindows reads all windows: their number is small, since what is committed is
// merged.
func loadWindows(tx *sql.Tx) ([]row, error) {
	rows, err := tx.Query(windowsQuery)
	if err != nil {
		return nil, err
	}
	return scanWindows(rows)
}

const windowsQuery = `SELECT id, topic, state, start, reached, stop, proven,
	coalesce(owner, ''), coalesce(lease, 0), coalesce(error, ''), coalesce(moment, '') FROM window ORDER BY start, stop, topic`

func scanWindows(rows *sql.Rows) ([]row, error) {
	defer rows.Close()
	var ws []row
	for rows.Next() {
		var w row
		var topic, state, moment string
		err := rows.Scan(&w.id, &topic, &state, &w.From, &w.Reached, &w.To,
			&w.Proven, &w.owner, &w.lease, &w.Err, &moment)
		if err != nil {
			return nil, err
		}
		if w.Topic, err = event.ParseTopic(topic); err != nil {
			return nil, fmt.Errorf("%w: window %d: %w", dbfile.ErrCorrupt, w.id, err)
		}
		if w.State, err = window.ParseState(state); err != nil {
			return nil, fmt.Errorf("%w: window %d: %w", dbfile.ErrCorrupt, w.id, err)
		}
		if moment != "" {
			if w.At, err = event.ParseMoment(moment); err != nil {
				return nil, fmt.Errorf("%w: window %d: %w", dbfile.ErrCorrupt, w.id, err)
			}
		}
		ws = append(ws, w)
	}
	return ws, rows.Err()
}

// setOf returns what rows are windows of.
func setOf(rows []row) window.Set {
	s := make(window.Set, len(rows))
	for i := range rows {
		s[i] = rows[i].Window
	}
	return s
}

// horizonIn returns where a log's window begins, and Beginning in a copy.
func (t *tables) horizonIn(tx *sql.Tx) (event.ID, error) {
	if t.file.Role == dbfile.Client {
		return event.Beginning, nil
	}
	windows, err := loadWindows(tx)
	if err != nil || len(windows) == 0 {
		return event.Beginning, err
	}
	return windows[0].From, nil
}
