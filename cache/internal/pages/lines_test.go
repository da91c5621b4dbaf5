package pages

import (
	"bytes"
	"context"
	"database/sql"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// posted returns the places of the events of storage 1.
func (h *handle) posted(t *testing.T) (places []Posted) {
	h.view(t, func(tx *sql.Tx) (err error) {
		places, err = ReadPostingsOf(context.Background(), tx, []int64{1}, everything)
		return err
	})
	return places
}

// cutAll returns what CutLines finds.
func cutAll(t *testing.T, h *handle, places []Posted) (lines [][]byte) {
	t.Helper()
	h.view(t, func(tx *sql.Tx) error {
		return CutLines(context.Background(), tx, places, func(i int, line []byte) error {
			if i != len(lines) {
				t.Fatalf("line %d comes after %d lines", i, len(lines))
			}
			lines = append(lines, bytes.Clone(line))
			return nil
		})
	})
	return lines
}

// Of a page that is read for several lines, as of one whose lines are cut out, each line is
// there only if its place is right.
func TestCutLinesOfWrongPlaces(t *testing.T) {
	h := openTables(t)
	evs, storages := madeEvents(1, 1, 100, 1, 50)
	h.mustStore(t, evs, storages)
	places := h.posted(t)
	for name, spoil := range map[string]func(p *Posted){
		"offset":   func(p *Posted) { p.Offset++; p.Length-- },
		"length":   func(p *Posted) { p.Length-- },
		"checksum": func(p *Posted) { p.Sum ^= 1 },
		"event":    func(p *Posted) { p.ID++ },
		"page":     func(p *Posted) { p.Page += 1000 },
	} {
		for _, step := range []int{1, 5, 20} { // neighbors share a page, or do not
			var wrong []Posted
			var want []event.Event
			for i := 0; i < len(places); i += step {
				wrong, want = append(wrong, places[i]), append(want, evs[i])
			}
			for i := 0; i < len(wrong); i += 3 {
				spoil(&wrong[i])
			}
			lines := cutAll(t, h, wrong)
			for i := range wrong {
				if i%3 == 0 && lines[i] != nil || i%3 > 0 && !bytes.Equal(lines[i], want[i].Line()) {
					t.Errorf("wrong %s, each %d.: line %d is %.80q", name, step, i, lines[i])
				}
			}
		}
	}
}

// The sound lines of a damaged page are cut out of it.
func TestCutLinesOfDamagedPage(t *testing.T) {
	h := openTables(t)
	evs, storages := madeEvents(1, 1, 100, 1, 50)
	h.mustStore(t, evs, storages)
	places := h.posted(t)
	h.ForgetPage()
	damagePage(t, h, 50, "lines", 10)
	lines := cutAll(t, h, places)
	lost := slices.IndexFunc(lines, func(line []byte) bool { return line == nil })
	for i, line := range lines {
		if i != lost && !bytes.Equal(line, evs[i].Line()) {
			t.Errorf("line %d is %.80q", i, line)
		}
	}
	if lost < 0 || places[lost].Page != places[49].Page {
		t.Errorf("line %d is lost", lost)
	}
}
