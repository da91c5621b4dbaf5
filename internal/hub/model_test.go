package hub

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"pgregory.net/rapid"
)

// An impatient context is done as soon as anything waits for it, so that a model in one
// goroutine can call Next at any time.
type impatient struct {
	context.Context
	waited bool
}

func (c *impatient) Done() <-chan struct{} {
	c.waited = true
	done := make(chan struct{})
	close(done)
	return done
}

func (c *impatient) Err() error {
	if c.waited {
		return context.Canceled
	}
	return nil
}

// A reader is a subscription and the expectations of it.
type reader struct {
	sub *Subscription
	pos event.ID
}

// A world is a hub, the slow oracle, and the readers.
type world struct {
	log     *log
	hub     *Hub
	cfg     Config
	next    event.ID // the next id that may be given
	told    event.ID // what the hub has been told of
	readers []*reader
}

// Few enough that most topics match now and then, and overlap.
var (
	fewPaths  = []string{"p", "p/o", "p/o/o", "po"}
	fewTopics = []string{"*", "a", "a/p", "a/p/", "a/p*", "b/p/o$", "*/p/o", "*/po*", "*/p$"}
)

var errSource = errors.New("source is out of order")

func newWorld(t *rapid.T) *world {
	w := &world{log: &log{}, next: 1}
	w.cfg = Config{
		Queue: rapid.IntRange(1, 4).Draw(t, "queue"),
		Chunk: rapid.IntRange(1, 3).Draw(t, "chunk"),
	}
	if n := rapid.IntRange(0, 5).Draw(t, "history"); n > 0 {
		w.commit(t, n)
	}
	w.told = w.log.end
	w.hub = New(w.log, w.told, w.cfg)
	// While the Source is read, events are published, or the read fails.
	w.log.before = func() error {
		switch rapid.IntRange(0, 9).Draw(t, "meanwhile") {
		case 0:
			return errSource
		case 1:
			w.publish(t)
		case 2:
			w.uncertain(t)
		}
		return nil
	}
	return w
}

// commit adds n events of a few storages to the log.
func (w *world) commit(t *rapid.T, n int) []event.Event {
	evs := make([]event.Event, n)
	for i := range evs {
		if i < 3 {
			evs[i] = newEvent(w.next, users.Draw(t, "user"), rapid.SampledFrom(fewPaths).Draw(t, "path"))
		} else {
			evs[i] = newEvent(w.next, evs[i-3].User, evs[i-3].Path)
		}
		w.next++
	}
	w.next += event.ID(rapid.IntRange(0, 2).Draw(t, "hole"))
	w.log.add(evs...)
	return evs
}

// publish publishes a few events, some of them again, none, or in more than one call.
func (w *world) publish(t *rapid.T) {
	n := rapid.SampledFrom([]int{0, 1, 1, 1, 1, 2, 2, 3, 3, 7, 70}).Draw(t, "events")
	evs := []event.Event{}
	if n > 0 {
		evs = w.commit(t, n)
	} else {
		w.next++
		w.log.end = w.next - 1
	}
	if known := len(w.log.evs) - n; known > 0 && rapid.Bool().Draw(t, "again") {
		evs = w.log.evs[rapid.IntRange(w.firstFresh(known), known).Draw(t, "from"):]
	}
	if cut := rapid.IntRange(0, len(evs)).Draw(t, "cut"); cut > 0 {
		w.hub.Publish(slices.Clone(evs[:cut]), evs[cut-1].ID)
		evs = evs[cut:]
	}
	w.told = max(w.log.end, w.told)
	w.hub.Publish(slices.Clone(evs), w.told)
}

// firstFresh returns an index before which nothing needs to be repeated.
func (w *world) firstFresh(known int) int { return max(0, known-3) }

// uncertain announces only the new head.
func (w *world) uncertain(t *rapid.T) {
	w.commit(t, rapid.IntRange(1, 3).Draw(t, "events"))
	w.told = w.log.end
	if rapid.Bool().Draw(t, "nil") {
		w.hub.Publish(nil, w.told)
	} else {
		w.hub.Advance(w.told)
	}
}

