package pages

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

func (h *handle) mustDrop(t fataler, evs []event.Event, storages []int64) {
	t.Helper()
	var places []Place
	for i := range evs {
		places = append(places, Place{storages[i], evs[i].ID})
	}
	h.update(t, func(tx *sql.Tx) error {
		dropped, damaged, err := h.Drop(context.Background(), tx, places)
		if err == nil && (dropped != len(evs) || len(damaged) > 0) {
			t.Fatalf("dropped %d of %d, damaged are %v", dropped, len(evs), damaged)
		}
		return err
	})
}

// Dropping a line moves no other, and what is left of a page is JSON with commas in place
// of line feeds.
func TestDropInPlace(t *testing.T) {
	h := openTables(t)
	for n := range 15 { // which of the first four to drop
		h.clear(t)
		evs, storages := madeEvents(1, 1, 9, 3, 50)
		h.mustStore(t, evs, storages)
		key := h.number(t, `SELECT key FROM page`)
		var left []event.Event
		for i := range evs {
			if i < 4 && n>>i&1 != 0 {
				h.mustDrop(t, evs[i:i+1], storages[i:])
			} else {
				left = append(left, evs[i])
			}
		}
		h.mustScan(t, everything, left)
		h.mustCheck(t, allPosted)
		var lines []byte
		h.view(t, func(tx *sql.Tx) error { return tx.QueryRow(`SELECT lines FROM page`).Scan(&lines) })
		if !json.Valid(append(append([]byte{'['}, bytes.ReplaceAll(lines, newline, []byte{','})...), ']')) {
			t.Errorf("without %b the page is %q", n, lines)
		}
		if after := h.number(t, `SELECT key FROM page`); after != key {
			t.Errorf("without %b page %d is page %d", n, key, after)
		}
		more, one := []event.Event{madeEvent(10, 1, 20)}, []int64{1}
		h.mustStore(t, more, one)
		h.mustScan(t, everything, append(left, more...))
	}
}

// What a dropped line said is not in the file's tables any more.
func TestDropOverwrites(t *testing.T) {
	h := openTables(t)
	evs, storages := madeEvents(1, 1, 9, 3, 50)
	h.mustStore(t, evs, storages)
	h.mustDrop(t, evs[4:5], storages[4:])
	if n := h.number(t, `SELECT count(*) FROM page WHERE instr(lines, ?) > 0`, []byte(evs[4].Hash.String())); n > 0 {
		t.Error("the line is still there")
	}
}

// A page that is more than half dead is rewritten under a new key, so that a log of which
// most was dropped is at most twice as long as its lines.
func TestDropMost(t *testing.T) {
	h := openTables(t)
	evs, storages := madeEvents(1, 1, 1000, 7, 50)
	h.mustStore(t, evs, storages)
	var left, gone []event.Event
	var places []int64
	for i := range evs {
		if i%10 == 3 {
			left = append(left, evs[i])
		} else {
			gone, places = append(gone, evs[i]), append(places, storages[i])
		}
	}
	last := h.number(t, `SELECT max(key) FROM page`)
	h.mustDrop(t, gone, places)
	h.mustScan(t, everything, left)
	h.mustCheck(t, allPosted)
	if key := h.number(t, `SELECT min(key) FROM page`); key <= last {
		t.Errorf("page %d is mostly dead", key)
	}
	lines := 0
	for i := range left {
		lines += len(left[i].Line()) + 1
	}
	if n := h.number(t, `SELECT sum(length(lines)) FROM page`); n > 2*lines {
		t.Errorf("%d bytes for %d", n, lines)
	}
}
