package pages

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// damagePage changes a byte of a column of the page that has an event.
func damagePage(t *testing.T, h *handle, id event.ID, column string, at int) (key int64) {
	t.Helper()
	h.update(t, func(tx *sql.Tx) error {
		var b []byte
		err := tx.QueryRow(`SELECT key, `+column+` FROM page WHERE first <= ? AND last >= ? ORDER BY count`, id, id).Scan(&key, &b)
		if err != nil {
			return err
		}
		b[at] ^= 4
		_, err = tx.Exec(`UPDATE page SET `+column+` = ? WHERE key = ?`, b, key)
		return err
	})
	return key
}

// damagedFile is a file of 100 events of two storages, in pages of some 13, one of which
// is damaged.
func damagedFile(t *testing.T, column string) (h *handle, evs []event.Event, storages []int64, key int64) {
	t.Helper()
	h = openTables(t)
	evs, storages = madeEvents(1, 1, 100, 2, 310)
	h.mustStore(t, evs, storages)
	h.ForgetPage()
	return h, evs, storages, damagePage(t, h, 50, column, 10)
}

// A damaged page is an error for its own stretch alone, which says where it is.
func TestDamagedPage(t *testing.T) {
	for _, column := range []string{"entries", "lines"} {
		h, evs, _, key := damagedFile(t, column)
		h.view(t, func(tx *sql.Tx) error {
			lines, err := scanLines(tx, Query{Span: everything})
			var damage *DamageError
			if !errors.As(err, &damage) || !errors.Is(err, dbfile.ErrCorrupt) || damage.Page != key || damage.Block != 0 {
				t.Fatalf("%s: scan: %v", column, err)
			}
			if !strings.Contains(err.Error(), "is damaged: page") {
				t.Errorf("it says %q", err)
			}
			if n := len(lines); event.ID(n) != damage.ID-1 || damage.ID > 50 || damage.Last < 50 {
				t.Errorf("%s: %d lines before %s-%s", column, n, damage.ID, damage.Last)
			}
			lines, err = scanLines(tx, Query{Span: window.Span{From: damage.Last, To: 100}})
			if err != nil || len(lines) != 100-int(damage.Last) {
				t.Errorf("%s: %d lines after it, %v", column, len(lines), err)
			}
			if _, _, err := Find(context.Background(), tx, 50); !isDamage(err) {
				t.Errorf("%s: find: %v", column, err)
			}
			if line, _, err := Find(context.Background(), tx, 10); err != nil || string(line) != string(evs[9].Line()) {
				t.Errorf("%s: find another: %v", column, err)
			}
			return nil
		})
		if found := h.damage(t); len(found) != 1 || found[0].Page != key {
			t.Errorf("%s: check finds %v", column, found)
		}
	}
}

// damage returns all damage that Check finds.
func (h *handle) damage(t *testing.T) (found []*DamageError) {
	t.Helper()
	h.view(t, func(tx *sql.Tx) error {
		return Check(context.Background(), tx, allPosted, func(e *DamageError) error { found = append(found, e); return nil })
	})
	return found
}

// Dropping goes past a damaged page, and storing does not go on with it.
func TestPastDamage(t *testing.T) {
	for _, column := range []string{"entries", "lines"} {
		h, evs, storages, key := damagedFile(t, column)
		var places []Place
		for i := range evs {
			places = append(places, Place{storages[i], evs[i].ID})
		}
		h.update(t, func(tx *sql.Tx) error {
			dropped, damaged, err := h.Drop(context.Background(), tx, places)
			if err == nil && (len(damaged) != 1 || damaged[0].Page != key || dropped < 80) {
				t.Errorf("%s: dropped %d, damaged are %v", column, dropped, damaged)
			}
			return err
		})
		if n := h.number(t, `SELECT count(*) FROM page`); n != 1 {
			t.Errorf("%s: %d pages are left", column, n)
		}
		more, one := []event.Event{madeEvent(101, 1, 10)}, []int64{1}
		h.mustStore(t, more, one)
		h.mustScan(t, window.Span{From: 100, To: 101}, more)
	}
}

// A damaged posting is an error for its own storages and block alone.
func TestDamagedPosting(t *testing.T) {
	h := openTables(t)
	evs, storages := madeEvents(1, 1, 100, 2, 50)
	for i := range storages {
		storages[i] *= octetLen
	}
	h.mustStore(t, evs, storages)
	h.update(t, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE page_posting SET count = count - 1 WHERE octet = 1`)
		return err
	})
	h.mustScan(t, everything, evs)
	h.view(t, func(tx *sql.Tx) error {
		_, err := ReadPostingsOf(context.Background(), tx, []int64{16}, everything)
		var damage *DamageError
		if !errors.As(err, &damage) || damage.Storage != 9 || damage.Page != 0 || !strings.Contains(err.Error(), "storages 9 to 16 in block 0") {
			t.Errorf("a damaged posting: %v", err)
		}
		if posted, err := ReadPostingsOf(context.Background(), tx, []int64{8}, everything); err != nil || len(posted) != 50 {
			t.Errorf("another: %d, %v", len(posted), err)
		}
		return nil
	})
	h.update(t, func(tx *sql.Tx) error {
		dropped, damaged, err := h.Drop(context.Background(), tx, []Place{{8, 1}, {16, 2}, {8, 3}})
		if err == nil && (dropped != 2 || len(damaged) != 1) {
			t.Errorf("dropped %d, damaged are %v", dropped, damaged)
		}
		return err
	})
}

// A locator that was kept is a hint: if its page was rewritten, the line is found by id.
func TestOldLocators(t *testing.T) {
	h := openTables(t)
	evs, storages := madeEvents(1, 1, 10, 1, 50)
	h.mustStore(t, evs, storages)
	var old []Posted
	h.view(t, func(tx *sql.Tx) (err error) {
		old, err = ReadPostingsOf(context.Background(), tx, []int64{1}, everything)
		return err
	})
	h.mustDrop(t, evs[:7], storages[:7])
	h.view(t, func(tx *sql.Tx) error {
		n := 0
		err := ReadLines(context.Background(), tx, old[7:], func(i int, line []byte) error {
			if string(line) != string(evs[7+i].Line()) {
				t.Errorf("line %d is %q", i, line)
			}
			n++
			return nil
		})
		if n != 3 || err != nil {
			t.Errorf("%d lines, %v", n, err)
		}
		if err := ReadLines(context.Background(), tx, old[:1], func(int, []byte) error { return nil }); !isDamage(err) {
			t.Errorf("a dropped line: %v", err)
		}
		return nil
	})
}
