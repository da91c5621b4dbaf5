package pages

import (
	"context"
	"database/sql"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// mustPack packs until nothing is left to pack, and returns how many pages were.
func (h *handle) mustPack(t fataler, span window.Span) (packed int) {
	t.Helper()
	for n := -1; n != 0; packed += n {
		h.update(t, func(tx *sql.Tx) (err error) {
			n, err = h.Pack(context.Background(), tx, span)
			return err
		})
	}
	return packed
}

// Pages that short pulls have left are packed, but for a few, and those that are damaged.
func TestPack(t *testing.T) {
	h := openTables(t)
	var all []event.Event
	evs := make([][]event.Event, 2)
	for i := range 2 {
		evs[i], _ = madeEvents(event.ID(4000+i), 2, 100, 1, 20)
	}
	for i := range evs[0] {
		all = append(all, evs[0][i], evs[1][i])
	}
	// Backwards, so that no page can be extended.
	for i := len(all) - 1; i >= 0; i-- {
		h.mustStore(t, all[i:i+1], []int64{int64(i%2) + 1})
	}
	if n := h.number(t, `SELECT count(*) FROM page`); n != len(all) {
		t.Fatalf("%d pages of %d events", n, len(all))
	}
	if n := h.mustPack(t, window.Span{To: all[minCrumbs-1].ID}); n != 0 {
		t.Errorf("%d pages of few were packed", n)
	}
	key := damagePage(t, h, all[70].ID, "lines", 10)
	if n := h.mustPack(t, everything); n != len(all)-1 {
		t.Errorf("%d pages were packed", n)
	}
	if n := h.number(t, `SELECT count(*) FROM page`); n > 20 {
		t.Errorf("%d pages are left", n)
	}
	if found := h.damage(t); len(found) != 1 || found[0].Page != key {
		t.Errorf("check finds %v", found)
	}
	damagePage(t, h, all[70].ID, "lines", 10) // which flips the bit back
	h.mustScan(t, everything, all)
	h.mustCheck(t, allPosted)
}

// Pages whose ids lie too far apart to be packed are left as they are.
func TestPackSparse(t *testing.T) {
	h := openTables(t)
	for i := range 2 * minCrumbs {
		h.mustStore(t, []event.Event{madeEvent(event.ID(i)*maxSpan+1, 1, 20)}, []int64{1})
	}
	if n := h.mustPack(t, everything); n != 0 {
		t.Errorf("%d pages were packed", n)
	}
}
