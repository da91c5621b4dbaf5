package pages

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// eventOfLine returns an event whose line has exactly so many bytes.
func eventOfLine(id event.ID, length int) event.Event {
	ev := madeEvent(id, 1, 1)
	return madeEvent(id, 1, 1+length-len(ev.Line()))
}

// A page of the longest record has no overflow page, and one of a byte more has.
func TestRecordLimit(t *testing.T) {
	for h, most := range map[*handle]int{openTables(t): 8192 - 35, openSmaller(t): 4096 - 35} {
		checkRecordLimit(t, h, most)
	}
}

func checkRecordLimit(t *testing.T, h *handle, most int) {
	if got := h.maxRecord(); got != most {
		t.Fatalf("records of %d bytes, want %d", got, most)
	}
	for _, first := range []event.ID{1, 2, 127, 128, 1<<15 - 1, 1 << 23, 1 << 31, 1 << 47, event.MaxID - 5} {
		for over := range 2 {
			h.clear(t)
			e := entry{id: first, storage: 1, length: 4000}
			index := sumsLen + entrySize(&e, first)
			length := 4000 + most - recordSize(first, first, 1, index, 4000) + over
			h.mustStore(t, []event.Event{eventOfLine(first, length)}, []int64{1})
			overflow := h.number(t, `SELECT count(*) FROM dbstat WHERE name = 'page' AND pagetype = 'overflow'`)
			payload := h.number(t, `SELECT sum(payload) FROM dbstat WHERE name = 'page'`)
			if overflow != over || payload != most+over {
				t.Errorf("event %d in %d bytes: %d of payload, %d overflow pages", first, length, payload, overflow)
			}
		}
	}
}

// Pages are filled, and none of several events overflows.
func TestFullPages(t *testing.T) {
	checkFullPages(t, openTables(t))
	checkFullPages(t, openSmaller(t))
}

func checkFullPages(t *testing.T, h *handle) {
	for first := event.ID(1); first < 3000; first += 300 {
		evs, storages := madeEvents(first, 1, 300, 5, int(first)%250)
		h.mustStore(t, evs, storages)
	}
	if n := h.number(t, `SELECT count(*) FROM dbstat WHERE name = 'page' AND pagetype = 'overflow'`); n > 0 {
		t.Errorf("%d overflow pages", n)
	}
	pages, leaves := h.number(t, `SELECT count(*) FROM page`), h.number(t, `SELECT count(*) FROM dbstat WHERE name = 'page' AND pagetype = 'leaf'`)
	if leaves > pages+1 || pages > leaves+1 {
		t.Errorf("%d pages are in %d of SQLite's", pages, leaves)
	}
	h.mustCheck(t, allPosted)
}

// In a file of an earlier version, the posting of a line of more than 4,061 bytes has no length,
// which would be damage for a shorter one.
func TestPlacesOfEarlierVersions(t *testing.T) {
	for length, want := range map[int]int{4061: 1, 4062: 0, 8000: 0, 9000: 0} {
		h := openTables(t)
		ev := eventOfLine(1, length)
		h.mustStore(t, []event.Event{ev}, []int64{1})
		h.update(t, func(tx *sql.Tx) error {
			b := h.newBatch(tx)
			p, err := b.posting(octetKey{octetOf(1), 0})
			if err != nil {
				return err
			}
			p.entries[0].Offset, p.entries[0].Length, p.changed = 0, 0, true
			return b.writePostings()
		})
		if damage := h.damage(t); len(damage) != want {
			t.Errorf("a line of %d bytes: damaged are %v", length, damage)
		}
		h.mustScan(t, everything, []event.Event{ev})
		h.view(t, func(tx *sql.Tx) error {
			posted, err := ReadPostingsOf(t.Context(), tx, []int64{1}, everything)
			if err != nil {
				return err
			}
			return ReadLines(t.Context(), tx, posted, func(_ int, line []byte) error {
				if string(line) != string(ev.Line()) {
					t.Errorf("a line of %d bytes: it reads %.100s", length, line)
				}
				return nil
			})
		})
		// The next event, which may share its page, changes nothing.
		next := eventOfLine(2, 200)
		h.mustStore(t, []event.Event{next}, []int64{1})
		if damage := h.damage(t); len(damage) != want {
			t.Errorf("a line of %d bytes and another: damaged are %v", length, damage)
		}
		h.mustScan(t, everything, []event.Event{ev, next})
	}
}

