package pages

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
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
		if err == nil {
			err = scanAgain(tx, Query{Span: span, Dense: true, Reuse: true}, lines)
		}
		return err
	})
}

// postedChunks returns the postings of a block by their octets, after they are written.
func postedChunks(t fataler, h *handle, block uint64) (posted map[int64]string) {
	t.Helper()
	h.update(t, func(tx *sql.Tx) error { return h.PostBlock(context.Background(), tx, block) })
	posted = map[int64]string{}
	h.view(t, func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT octet, chunks || members FROM page_posting WHERE block = ?`, int64(block))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var storage int64
			var chunks string
			if err := rows.Scan(&storage, &chunks); err != nil {
				return err
			}
			posted[storage] = chunks
		}
		return rows.Err()
	})
	return posted
}

// Blocks of which only some ids are stored get the postings of just these events, in
// transactions of any size, of several blocks too.
func TestPostBlocksOfSomeIDs(t *testing.T) {
	const blocks = 2
	for name, has := range map[string]func(id event.ID) bool{
		"every other":           func(id event.ID) bool { return id%2 == 1 },
		"all but a few":         func(id event.ID) bool { return id%100 != 50 },
		"all but the last":      func(id event.ID) bool { return id%event.BlockSize != 0 },
		"all from the second":   func(id event.ID) bool { return id > event.BlockSize },
		"some from the second":  func(id event.ID) bool { return id > event.BlockSize && id%3 != 0 },
		"a gap after the first": func(id event.ID) bool { return id <= event.BlockSize || id > event.BlockSize+9 },
	} {
		var evs []event.Event
		var storages []int64
		for id := event.ID(1); id <= blocks*event.BlockSize+100; id++ {
			if has(id) {
				storages = append(storages, int64(id)%20+1)
				evs = append(evs, madeEvent(id, int64(id)%20+1, 10))
			}
		}
		for _, first := range []int{0, 40} { // the transactions join, and have gaps
			h := openTables(t)
			h.mustAppend(t, evs[:first], storages[:first])
			h.mustAppend(t, evs[first:], storages[first:])
			var remembered, read [blocks]map[int64]string
			for block := range remembered {
				remembered[block] = postedChunks(t, h, uint64(block))
			}
			h.mustCheck(t, Scope{Posted: blocks * event.BlockSize})
			h.ForgetPage()
			for block := range read {
				if read[block] = postedChunks(t, h, uint64(block)); !maps.Equal(read[block], remembered[block]) {
					t.Errorf("%s, %d at first: block %d has %d postings, which differ from those read, %d", name, first, block, len(remembered[block]), len(read[block]))
				}
			}
		}
	}
}

// What Append remembers makes the same postings as what the pages have, also after the page
// that begins in the block before was moved.
func TestPostBlockFromMemory(t *testing.T) {
	const before = 27
	evs, storages := madeEvents(event.BlockSize-before+1, 1, before+event.BlockSize+5, 40, 330)
	moved := 0
	for dropped := 0; dropped <= before; dropped += longtest.Size(9, 3) {
		h := openTables(t)
		add := func(from, to int) { h.mustAppend(t, evs[from:to], storages[from:to]) }
		add(0, 7)
		add(7, before+3)
		postedChunks(t, h, 0)
		add(before+3, before+20)
		h.mustDrop(t, evs[:dropped], storages[:dropped])
		add(before+20, 1000)
		add(1000, len(evs))
		known := len(h.unposted.events) == event.BlockSize+5
		if !known {
			moved++
		}
		remembered := postedChunks(t, h, 1)
		if n := len(h.unposted.events); known && n != 5 {
			t.Errorf("%d dropped: %d events are left, not those of the next block", dropped, n)
		}
		h.ForgetPage()
		if read := postedChunks(t, h, 1); len(read) != 40/octetLen || !maps.Equal(remembered, read) {
			t.Errorf("%d dropped: %d postings differ from those read", dropped, len(read))
		}
		h.mustCheck(t, Scope{Posted: 2 * event.BlockSize})
	}
	if moved == 0 || moved > 3 {
		t.Errorf("the page was moved %d times", moved)
	}
}

// A transaction that fails leaves nothing for PostBlock.
func TestPostBlockAfterFailure(t *testing.T) {
	evs, storages := madeEvents(1, 1, event.BlockSize, 40, 60)
	h := openTables(t)
	h.mustAppend(t, evs[:1000], storages[:1000])
	err := h.file.Update(context.Background(), func(tx *sql.Tx) error {
		if _, err := h.Append(tx, evs[1000:], storages[1000:]); err != nil {
			return err
		}
		if err := h.PostBlock(context.Background(), tx, 0); err != nil {
			return err
		}
		return errModel
	})
	if !errors.Is(err, errModel) {
		t.Fatal(err)
	}
	for from := 1000; from < len(evs); from += 1032 {
		h.mustAppend(t, evs[from:from+1032], storages[from:from+1032])
	}
	postedChunks(t, h, 0)
	h.mustCheck(t, Scope{Posted: event.BlockSize, Dense: window.Span{To: event.BlockSize}})
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

// HasPages counts as a slow count does, also where pages overlap.
func TestHasPages(t *testing.T) {
	h := openTables(t)
	for step := event.ID(1); step <= 64; step *= 4 {
		evs, storages := madeEvents(step, step, 60, 2, 60)
		h.mustStore(t, evs, storages)
	}
	h.view(t, func(tx *sql.Tx) error {
		for from := event.ID(0); from < 4000; from += 149 {
			for to := from + 1; to < 4200; to += 1 + to/3 {
				var want int
				err := tx.QueryRow(`SELECT count(*) FROM page WHERE first <= ? AND last > ?`, int64(to), int64(from)).Scan(&want)
				if err != nil {
					return err
				}
				for n := max(0, want-2); n <= want+2; n++ {
					if got, err := HasPages(t.Context(), tx, window.Span{From: from, To: to}, n); err != nil || got != (n <= want) {
						t.Fatalf("HasPages(%s-%s, %d) = %t, %v; there are %d", from, to, n, got, err, want)
					}
				}
			}
		}
		return nil
	})
}

// HasDensePages counts as a slow count does in a log whose pages have not moved.
func TestHasDensePages(t *testing.T) {
	const count = 400
	h := openTables(t)
	evs, storages := madeEvents(1, 1, count, 2, 60)
	h.mustAppend(t, evs, storages)
	h.view(t, func(tx *sql.Tx) error {
		for from := event.ID(0); from < count; from += 7 {
			for to := from + 1; to <= count; to += 1 + to/5 {
				var want int
				err := tx.QueryRow(`SELECT count(*) FROM page WHERE first <= ? AND last > ?`, int64(to), int64(from)).Scan(&want)
				if err != nil {
					return err
				}
				for n := max(0, want-2); n <= want+2; n++ {
					if got, err := HasDensePages(t.Context(), tx, window.Span{From: from, To: to}, n); err != nil || got != (n <= want) {
						t.Fatalf("HasDensePages(%s-%s, %d) = %t, %v; there are %d", from, to, n, got, err, want)
					}
				}
			}
		}
		return nil
	})
}
