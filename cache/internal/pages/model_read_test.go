package pages

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"slices"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// findBefore looks for the last event up to a position.
func (m *pagesModel) findBefore(*rapid.T) {
	at := modelLog[rapid.IntRange(0, modelEvents-1).Draw(m.t, "n")].ID + event.ID(rapid.IntRange(0, 3).Draw(m.t, "more"))
	evs := m.heldIn(window.Span{To: at}, 0)
	m.handle().view(m.t, func(tx *sql.Tx) error {
		line, ok, err := Last(context.Background(), tx, window.Span{To: at}, false)
		if err != nil {
			return err
		}
		if ok != (len(evs) > 0) || ok && (line.ID != evs[len(evs)-1].ID || !bytes.Equal(line.Text, evs[len(evs)-1].Line())) {
			m.t.Fatalf("the last event up to %s is %s, %.80q", at, line.ID, line.Text)
		}
		return nil
	})
}

// findEach looks for some events by their ids, and whether they are held.
func (m *pagesModel) findEach(*rapid.T) {
	some := m.drawSome()
	var ids []event.ID
	var evs []event.Event
	var storages []int64
	var want []int
	for i, n := range some {
		ids, evs, storages = append(ids, modelLog[n].ID), append(evs, modelLog[n]), append(storages, modelStorage(n))
		if m.held[n] {
			want = append(want, i)
		}
	}
	m.handle().view(m.t, func(tx *sql.Tx) error {
		err := FindEach(context.Background(), tx, ids, func(i int, line []byte, storage int64) error {
			held := m.held[some[i]]
			if !held && line != nil || held && (!bytes.Equal(line, evs[i].Line()) || storage != storages[i]) {
				m.t.Fatalf("event %s is %.80q", ids[i], line)
			}
			return nil
		})
		if err != nil {
			return err
		}
		held, err := FindHeld(context.Background(), tx, evs, storages)
		if err == nil && !slices.Equal(held, want) {
			m.t.Fatalf("held are %v, want %v", held, want)
		}
		return err
	})
}

// count counts the events of a stretch in both ways.
func (m *pagesModel) count(*rapid.T) {
	span := m.drawSpan()
	m.handle().view(m.t, func(tx *sql.Tx) error {
		counts, err := CountEvents(context.Background(), tx, span)
		if err != nil {
			return err
		}
		var all []int64
		for storage := int64(1); storage <= modelStorages; storage++ {
			all = append(all, storage)
			if want := len(m.heldIn(span, storage)); counts[storage] != want {
				m.t.Fatalf("%s has %d events of storage %d, want %d", span, counts[storage], storage, want)
			}
		}
		held := len(m.heldIn(span, 0))
		if rows, err := CountRows(context.Background(), tx, span); err == nil && rows < held {
			m.t.Fatalf("the rows of %s have %d events, want %d or more", span, rows, held)
		}
		first := (span.From + 1).Block()
		last := min(max(span.From+1, span.To).Block(), first+3)
		posted, err := CountPosted(context.Background(), tx, all, first, last)
		for block := first; block <= last && err == nil; block++ {
			if want := len(m.heldIn(window.BlockSpan(block), 0)); posted[block] != want {
				m.t.Fatalf("block %d has %d posted events, want %d", block, posted[block], want)
			}
		}
		return err
	})
}

// rebuild rebuilds a stretch in which all is sound, with other events of one storage, in a
// transaction that may fail.
func (m *pagesModel) rebuild(*rapid.T) {
	h, span, fail := m.handle(), m.drawSpan(), rapid.IntRange(0, 3).Draw(m.t, "fail") == 0
	storage := rapid.Int64Range(1, modelStorages).Draw(m.t, "storage")
	numbers, places := map[event.ID]int64{}, map[event.ID]int{}
	var add []event.Event
	for n := range modelLog {
		id := modelLog[n].ID
		numbers[id], places[id] = modelStorage(n), n
		if span.From < id && id <= span.To && modelStorage(n) == storage && rapid.Bool().Draw(m.t, "add") {
			add = append(add, modelLog[n])
		}
	}
	goes := func(id event.ID) bool { return span.From < id && id <= span.To && numbers[id] == storage }
	err := h.file.Update(context.Background(), func(tx *sql.Tx) error {
		lost, err := h.Rebuild(context.Background(), tx, Rebuilding{
			Span:   span,
			Drop:   func(ev *event.Event) bool { return goes(ev.ID) },
			Number: func(ev *event.Event) (int64, error) { return numbers[ev.ID], nil },
			Add:    add,
		})
		if err == nil && len(lost) > 0 {
			m.t.Fatalf("lost are %v", lost)
		}
		if err == nil && fail {
			err = errModel
		}
		return err
	})
	if fail && errors.Is(err, errModel) {
		return
	}
	m.finish(err, false, func() {
		for n := range modelLog {
			if goes(modelLog[n].ID) {
				delete(m.held, n)
			}
		}
		for i := range add {
			m.held[places[add[i].ID]] = true
		}
	})
}
