package pages

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Positions next to a damaged page are an error, and no later than the right ones; those
// elsewhere are right.
func TestPositionsPastDamage(t *testing.T) {
	for _, column := range []string{"entries", "lines"} {
		h, evs, _, key := damagedFile(t, column)
		var hurt window.Span
		for _, s := range h.spansOf(t) {
			if s.From < 50 && 50 <= s.To {
				hurt = s
			}
		}
		h.view(t, func(tx *sql.Tx) error {
			for i := range evs {
				id := evs[i].ID
				at, err := PositionAt(context.Background(), tx, evs[i].Time)
				var damage *DamageError
				switch {
				case hurt.From <= id && id <= hurt.To: // some of the damaged ones may have its time
					if !errors.As(err, &damage) || damage.Page != key || at != hurt.From {
						t.Errorf("%s: the position at the time of %s is %s, %v", column, id, at, err)
					}
				case err != nil || at != id:
					t.Errorf("%s: the position at the time of %s is %s, %v", column, id, at, err)
				}
			}
			return nil
		})
	}
}

// A line that is not that of its event, in a page that is as it was written, is an error of the
// positions that may be in its page, and those elsewhere are right.
func TestPositionsPastLineOfAnother(t *testing.T) {
	evs, storages := madeEvents(1, 1, 40, 3, 1000)
	for bad := range evs {
		h := openTables(t)
		h.update(t, func(tx *sql.Tx) error {
			var lines []incoming
			for i := range evs {
				line := evs[i].Line()
				if i == bad {
					other := madeEvent(evs[i].ID+1000, storages[i], 1000)
					line = other.Line()
				}
				lines = append(lines, incoming{evs[i].ID, storages[i], line})
			}
			_, err := h.newBatch(tx).fillPages(lines)
			return err
		})
		var hurt window.Span
		for _, s := range h.spansOf(t) {
			if s.From < evs[bad].ID && evs[bad].ID <= s.To {
				hurt = s
			}
		}
		h.view(t, func(tx *sql.Tx) error {
			for i := range evs {
				id := evs[i].ID
				at, err := PositionAt(context.Background(), tx, evs[i].Time)
				near := hurt.From <= id && id <= hurt.To
				if right := err == nil && at == id; !right && !(near && isDamage(err) && hurt.From <= at && at <= id) {
					t.Errorf("event %s is wrong: the position at the time of %s is %s, %v", evs[bad].ID, id, at, err)
				}
			}
			return nil
		})
	}
}

// A scan that skips damage gives all that is sound, and says once what it skipped.
func TestScanSkips(t *testing.T) {
	for _, column := range []string{"entries", "lines"} {
		h, evs, _, key := damagedFile(t, column)
		h.view(t, func(tx *sql.Tx) error {
			var damaged []*DamageError
			lines, err := scanLines(tx, Query{Span: everything, Skip: skipAll(&damaged)})
			if err != nil || len(damaged) != 1 || damaged[0].Page != key {
				t.Fatalf("%s: %v, damaged are %v", column, err, damaged)
			}
			lost := int(damaged[0].Last - damaged[0].ID + 1)
			if len(lines)+lost != len(evs) {
				t.Errorf("%s: %d lines without %d", column, len(lines), lost)
			}
			if _, err := Resolve(context.Background(), tx, []event.ID{1, 40, 50, 60, 100}); !isDamage(err) {
				t.Errorf("%s: resolve: %v", column, err)
			}
			var ids []event.ID
			for i := range evs {
				if evs[i].ID < damaged[0].ID || evs[i].ID > damaged[0].Last {
					ids = append(ids, evs[i].ID)
				}
			}
			places, err := Resolve(context.Background(), tx, ids)
			if err != nil {
				return err
			}
			for i := range places {
				if places[i].ID != ids[i] || places[i].Page == 0 {
					t.Errorf("%s: event %s is in page %d", column, ids[i], places[i].Page)
				}
			}
			return nil
		})
	}
}

// A scan without lines, or without long ones, finds the same events.
func TestScanWithoutText(t *testing.T) {
	h := openTables(t)
	evs, storages := madeEvents(1, 1, 30, 2, 50)
	evs[7] = madeEvent(8, storages[7], 9000)
	h.mustStore(t, evs, storages)
	for _, most := range []int{-1, 0, maxRecord, 20_000} {
		h.view(t, func(tx *sql.Tx) error {
			lines, err := scanLines(tx, Query{Span: everything, MaxText: most})
			if err != nil || len(lines) != len(evs) {
				t.Fatalf("%d: %d lines, %v", most, len(lines), err)
			}
			places, err := Resolve(context.Background(), tx, []event.ID{8})
			if err != nil {
				return err
			}
			for i := range lines {
				l := &lines[i]
				want := most == 0 || most > 0 && l.Len() <= most
				if l.ID != evs[i].ID || l.Len() != len(evs[i].Line()) || (l.Text != nil) != want {
					t.Errorf("%d: line %d is %s of %d bytes, read: %v", most, i, l.ID, l.Len(), l.Text != nil)
				}
				if l.ID == 8 && l.Posted() != places[0] {
					t.Errorf("%d: it is at %v, want %v", most, l.Posted(), places[0])
				}
			}
			return nil
		})
	}
}
