package pages

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// rebuiltColumns are what a bit flips in before a stretch is rebuilt.
var rebuiltColumns = []struct{ table, column string }{
	{"page", "lines"}, {"page", "entries"}, {"page", "count"}, {"page", "last"}, {"page_posting", "chunks"}, {"page_posting", "count"},
}

// flipRandom flips a bit of a row.
func flipRandom(tx *sql.Tx, random *rand.Rand) (what string, err error) {
	c := rebuiltColumns[random.IntN(len(rebuiltColumns))]
	var rows int
	if err := tx.QueryRow(`SELECT count(*) FROM ` + c.table).Scan(&rows); err != nil {
		return "", err
	}
	var value any
	one := fmt.Sprintf(`(SELECT %s FROM %s LIMIT 1 OFFSET %d)`, c.column, c.table, random.IntN(rows))
	if err := tx.QueryRow(`SELECT ` + one).Scan(&value); err != nil {
		return "", err
	}
	was := value
	switch v := value.(type) {
	case []byte:
		flipped := slices.Clone(v)
		flipped[random.IntN(len(v))] ^= 1 << random.IntN(8)
		value = flipped
	case int64:
		value = v ^ 1<<random.IntN(20)
	}
	_, err = tx.Exec(fmt.Sprintf(`UPDATE %s SET %s = ? WHERE %s = ?`, c.table, c.column, c.column), value, was)
	return c.table + "." + c.column, err
}

// Whatever bits flip, a rebuilt file is sound: each event is as it was stored, or was
// reported as lost.
func TestRebuildFlipped(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	h := openTables(t)
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		h.clear(t)
		numbers, lines := map[event.ID]int64{}, map[event.ID]string{}
		for topic := range event.ID(3) { // pages that overlap, and cross the edge of a block
			evs, storages := madeEvents(event.BlockSize-150+topic, 3, 100, 4, 100)
			for i := range evs {
				numbers[evs[i].ID], lines[evs[i].ID] = storages[i], string(evs[i].Line())
			}
			h.mustStore(t, evs, storages)
		}
		var flipped []string
		var lost []Place
		h.update(t, func(tx *sql.Tx) error {
			for range 1 + random.IntN(3) {
				what, err := flipRandom(tx, random)
				if err != nil {
					return err
				}
				flipped = append(flipped, what)
			}
			return nil
		})
		h.ForgetPage()
		h.update(t, func(tx *sql.Tx) (err error) {
			lost, err = h.Rebuild(context.Background(), tx, Rebuilding{
				Span:   everything,
				Drop:   func(*event.Event) bool { return false },
				Number: func(ev *event.Event) (int64, error) { return numbers[ev.ID], nil },
			})
			return err
		})
		h.mustCheck(t, allPosted)
		missing := map[event.ID]bool{}
		for id := range lines {
			missing[id] = true
		}
		h.view(t, func(tx *sql.Tx) error {
			return Scan(context.Background(), tx, Query{Span: everything}, func(l Line) error {
				if string(l.Text) != lines[l.ID] || l.Storage != numbers[l.ID] {
					t.Errorf("after %v: event %s of storage %d is %.80q", flipped, l.ID, l.Storage, l.Text)
				}
				delete(missing, l.ID)
				return nil
			})
		})
		for _, place := range lost {
			delete(missing, place.ID)
			maps.DeleteFunc(missing, func(id event.ID, _ bool) bool { return place.Storage == 0 && id.Block() == place.ID.Block() })
		}
		if len(missing) > 0 {
			t.Errorf("after %v: %d events are missing and not reported as lost", flipped, len(missing))
		}
	}
}

// A line whose id was damaged may stand far from all others, in a page whose index is damaged,
// too. The blocks between them are not visited.
func TestRebuildFarID(t *testing.T) {
	h := openTables(t)
	evs, storages := madeEvents(1, 1, 100, 1, 100)
	h.mustStore(t, evs, storages)
	var lost []Place
	h.update(t, func(tx *sql.Tx) error {
		changed, err := tx.Exec(`UPDATE page SET entries = x'00', lines = CAST(replace(CAST(lines AS TEXT), '"000000000000', '"400000000000') AS BLOB)`)
		if err != nil {
			return err
		}
		if n, err := changed.RowsAffected(); n == 0 || err != nil {
			t.Fatalf("%d pages: %v", n, err)
		}
		return nil
	})
	h.ForgetPage()
	h.update(t, func(tx *sql.Tx) (err error) {
		lost, err = h.Rebuild(t.Context(), tx, Rebuilding{
			Span:   everything,
			Drop:   func(*event.Event) bool { return false },
			Number: func(ev *event.Event) (int64, error) { return storages[0], nil },
		})
		return err
	})
	h.mustCheck(t, allPosted)
	if len(lost) < 31 { // those whose ids are changed
		t.Errorf("%d events are reported as lost", len(lost))
	}
}

// A damaged posting of a block that also has a damaged page outside of the stretch stays damaged:
// it cannot name the events of that page, and reads by postings would miss them in silence.
func TestRebuildBesideDamage(t *testing.T) {
	h := openTables(t)
	const edge = event.ID(event.BlockSize)
	inside, storages := madeEvents(edge-10, 1, 20, 1, 100) // a page in two blocks
	h.mustStore(t, inside, storages)
	h.ForgetPage()
	outside, storages := madeEvents(edge+200, 1, 100, 1, 100)
	h.mustStore(t, outside, storages)
	h.ForgetPage()
	h.update(t, func(tx *sql.Tx) error {
		for _, damage := range []string{
			`UPDATE page SET lines = CAST(replace(CAST(lines AS TEXT), '"PUT"', '"PVT"') AS BLOB) WHERE first > ?`,
			`UPDATE page_posting SET count = count + 1 WHERE block = ? / 4096`,
		} {
			res, err := tx.Exec(damage, int64(edge))
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); n == 0 || err != nil {
				t.Fatalf("%s: %d rows, %v", damage, n, err)
			}
		}
		return nil
	})
	rebuild := func(span window.Span) (lost []Place) {
		t.Helper()
		h.update(t, func(tx *sql.Tx) (err error) {
			lost, err = h.Rebuild(t.Context(), tx, Rebuilding{
				Span:   span,
				Drop:   func(*event.Event) bool { return false },
				Number: func(*event.Event) (int64, error) { return 1, nil },
			})
			return err
		})
		return lost
	}
	posted := func() (n, damaged int) {
		t.Helper()
		h.view(t, func(tx *sql.Tx) error {
			skip := func(*DamageError) error { damaged++; return nil }
			return EachPosting(t.Context(), tx, []int64{1}, everything, skip, func(_ PostingKey, evs []Posted) error {
				n += len(evs)
				return nil
			})
		})
		return n, damaged
	}
	if lost := rebuild(window.Span{To: edge}); len(lost) > 0 {
		t.Errorf("%d events of the stretch are lost", len(lost))
	}
	if n, damaged := posted(); damaged == 0 {
		t.Errorf("the postings have %d of %d events, and none is damaged", n, len(inside)+len(outside))
	}
	rebuild(everything)
	if n, damaged := posted(); damaged > 0 || n < len(inside) {
		t.Errorf("after the other page is rebuilt, too, the postings have %d events, and %d are damaged, want at least %d", n, damaged, len(inside))
	}
	h.mustCheck(t, allPosted)
}