// A line that is longer than a page is alone, and those around it are not.
func TestLongLines(t *testing.T) {
	h := openTables(t)
	var evs []event.Event
	storages := make([]int64, 0, 9)
	for i, size := range []int{50, 60, 8000, 8158, 100_000, 1 << 20, 70, 80, 90} {
		evs, storages = append(evs, madeEvent(event.ID(i+1), 1, size)), append(storages, 1)
	}
	h.mustStore(t, evs, storages)
	if n := h.number(t, `SELECT count(*) FROM page`); n != 6 {
		t.Errorf("%d pages, want 6", n)
	}
	h.mustScan(t, everything, evs)
	h.mustCheck(t, allPosted)
	h.view(t, func(tx *sql.Tx) error {
		posted, err := ReadPostingsOf(context.Background(), tx, []int64{1}, everything)
		if err != nil {
			return err
		}
		return ReadLines(context.Background(), tx, posted, func(i int, line []byte) error {
			if !bytes.Equal(line, evs[i].Line()) {
				t.Errorf("line %d is another", i)
			}
			return nil
		})
	})
	if held := h.mustStore(t, evs, storages); len(held) != len(evs) {
		t.Errorf("held are %v", held)
	}
}

// Topics that are pulled in turn fill pages that overlap, none of which is rewritten.
func TestOverlappingPages(t *testing.T) {
	h := openTables(t)
	const topics, count = 7, 40
	all := make([]event.Event, 3*topics*count)
	for round := range 3 {
		for topic := range topics {
			evs, storages := madeEvents(event.ID(round*topics*count+topic+1), topics, count, 1, 50)
			h.mustStore(t, evs, storages)
			for i := range evs {
				all[evs[i].ID-1] = evs[i]
			}
		}
	}
	h.mustScan(t, everything, all)
	h.mustScan(t, window.Span{From: 100, To: 400}, all[100:400])
	h.mustCheck(t, allPosted)
}

// Ids that are too far apart for a page begin another.
func TestPageSpan(t *testing.T) {
	h := openTables(t)
	evs := []event.Event{madeEvent(7, 1, 10), madeEvent(7+maxSpan-1, 1, 10), madeEvent(7+maxSpan, 1, 10), madeEvent(7+2*maxSpan, 1, 10)}
	h.mustStore(t, evs, []int64{1, 1, 1, 1})
	if n := h.number(t, `SELECT count(*) FROM page`); n != 3 {
		t.Errorf("%d pages, want 3", n)
	}
	for i := range evs {
		h.mustScan(t, window.Span{From: evs[i].ID - 1, To: evs[i].ID}, evs[i:i+1])
	}
}

// Short transactions, each of a new process, fill pages, whichever storages they have events
// of.
func TestResumeManyStorages(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	h := openTables(t)
	const count = 300
	var evs []event.Event
	for i := range count {
		h.ForgetPage()
		storage := 1 + random.Int64N(50)
		evs = append(evs, madeEvent(event.ID(i+1), storage, 100))
		h.mustStore(t, evs[i:], []int64{storage})
	}
	// Two pages at a time may not be full: that of the storage, and the last one.
	if n, most := h.number(t, `SELECT count(*) FROM page`), 2+count/10; n > most {
		t.Errorf("seed %d: %d pages, want %d at most", seed, n, most)
	}
	h.mustScan(t, everything, evs)
	h.mustCheck(t, allPosted)
}

// Short transactions, each of a new process, fill one page.
func TestResume(t *testing.T) {
	h := openTables(t)
	for i := range 10 {
		h.ForgetPage()
		h.mustStore(t, []event.Event{madeEvent(event.ID(i+1), 1, 10)}, []int64{1})
	}
	if n := h.number(t, `SELECT count(*) FROM page`); n != 1 {
		t.Errorf("%d pages of ten short events", n)
	}
}

