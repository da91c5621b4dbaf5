package rows

import (
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Window is a window as stored in the file.
type Window struct {
	window.Window
	ID    int64
	Owner string
	Lease int64
}

// LoadWindows reads all windows: they are few, since committed ones are merged.
func LoadWindows(tx *sql.Tx) ([]Window, error) {
	rows, err := tx.Query(WindowsQuery)
	if err != nil {
		return nil, err
	}
	return ScanWindows(rows)
}

// WindowsQuery reads all windows, as ScanWindows scans them.
const WindowsQuery = `SELECT id, topic, state, start, reached, stop, proven,
	coalesce(owner, ''), coalesce(lease, 0), coalesce(error, ''), coalesce(moment, '') FROM window ORDER BY start, stop, topic`

// ScanWindows scans the rows of WindowsQuery, and closes them.
func ScanWindows(rows *sql.Rows) ([]Window, error) {
	defer rows.Close()
	var ws []Window
	for rows.Next() {
		var w Window
		var topic, state, moment string
		err := rows.Scan(&w.ID, &topic, &state, &w.From, &w.Reached, &w.To,
			&w.Proven, &w.Owner, &w.Lease, &w.Err, &moment)
		if err != nil {
			return nil, err
		}
		if w.Topic, err = event.ParseTopic(topic); err != nil {
			return nil, fmt.Errorf("%w: window %d: %w", dbfile.ErrCorrupt, w.ID, err)
		}
		if w.State, err = window.ParseState(state); err != nil {
			return nil, fmt.Errorf("%w: window %d: %w", dbfile.ErrCorrupt, w.ID, err)
		}
		if moment != "" {
			if w.At, err = event.ParseMoment(moment); err != nil {
				return nil, fmt.Errorf("%w: window %d: %w", dbfile.ErrCorrupt, w.ID, err)
			}
		}
		ws = append(ws, w)
	}
	return ws, rows.Err()
}

// WindowSet returns the windows of rows.
func WindowSet(rows []Window) window.Set {
	s := make(window.Set, len(rows))
	for i := range rows {
		s[i] = rows[i].Window
	}
	return s
}

// HorizonIn returns the start of a log's own window, and Beginning in a copy.
func (t *Tables) HorizonIn(tx *sql.Tx) (event.ID, error) {
	if t.file.Role == dbfile.Client {
		return event.Beginning, nil
	}
	windows, err := LoadWindows(tx)
	if err != nil || len(windows) == 0 {
		return event.Beginning, err
	}
	return windows[0].From, nil
}
