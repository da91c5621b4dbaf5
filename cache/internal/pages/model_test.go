package pages

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

const (
	modelStorages = 4
	modelEvents   = 200
)

// modelLog is the log that a modelled copy has parts of. It crosses edges of blocks, has
// gaps that are wider than a page may be, and lines that are longer than one.
var modelLog = func() (evs []event.Event) {
	id := event.ID(event.BlockSize - 100)
	for i := range modelEvents {
		size := []int{20, 100, 900, 2000}[i*7%4]
		switch {
		case i%97 == 50:
			size = 5000 + i
		case i%100 == 99:
			id += maxSpan - 5
		}
		id += event.ID(i * i % 3)
		id++
		evs = append(evs, madeEvent(id, modelStorage(i), size))
	}
	return evs
}()

func modelStorage(i int) int64 { return int64(i*i%7%modelStorages) + 1 }

// A pagesModel is two processes on one file, and what the file has to hold: which events
// of the log.
type pagesModel struct {
	t       *rapid.T
	handles [2]*handle
	held    map[int]bool
}

var errModel = errors.New("the transaction is to fail")

func (m *pagesModel) handle() *handle { return m.handles[rapid.IntRange(0, 1).Draw(m.t, "handle")] }

// drawSome draws events of a stretch of the log, each step-th of it.
func (m *pagesModel) drawSome() (some []int) {
	from := rapid.IntRange(0, modelEvents-1).Draw(m.t, "from")
	count := rapid.IntRange(1, 60).Draw(m.t, "count")
	step := rapid.IntRange(1, 5).Draw(m.t, "step")
	for i := from; i < modelEvents && len(some) < count; i += step {
		some = append(some, i)
	}
	return some
}

// store stores some events, in a transaction that may fail.
func (m *pagesModel) store(*rapid.T) {
	h, some, fail := m.handle(), m.drawSome(), rapid.IntRange(0, 3).Draw(m.t, "fail") == 0
	var evs []event.Event
	var storages []int64
	var want []int
	for i, n := range some {
		evs, storages = append(evs, modelLog[n]), append(storages, modelStorage(n))
		if m.held[n] {
			want = append(want, i)
		}
	}
	err := h.file.Update(context.Background(), func(tx *sql.Tx) error {
		_, held, err := h.Store(tx, evs, storages)
		if err == nil && !slices.Equal(held, want) {
			m.t.Fatalf("held are %v, want %v", held, want)
		}
		if err == nil && fail {
			err = errModel
		}
		return err
	})
	m.finish(err, fail, func() {
		for _, n := range some {
			m.held[n] = true
		}
	})
}

// finish applies what a transaction has done, if it did not fail.
func (m *pagesModel) finish(err error, fail bool, apply func()) {
	switch {
	case fail && errors.Is(err, errModel):
	case err != nil:
		m.t.Fatal(err)
	default:
		apply()
	}
}

// drop drops some events, in a transaction that may fail.
func (m *pagesModel) drop(*rapid.T) {
	h, some, fail := m.handle(), m.drawSome(), rapid.IntRange(0, 3).Draw(m.t, "fail") == 0
	var places []Place
	want := 0
	for _, n := range some {
		places = append(places, Place{modelStorage(n), modelLog[n].ID})
		if m.held[n] {
			want++
		}
	}
	err := h.file.Update(context.Background(), func(tx *sql.Tx) error {
		dropped, damaged, err := h.Drop(context.Background(), tx, places)
		if err == nil && (dropped != want || len(damaged) > 0) {
			m.t.Fatalf("dropped %d, want %d; damaged are %v", dropped, want, damaged)
		}
		if err == nil && fail {
			err = errModel
		}
		return err
	})
	m.finish(err, fail, func() {
		for _, n := range some {
			delete(m.held, n)
		}
	})
}

// pack packs what is in a stretch, and in the model changes nothing.
func (m *pagesModel) pack(*rapid.T) { m.handle().mustPack(m.t, m.drawSpan()) }

