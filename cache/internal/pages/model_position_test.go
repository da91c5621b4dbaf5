package pages

import (
	"bytes"
	"context"
	"database/sql"
	"slices"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// positions looks for positions by time and by number.
func (m *pagesModel) positions(*rapid.T) {
	span := m.drawSpan()
	ahead := event.ID(rapid.IntRange(0, 2).Draw(m.t, "ahead"))
	at := span.From + ahead
	t := madeEvent(max(at, 1), 1, 1).Time
	var want event.ID
	for _, ev := range m.heldIn(everything, 0) {
		if ev.Time <= t {
			want = ev.ID
		}
	}
	after := m.heldIn(window.Span{From: at, To: event.MaxID}, 0)
	within := m.heldIn(span, 0)
	m.handle().view(m.t, func(tx *sql.Tx) error {
		ctx := context.Background()
		if got, err := PositionAt(ctx, tx, t); err != nil || got != want {
			m.t.Fatalf("the position at the time of %s is %s, %v, want %s", at, got, err, want)
		}
		if id, ok, err := Next(ctx, tx, at); err != nil || ok != (len(after) > 0) || ok && id != after[0].ID {
			m.t.Fatalf("the next event after %s is %s, %v, %v", at, id, ok, err)
		}
		if n, err := Count(ctx, tx, span); err != nil || n != len(within) {
			m.t.Fatalf("%s has %d events, %v, want %d", span, n, err, len(within))
		}
		n := rapid.IntRange(1, 10).Draw(m.t, "n")
		end, ok, err := Advance(ctx, tx, span, n)
		if err != nil || ok != (n <= len(within)) || ok && (end < within[n-1].ID || end > span.To) {
			m.t.Fatalf("%d events after %s comes %s, %v, %v", n, span, end, ok, err)
		}
		return nil
	})
}

// resolve finds places by ids, and by storages, and cuts out lines.
func (m *pagesModel) resolve(*rapid.T) {
	var ids []event.ID
	some := m.drawSome()
	for _, n := range some {
		ids = append(ids, modelLog[n].ID)
	}
	span := m.drawSpan()
	m.handle().view(m.t, func(tx *sql.Tx) error {
		ctx := context.Background()
		places, err := Resolve(ctx, tx, ids)
		if err != nil {
			return err
		}
		for i, n := range some {
			if m.held[n] != (places[i].Page != 0) {
				m.t.Fatalf("event %s is in page %d", ids[i], places[i].Page)
			}
		}
		err = CutLines(ctx, tx, places, func(i int, line []byte) error {
			held := m.held[some[i]] && places[i].Length > 0
			if !held && line != nil || held && !bytes.Equal(line, modelLog[some[i]].Line()) {
				m.t.Fatalf("line %s is %.80q", ids[i], line)
			}
			return nil
		})
		if err != nil {
			return err
		}
		storages := []int64{3, 1, 4, 2, 9}
		last, err := LastPosted(ctx, tx, storages, span, nil)
		if err != nil {
			return err
		}
		for i, storage := range storages {
			var want event.ID
			if evs := m.heldIn(span, storage); len(evs) > 0 {
				want = evs[len(evs)-1].ID
			}
			if last[i].ID != want {
				m.t.Fatalf("the last event of storage %d in %s is %s, want %s", storage, span, last[i].ID, want)
			}
		}
		return nil
	})
}

// skipAll goes past damage and remembers it.
func skipAll(damaged *[]*DamageError) Skip {
	return func(e *DamageError) error {
		*damaged = append(*damaged, e)
		return nil
	}
}

// spansOf returns the pages of a file as spans, in the order of their first ids.
func (h *handle) spansOf(t fataler) (spans []window.Span) {
	h.view(t, func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT first - 1, last FROM page`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var s window.Span
			if err := rows.Scan(&s.From, &s.To); err != nil {
				return err
			}
			spans = append(spans, s)
		}
		return rows.Err()
	})
	slices.SortFunc(spans, func(a, b window.Span) int { return int(a.From) - int(b.From) })
	return spans
}
