package rows

import (
	"context"
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

// LoadWindows reads all windows: they are few, since committed ones are merged. It skips
// damaged ones: their ranges are compared with the server again.
func LoadWindows(tx *sql.Tx) ([]Window, error) {
	rows, err := tx.Query(WindowsQuery)
	if err != nil {
		return nil, err
	}
	return ScanWindows(rows)
}

// WindowsQuery reads all windows, as ScanWindows scans them. That of a log is in its row: of
// all topics, or of those that a mirror has.
var WindowsQuery = `SELECT id, topic, state, start, reached, stop, proven,
	coalesce(owner, ''), coalesce(lease, 0), coalesce(error, ''), coalesce(moment, ''), ` + dbfile.WindowTable.Sound() + ` FROM window
	UNION ALL SELECT 0, coalesce(followed.topic, '*'), 'committed', horizon, next - 1, next - 1, 0, '', 0, '', '', ` + dbfile.LogTable.Sound() + `
	FROM log LEFT JOIN followed ON role <> 'client' WHERE role <> 'client'
	ORDER BY start, stop, topic`

// ScanWindows scans the rows of WindowsQuery, and closes them.
func ScanWindows(rows *sql.Rows) ([]Window, error) {
	defer rows.Close()
	var ws []Window
	for rows.Next() {
		var w Window
		var topic, state, moment string
		var sound bool
		err := rows.Scan(&w.ID, &topic, &state, &w.From, &w.Reached, &w.To,
			&w.Proven, &w.Owner, &w.Lease, &w.Err, &moment, &sound)
		switch {
		case err != nil:
			return nil, err
		case !sound && w.ID == 0:
			return nil, dbfile.ErrLogRow
		case !sound:
			continue
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
	span, err := LogWindow(context.Background(), tx)
	return span.From, err
}

// LogWindow returns the one window of a log.
func LogWindow(ctx context.Context, tx dbfile.RowReader) (span window.Span, err error) {
	var next event.ID
	err = dbfile.ScanLog(ctx, tx, `horizon, next`, &span.From, &next)
	span.To = next - 1
	return span, err
}

// InsertWindow inserts a window without a moment and returns its number. It belongs to
// owner until the time lease if owner is not empty.
func InsertWindow(tx *sql.Tx, w *Window) (id int64, err error) {
	owner, lease := sql.NullString{String: w.Owner, Valid: w.Owner != ""}, sql.NullInt64{Int64: w.Lease, Valid: w.Owner != ""}
	moment := sql.NullString{Valid: w.State == window.Pending}
	if moment.Valid {
		moment.String = w.At.String()
	}
	err = tx.QueryRow(insertWindow, w.Topic.String(), w.State.String(), w.From, w.Reached, w.To, moment, w.Proven, owner, lease).Scan(&id)
	return id, err
}

var insertWindow = dbfile.WindowTable.Insert("owner", "lease") + ` RETURNING id`

// DropDamagedWindows deletes the windows that are damaged: the events of one are in the
// file, and are compared with the server's as if they had come in any other way.
func DropDamagedWindows(tx *sql.Tx) error {
	_, err := tx.Exec(`DELETE FROM window WHERE NOT ` + dbfile.WindowTable.Sound())
	return err
}
