package pages

import (
	"context"
	"database/sql"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Check finds what is wrong although all checksums agree.
func TestCheckFinds(t *testing.T) {
	exec := func(query string) func(*handle, *sql.Tx) error {
		return func(_ *handle, tx *sql.Tx) error { _, err := tx.Exec(query); return err }
	}
	for _, c := range []struct {
		want   string
		change func(h *handle, tx *sql.Tx) error
	}{
		{"does not name event", exec(`DELETE FROM page_posting`)},
		{"no page has", exec(`DELETE FROM page WHERE key = (SELECT max(key) FROM page)`)},
		{"its hash differs", changeLine},
		{"is stored twice", func(h *handle, tx *sql.Tx) error {
			_, _, err := h.Store(tx, []event.Event{madeEvent(7, 9, 10)}, []int64{9})
			return err
		}},
		{"is missing", func(h *handle, tx *sql.Tx) error {
			_, _, err := h.Drop(context.Background(), tx, []Place{{1, 3}})
			return err
		}},
	} {
		h := openTables(t)
		evs, storages := madeEvents(1, 1, 60, 2, 50)
		h.mustStore(t, evs, storages)
		s := Scope{Posted: event.MaxID, Dense: window.Span{To: 60}}
		h.mustCheck(t, s)
		h.update(t, func(tx *sql.Tx) error { return c.change(h, tx) })
		var found []string
		h.view(t, func(tx *sql.Tx) error {
			return Check(context.Background(), tx, s, func(e *DamageError) error { found = append(found, e.Error()); return nil })
		})
		if !strings.Contains(strings.Join(found, "\n"), c.want) {
			t.Errorf("check finds %q, want %q", found, c.want)
		}
	}
}

// changeLine changes a line, and the checksums of its page with it.
func changeLine(h *handle, tx *sql.Tx) error {
	p, err := loadPage(context.Background(), tx, 1)
	if err != nil {
		return err
	}
	p.lines[len(p.lines)-3] = 'y'
	p.linesSum = checksum(p.lines)
	_, err = h.updatePage(tx, p, len(p.entries))
	return err
}
