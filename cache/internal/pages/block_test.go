package pages

import (
	"context"
	"database/sql"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A server appends, posts a block when it is full, and drops what is before its horizon.
func TestServerAgainstSlice(t *testing.T) {
	h := openTables(t)
	const base = 3*event.BlockSize - 80
	evs, storages := madeEvents(base, 1, 150, 3, 60)
	rapid.Check(t, func(rt *rapid.T) {
		h.clear(rt)
		head := 0
		for head < len(evs) {
			next := min(head+rapid.IntRange(1, 60).Draw(rt, "count"), len(evs))
			h.mustAppend(rt, evs[head:next], storages[head:next])
			head = next
			if rapid.Bool().Draw(rt, "restart") {
				h.ForgetPage()
			}
		}
		h.update(rt, func(tx *sql.Tx) error { return h.PostBlock(context.Background(), tx, 2) })
		span := window.Span{From: base - 1, To: evs[head-1].ID}
		h.mustCheck(rt, Scope{Posted: 3 * event.BlockSize, Dense: span})
		horizon := rapid.IntRange(0, 80).Draw(rt, "horizon")
		h.mustDrop(rt, evs[:horizon], storages[:horizon])
		span.From += event.ID(horizon)
		h.mustCheck(rt, Scope{Posted: 3 * event.BlockSize, Dense: span})
		h.mustScan(rt, everything, evs[horizon:])
		checkDense(rt, h, window.Span{From: span.From + event.ID(rapid.IntRange(0, 60).Draw(rt, "from")), To: span.To})
	})
}

func checkDense(t *rapid.T, h *handle, span window.Span) {
	h.view(t, func(tx *sql.Tx) error {
		lines, err := scanLines(tx, Query{Span: span, Dense: true})
		if err == nil && len(lines) != int(span.To-span.From) {
			t.Fatalf("%d lines in %s", len(lines), span)
		}
		return err
	})
}

// A scan of what has to be dense finds any hole.
func TestDenseHole(t *testing.T) {
	const count = 60
	evs, storages := madeEvents(1, 1, count, 2, 60)
	h := openTables(t)
	for hole := range count {
		h.clear(t)
		h.mustStore(t, evs[:hole], storages[:hole])
		h.mustStore(t, evs[hole+1:], storages[hole+1:])
		h.view(t, func(tx *sql.Tx) error {
			lines, err := scanLines(tx, Query{Span: window.Span{To: count}, Dense: true})
			if !isDamage(err) || len(lines) != hole {
				t.Errorf("without %d: %d lines, then %v", hole, len(lines), err)
			}
			return nil
		})
	}
}