// contradict stores an event that differs from the one that is held.
func (m *pagesModel) contradict(*rapid.T) {
	h, n := m.handle(), rapid.IntRange(0, modelEvents-1).Draw(m.t, "n")
	if !m.held[n] {
		return
	}
	ev := modelLog[n]
	ev = event.New(ev.ID, ev.Time+1, ev.Draft, ev.Hash)
	err := h.file.Update(context.Background(), func(tx *sql.Tx) error {
		_, _, err := h.Store(tx, []event.Event{ev}, []int64{modelStorage(n)})
		return err
	})
	var held *HeldError
	if !errors.As(err, &held) || held.ID != ev.ID {
		m.t.Fatalf("another event under %s: %v", ev.ID, err)
	}
}

// heldIn returns the held events of a span and a storage, or of all storages.
func (m *pagesModel) heldIn(span window.Span, storage int64) (evs []event.Event) {
	for _, n := range slices.Sorted(maps.Keys(m.held)) {
		ev := modelLog[n]
		if span.From < ev.ID && ev.ID <= span.To && (storage == 0 || storage == modelStorage(n)) {
			evs = append(evs, ev)
		}
	}
	return evs
}

func (m *pagesModel) drawSpan() window.Span {
	i := rapid.IntRange(0, modelEvents-1).Draw(m.t, "first")
	j := rapid.IntRange(i, modelEvents-1).Draw(m.t, "last")
	return window.Span{From: modelLog[i].ID - 1, To: modelLog[j].ID}
}

func (m *pagesModel) scan(*rapid.T) {
	span := m.drawSpan()
	m.handle().mustScan(m.t, span, m.heldIn(span, 0))
}

// lookUp reads a storage by its postings.
func (m *pagesModel) lookUp(*rapid.T) {
	span, storage := m.drawSpan(), rapid.Int64Range(1, modelStorages).Draw(m.t, "storage")
	want := m.heldIn(span, storage)
	m.handle().view(m.t, func(tx *sql.Tx) error {
		posted, err := ReadPostingsOf(context.Background(), tx, []int64{storage}, span)
		if err != nil {
			return err
		}
		if len(posted) != len(want) {
			m.t.Fatalf("%s has %d postings, want %d", span, len(posted), len(want))
		}
		return ReadLines(context.Background(), tx, posted, func(i int, line []byte) error {
			if !bytes.Equal(line, want[i].Line()) {
				m.t.Fatalf("line %d is %.80q", i, line)
			}
			return nil
		})
	})
}

func (m *pagesModel) find(*rapid.T) {
	n := rapid.IntRange(0, modelEvents-1).Draw(m.t, "n")
	m.handle().view(m.t, func(tx *sql.Tx) error {
		line, storage, err := Find(context.Background(), tx, modelLog[n].ID)
		if err != nil {
			return err
		}
		if !m.held[n] && line != nil || m.held[n] && (!bytes.Equal(line, modelLog[n].Line()) || storage != modelStorage(n)) {
			m.t.Fatalf("event %s is %.80q", modelLog[n].ID, line)
		}
		return nil
	})
}

// check checks everything after some steps.
func (m *pagesModel) check(*rapid.T) {
	if rapid.IntRange(0, 3).Draw(m.t, "check") > 0 {
		return
	}
	m.handles[0].mustCheck(m.t, allPosted)
	m.handles[1].mustScan(m.t, everything, m.heldIn(everything, 0))
	if n := m.handles[0].number(m.t, `SELECT count(*) FROM page WHERE count > 1 AND length(lines) > ?`, maxRecord); n > 0 {
		m.t.Fatalf("%d pages are too long", n)
	}
}

// Two processes store, drop and fail; a map knows what has to be there.
func TestAgainstMap(t *testing.T) {
	h := openTables(t)
	defer func(before int) { minCrumbs = before }(minCrumbs)
	minCrumbs = 1
	handles := [2]*handle{h, openHandle(t, h.file.Path)}
	rapid.Check(t, func(rt *rapid.T) {
		h.clear(rt)
		m := &pagesModel{t: rt, handles: handles, held: map[int]bool{}}
		rt.Repeat(map[string]func(*rapid.T){
			"": m.check, "store": m.store, "drop": m.drop, "contradict": m.contradict, "pack": m.pack,
			"scan": m.scan, "lookUp": m.lookUp, "find": m.find,
			"positions": m.positions, "resolve": m.resolve, "findBefore": m.findBefore, "findEach": m.findEach, "count": m.count, "rebuild": m.rebuild,
		})
	})
}
