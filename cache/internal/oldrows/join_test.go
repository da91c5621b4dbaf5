package oldrows

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

// mustPost checks that postings name exactly the given events.
func (f *oldFile) mustPost(t testing.TB, want []pagetest.Posted) {
	t.Helper()
	f.edit(t, func(db pagetest.DB) error {
		got, err := pagetest.ListPosted(db)
		if err == nil && !slices.Equal(got, want) {
			t.Errorf("postings name %d events, want %d, or others", len(got), len(want))
		}
		return err
	})
}

// spreadRows returns rows of a made-up log with many storages.
func spreadRows(t testing.TB, n int, gap int64) (rows []row) {
	r, id := newRand(t), int64(0)
	for range n {
		id += 1 + r.Int64N(gap)
		rows = append(rows, madeRow(id, 1+r.Int64N(30), r.IntN(50)))
	}
	return rows
}

// Postings of one storage each become postings of eight, and name the same events, whatever a
// step takes.
func TestJoin(t *testing.T) {
	for _, role := range roles {
		f := writeOld(t, schemas, role, spreadRows(t, longtest.Size(1000, 1800), 12))
		f.check(t)
		for _, step := range [][2]int{{1, 1}, {2, 40}, {64, 4096}} {
			setJoinStep(t, step[0], step[1])
			posted := f.split(t)
			if role != dbfile.Server && len(posted) == 0 {
				t.Error("there are no postings")
			}
			f.check(t)
			f.mustPost(t, posted)
		}
	}
}

// Interrupted after any step, joining goes on at the next opening, also if postings of the new
// form were there before.
func TestJoinInterrupted(t *testing.T) {
	setJoinStep(t, 2, 10)
	f := writeOld(t, schemas, dbfile.Client, spreadRows(t, 2000, 12))
	f.check(t)
	posted := f.split(t)
	for done, rounds := false, 0; !done; rounds++ {
		file, err := dbfile.Open(context.Background(), f.path, dbfile.Options{Log: testLog, MoveEvents: func(ctx context.Context, file *dbfile.File, _ func(dbfile.Progress)) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			return Move(ctx, file, func(dbfile.Progress) { cancel() })
		}})
		if done = err == nil; done {
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
		} else if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if rounds > 1000 || done && rounds < 3 {
			t.Fatalf("it ends after %d rounds", rounds)
		}
	}
	f.check(t)
	f.mustPost(t, posted)
}

// A damaged posting is made of its pages. If these are damaged, too, it stays damaged for those
// who read it, and for no others.
func TestJoinDamaged(t *testing.T) {
	f := writeOld(t, schemas, dbfile.Client, spreadRows(t, longtest.Size(1000, 1800), 12))
	f.check(t)
	posted := f.split(t)
	damage := func(db pagetest.DB) error {
		_, err := db.Exec(`UPDATE page_posting SET count = count + 1 WHERE block = 1 AND storage = 5`)
		return err
	}
	f.edit(t, func(db pagetest.DB) error {
		_, err := db.Exec(`UPDATE page_posting SET chunks = x'00' WHERE storage = 17`)
		return errors.Join(err, damage(db))
	})
	f.check(t)
	f.mustPost(t, posted)

	f.split(t)
	var lost event.ID
	f.edit(t, func(db pagetest.DB) error {
		i := slices.IndexFunc(posted, func(p pagetest.Posted) bool { return p.Storage == 5 && p.ID.Block() == 1 })
		lost = posted[i].ID
		return errors.Join(pagetest.Flip(db, lost, 77), damage(db))
	})
	file, err := f.open(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	err = file.View(context.Background(), func(tx *sql.Tx) error {
		for storage := int64(1); storage <= 30; storage++ {
			for block := range uint64(4) {
				_, err := pages.ReadPostingsOf(context.Background(), tx, []int64{storage}, window.BlockSpan(block))
				if wrong := storage <= 8 && block == 1; errors.Is(err, dbfile.ErrCorrupt) != wrong || err != nil && !wrong {
					t.Errorf("storage %d in block %d: %v", storage, block, err)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
