package rows

import (
	"context"
	"database/sql"
	"database/sql/driver"
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
	ws, _, err := loadWindows(tx)
	return ws, err
}

// LoadSoundWindows is LoadWindows that deletes the windows that are damaged: the events of one
// are in the file, and are compared with the server's as if they had come in any other way.
func LoadSoundWindows(tx *sql.Tx) ([]Window, error) {
	ws, damaged, err := loadWindows(tx)
	if err == nil && damaged > 0 {
		_, err = tx.Exec(`DELETE FROM window WHERE NOT ` + dbfile.WindowTable.Sound())
	}
	return ws, err
}

func loadWindows(tx *sql.Tx) (ws []Window, damaged int, err error) {
	rows, err := tx.Query(WindowsQuery)
	if err != nil {
		return nil, 0, err
	}
	return scanWindows(rows)
}

// WindowsQuery reads all windows, as ScanWindows scans them. That of a log is in its row: of
// all topics, or of those that a mirror has.
var WindowsQuery = `SELECT id, topic, state, start, reached, stop, moment, proven,
	coalesce(owner, ''), coalesce(lease, 0), coalesce(error, ''), sum FROM window
	UNION ALL SELECT 0, coalesce(followed.topic, '*'), 'committed', horizon, next - 1, next - 1, NULL, 0, '', 0, '', ` + dbfile.LogTable.Sound() + `
	FROM log LEFT JOIN followed ON role <> 'client' WHERE role <> 'client'
	ORDER BY start, stop, topic`

// ScanWindows scans the rows of WindowsQuery, and closes them.
func ScanWindows(rows *sql.Rows) (ws []Window, err error) {
	ws, _, err = scanWindows(rows)
	return ws, err
}

// scanWindows is ScanWindows that also returns how many windows are damaged. It computes their
// checksums itself: a query that does calls back into Go for each row.
func scanWindows(rows *sql.Rows) (ws []Window, damaged int, err error) {
	defer rows.Close()
	for rows.Next() {
		var w Window
		var columns [7]any // those that the checksum covers, in its order
		var sum int64
		err := rows.Scan(&w.ID, &columns[0], &columns[1], &columns[2], &columns[3], &columns[4], &columns[5], &columns[6],
			&w.Owner, &w.Lease, &w.Err, &sum)
		ofLog := w.ID == 0 && sum <= 1 // whether the log's row is sound
		switch {
		case err != nil:
			return nil, 0, err
		case ofLog && sum == 0:
			return nil, 0, dbfile.ErrLogRow
		case !ofLog && sum != sumOf(columns):
			damaged++
			continue
		}
		if err := w.setColumns(columns); err != nil {
			return nil, 0, fmt.Errorf("%w: window %d: %w", dbfile.ErrCorrupt, w.ID, err)
		}
		ws = append(ws, w)
	}
	return ws, damaged, rows.Err()
}

func sumOf(columns [7]any) int64 {
	var values [len(columns)]driver.Value
	for i, v := range columns {
		values[i] = v
	}
	return dbfile.RowSum(values[:]...)
}

// setColumns sets what the checksum covers.
func (w *Window) setColumns(columns [7]any) (err error) {
	topic, _ := columns[0].(string) // each type is what the checksum says
	state, _ := columns[1].(string)
	from, _ := columns[2].(int64)
	reached, _ := columns[3].(int64)
	to, _ := columns[4].(int64)
	moment, _ := columns[5].(string)
	w.From, w.Reached, w.To, w.Proven = event.ID(from), event.ID(reached), event.ID(to), columns[6] == int64(1)
	if w.Topic, err = event.ParseTopic(topic); err == nil {
		w.State, err = window.ParseState(state)
	}
	if err == nil && moment != "" {
		w.At, err = event.ParseMoment(moment)
	}
	return err
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