// A page that another process has extended or rewritten is left to it.
func TestCompareAndSet(t *testing.T) {
	h := openTables(t)
	other := openHandle(t, h.file.Path)
	var evs []event.Event
	for i := range 8 {
		evs = append(evs, madeEvent(event.ID(i+1), 1, 10))
	}
	one := []int64{1}
	h.mustStore(t, evs[:1], one)
	other.mustStore(t, evs[1:2], one) // goes on with the page of h
	h.mustStore(t, evs[2:3], one)     // has to begin its own
	other.mustStore(t, evs[3:4], one)
	h.mustStore(t, evs[4:5], one)
	if n := h.number(t, `SELECT count(*) FROM page`); n != 2 {
		t.Errorf("%d pages of two processes", n)
	}
	h.mustScan(t, everything, evs[:5])
	h.mustCheck(t, allPosted)
}

// What a failed transaction has written is not gone on with, even if its keys come again.
func TestFailedTransaction(t *testing.T) {
	h := openTables(t)
	other := openHandle(t, h.file.Path)
	evs, storages := madeEvents(1, 1, 20, 1, 10)
	h.mustStore(t, evs[:2], storages[:2])
	err := h.file.Update(context.Background(), func(tx *sql.Tx) error {
		if _, _, err := h.Store(tx, evs[2:9], storages[2:9]); err != nil {
			return err
		}
		return errModel
	})
	if !errors.Is(err, errModel) || h.open != nil {
		t.Fatalf("%v; the last page is remembered: %v", err, h.open != nil)
	}
	other.mustStore(t, evs[2:12], storages[2:12])
	h.mustStore(t, evs[10:], storages[10:])
	h.mustScan(t, everything, evs)
	h.mustCheck(t, allPosted)
}

// An event under two storages is damage to whoever meets both.
func TestStoredTwice(t *testing.T) {
	h := openTables(t)
	evs, storages := madeEvents(1, 1, 5, 1, 10)
	h.mustStore(t, evs, storages)
	h.mustStore(t, evs[2:3], []int64{2})
	h.view(t, func(tx *sql.Tx) error {
		lines, err := scanLines(tx, Query{Span: everything})
		if len(lines) != 3 || !isDamage(err) {
			t.Errorf("%d lines, then %v", len(lines), err)
		}
		found := 0
		err = Check(context.Background(), tx, allPosted, func(*DamageError) error { found++; return nil })
		if err != nil || found == 0 {
			t.Errorf("check: %v, found %d", err, found)
		}
		return nil
	})
}

// A key is never given again.
func TestKeysOnce(t *testing.T) {
	h := openTables(t)
	ev, one := []event.Event{madeEvent(1, 1, 10)}, []int64{1}
	h.mustStore(t, ev, one)
	before := h.number(t, `SELECT key FROM page`)
	h.update(t, func(tx *sql.Tx) error {
		_, _, err := h.Drop(context.Background(), tx, []Place{{1, 1}})
		return err
	})
	if n := h.number(t, `SELECT count(*) FROM page`) + h.number(t, `SELECT count(*) FROM page_posting`); n != 0 {
		t.Errorf("%d rows after all was dropped", n)
	}
	h.mustStore(t, ev, one)
	if after := h.number(t, `SELECT key FROM page`); after <= before {
		t.Errorf("key %d after %d", after, before)
	}
}

// What a failed statement did not write is not written by the next, even if the
// transaction is committed.
func TestFailedStatement(t *testing.T) {
	h := openTables(t)
	evs, storages := madeEvents(1, 1, 9, 1, 10)
	h.mustStore(t, evs[:2], storages[:2])
	h.update(t, func(tx *sql.Tx) error {
		if _, err := tx.Exec(`CREATE TRIGGER refuse BEFORE UPDATE ON page BEGIN SELECT raise(FAIL, 'refused'); END`); err != nil {
			return err
		}
		if _, _, err := h.Store(tx, evs[2:5], storages[2:5]); err == nil {
			t.Error("the page was extended")
		}
		_, err := tx.Exec(`DROP TRIGGER refuse`)
		return err
	})
	h.mustStore(t, evs[5:], storages[5:])
	h.mustScan(t, everything, append(evs[:2:2], evs[5:]...))
	h.mustCheck(t, allPosted)
}