// hide makes the Source fall behind the announced head; show ends that.
func (w *world) hide(t *rapid.T) {
	w.log.end = event.ID(rapid.Uint64Range(0, uint64(w.log.end)).Draw(t, "end"))
}

func (w *world) show() {
	w.log.end = w.told
	w.hub.Advance(w.told)
}

func (w *world) subscribe(t *rapid.T) {
	after := event.ID(rapid.Uint64Range(0, uint64(w.told)+2).Draw(t, "after"))
	names := rapid.SliceOfN(rapid.SampledFrom(fewTopics), 1, 3).Draw(t, "topics")
	ts := topics(t, names...)
	w.readers = append(w.readers, &reader{w.hub.Subscribe(ts, after), after})
}

func (w *world) reader(t *rapid.T) *reader {
	if len(w.readers) == 0 {
		t.Skip("nobody")
	}
	return rapid.SampledFrom(w.readers).Draw(t, "reader")
}

// read calls Next once and checks what it gives. It reports whether it gave
// anything.
func (w *world) read(t *rapid.T, r *reader) bool {
	b, err := r.sub.Next(&impatient{Context: context.Background()})
	if err != nil {
		if !errors.Is(err, errSource) && !errors.Is(err, context.Canceled) {
			t.Fatalf("Next: %v", err)
		}
		w.position(t, r)
		return !errors.Is(err, context.Canceled)
	}
	want := w.log.between(r.sub.topics, r.pos, b.Position)
	if b.Position < r.pos || !slices.Equal(ids(b.Events), want) {
		t.Fatalf("Next at %d = %v up to %d, want %v", r.pos, ids(b.Events), b.Position, want)
	}
	r.pos = b.Position
	w.position(t, r)
	return true
}

// position checks that Position never passes an event that was not given.
func (w *world) position(t *rapid.T, r *reader) {
	pos := r.sub.Position()
	if pos < r.pos {
		t.Fatalf("Position() = %d, before %d", pos, r.pos)
	}
	if missed := w.log.between(r.sub.topics, r.pos, pos); missed != nil {
		t.Fatalf("Position() = %d, but %v after %d have not been given", pos, missed, r.pos)
	}
	if pos > r.pos && pos > w.hub.Head() {
		t.Fatalf("Position() = %d, beyond the head %d", pos, w.hub.Head())
	}
	r.pos = pos
}

// In any order of operations, each reader gets exactly the events after its start, in order
// and once, and in the end is at the head.
func TestNobodyMissesAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"publish":   w.publish,
			"uncertain": w.uncertain,
			"subscribe": w.subscribe,
			"hide":      w.hide,
			"show":      func(*rapid.T) { w.show() },
			"read":      func(t *rapid.T) { w.read(t, w.reader(t)) },
			"readAll": func(t *rapid.T) {
				r := w.reader(t)
				for range 20 {
					w.read(t, r)
				}
			},
			"position": func(t *rapid.T) { w.position(t, w.reader(t)) },
			"leave": func(t *rapid.T) {
				r := w.reader(t)
				r.sub.Close()
				if _, err := r.sub.Next(t.Context()); !errors.Is(err, ErrClosed) {
					t.Fatalf("Next after Close: %v", err)
				}
				w.readers = slices.DeleteFunc(w.readers, func(o *reader) bool { return o == r })
			},
		})
		w.log.before = nil
		w.show()
		for _, r := range w.readers {
			w.finish(t, r)
		}
		if len(w.hub.stalls.subs) != 0 {
			t.Errorf("%d subscriptions wait for the Source", len(w.hub.stalls.subs))
		}
	})
}

func (w *world) finish(t *rapid.T, r *reader) {
	for w.read(t, r) {
	}
	if r.pos < w.hub.Head() {
		t.Errorf("in the end the reader of %v is at %d, not at %d", r.sub.topics, r.pos, w.hub.Head())
	}
	r.sub.Close()
}
