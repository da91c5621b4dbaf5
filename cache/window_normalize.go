package cache

import (
	"database/sql"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// normalizeWindows reduces the windows to their shortest form and returns them. It commits the
// progress of processes that are gone, merges adjacent committed windows of a topic, and
// drops windows that a wider topic's window contains. An interrupted pull stays visible
// until other windows hold its missing part, or until absorb (which may be nil) reports
// that the caller continues it. normalizeWindows never changes which events are held.
func (db *DB) normalizeWindows(tx *sql.Tx, absorb func(*rows.Window) bool) ([]rows.Window, error) {
	if db.file.Role != Client {
		return nil, db.file.Role.Wrong()
	}
	windows, err := rows.LoadSoundWindows(tx)
	if err != nil {
		return nil, err
	}
	var settled, open []rows.Window
	for i := range windows {
		w := &windows[i]
		switch {
		case w.State == window.Committed, w.State == window.Live && db.file.Stale(w.Owner, w.Lease), db.pullEnded(w, windows, absorb):
			settled = append(settled, *w)
		case w.State == window.Pulling && w.Owner != "" && db.file.Stale(w.Owner, w.Lease):
			if _, err := tx.Exec(`UPDATE window SET owner = NULL, lease = NULL WHERE id = ?`, w.ID); err != nil {
				return nil, err
			}
			w.Owner = ""
			open = append(open, *w)
		default:
			open = append(open, *w)
		}
	}
	var merged []rows.Window
	for _, w := range rows.WindowSet(settled).Merged() {
		merged = append(merged, rows.Window{Window: w})
	}
	return append(merged, open...), replaceWindows(tx, settled, merged)
}

// pullEnded reports whether the pull w has ended: no process continues it, and its missing
// part is held by other windows or about to be pulled by the caller.
func (db *DB) pullEnded(w *rows.Window, windows []rows.Window, absorb func(*rows.Window) bool) bool {
	if w.State != window.Pulling && w.State != window.Failed || !db.file.Stale(w.Owner, w.Lease) {
		return false
	}
	if absorb != nil && absorb(w) {
		return true
	}
	return rows.WindowSet(windows).Held(w.Topic).Contains(w.Missing())
}

// A committedSpan identifies a committed window.
type committedSpan struct {
	topic  event.Topic
	span   window.Span
	proven bool
}

// replaceWindows replaces settled with merged, and writes only the differences.
func replaceWindows(tx *sql.Tx, settled, merged []rows.Window) error {
	missing := map[committedSpan]bool{}
	for i := range merged {
		missing[committedSpanOf(&merged[i])] = true
	}
	for i := range settled {
		w := &settled[i]
		if k := committedSpanOf(w); w.State == window.Committed && missing[k] {
			delete(missing, k)
			continue
		}
		if _, err := tx.Exec(`DELETE FROM window WHERE id = ?`, w.ID); err != nil {
			return err
		}
	}
	for k := range missing {
		if _, err := rows.InsertWindow(tx, committedWindow(k.topic, k.span, k.proven)); err != nil {
			return err
		}
	}
	return nil
}

func committedSpanOf(w *rows.Window) committedSpan { return committedSpan{w.Topic, w.Held(), w.Proven} }
