package pages

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A scan that copies nothing finds the same damage as one that keeps the lines, and at least as
// many of them.
// It alone does not need the number of events and the last id in a row.
func TestDenseDamage(t *testing.T) {
	const count = 60
	h := openTables(t)
	evs, storages := madeEvents(1, 1, count, 2, 330)
	h.mustAppend(t, evs, storages)
	changes := []string{
		`DELETE FROM page WHERE key = 3`,
		`INSERT INTO page (first, last, count, entries, lines) SELECT first, last, count, entries, lines FROM page WHERE key = 3`,
	}
	for key := 1; key <= 4; key++ {
		for _, change := range []string{"first = first + 1", "first = first - 1", "first = first + 40", "first = 1", "last = last + 1", "last = last - 1",
			"last = 100", "count = count + 1", "count = count - 1", "entries = x''", "lines = x''", "entries = substr(entries, 1, 30)", "lines = substr(lines, 2)"} {
			changes = append(changes, fmt.Sprintf("UPDATE page SET %s WHERE key = %d", change, key))
		}
		for _, at := range []int{1, 2, 5, 8, 9, 10, 11, 12, 20, 31} {
			for _, column := range []string{"entries", "lines"} {
				changes = append(changes, fmt.Sprintf(`UPDATE page SET %[1]s = CAST(substr(%[1]s, 1, %[2]d - 1) || char(unicode(substr(%[1]s, %[2]d, 1)) %% 127 + 1)
					|| substr(%[1]s, %[2]d + 1) AS BLOB) WHERE key = %[3]d`, column, at, key))
			}
		}
	}
	if n := h.number(t, `SELECT count(*) FROM page`); n < 4 {
		t.Fatalf("there are %d pages", n)
	}
	silent := 0
	for _, change := range changes {
		for _, span := range []window.Span{{To: count}, {From: 20, To: 50}} {
			err := h.file.Update(t.Context(), func(tx *sql.Tx) error {
				if _, err := tx.Exec(change); err != nil {
					t.Fatal(change, err)
				}
				kept, keptErr := scanTexts(tx, Query{Span: span, Dense: true})
				lines, err := scanTexts(tx, Query{Span: span, Dense: true, Reuse: true})
				for i, line := range lines {
					if want := string(evs[int(span.From)+i].Line()); line != want {
						t.Errorf("%s: %s has %.80q in place of %.80q", change, span, line, want)
					}
				}
				whole := len(lines) == int(span.To-span.From)
				if err == nil && keptErr != nil {
					silent++
				}
				if err == nil && !whole || err != nil && (len(lines) < len(kept) || fmt.Sprint(err) != fmt.Sprint(keptErr)) {
					t.Errorf("%s: %s: %d lines, then %v; a scan that keeps them finds %d, then %v", change, span, len(lines), err, len(kept), keptErr)
				}
				return errModel
			})
			if !errors.Is(err, errModel) {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d changes, %d of them in columns that are not read", len(changes), silent)
}

// scanTexts returns the lines that a query finds.
func scanTexts(tx *sql.Tx, q Query) (texts []string, err error) {
	err = Scan(context.Background(), tx, q, func(l Line) error { texts = append(texts, string(l.Text)); return nil })
	return texts, err
}

// No bit that scanDense reads can change unnoticed.
func TestFlippedDensePage(t *testing.T) {
	p := madePage(4000, 12)
	sound := func(first event.ID) bool {
		q := page{index: p.index, lines: p.lines}
		return q.decodeAlone(first) == nil && q.checkLines() == nil
	}
	if !sound(4000) {
		t.Fatal("the page is not sound")
	}
	for _, part := range [][]byte{p.index, p.lines} {
		eachFlip(part, func(bit int) {
			if sound(4000) {
				t.Errorf("bit %d is not noticed", bit)
			}
		})
	}
	for bit := range 64 {
		if sound(4000 ^ 1<<bit) {
			t.Errorf("bit %d of the first id is not noticed", bit)
		}
	}
	for n := range p.index {
		if q := (page{index: p.index[:n], lines: p.lines}); q.decodeAlone(4000) == nil {
			t.Errorf("an index that is cut after %d bytes is not noticed", n)
		}
	}
}
