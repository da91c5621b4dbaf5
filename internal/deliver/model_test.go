package deliver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// A behaviour is how a worker does with an event.
type behaviour int

const (
	works behaviour = iota
	failsTwice
	fails    // until it is repaired
	hangs    // until it is repaired
	kills    // the process, until it is repaired
	busy     // asks twice to be tried again
	behavers // how many there are
)

// A scenario is what happens to a log of events, and to the processes that consume it.
type scenario struct {
	storages  []int // of each event
	behaves   []behaviour
	leftOut   []bool
	workers   int
	batch     int
	tries     int
	kills     []time.Duration // after which the processes are killed
	orderly   []bool          // or end in order
	seed      uint64
	batchSize int
}

func drawScenario(t *rapid.T) *scenario {
	n := rapid.IntRange(1, 60).Draw(t, "events")
	s := &scenario{
		storages:  rapid.SliceOfN(rapid.IntRange(0, rapid.IntRange(0, 8).Draw(t, "storages")), n, n).Draw(t, "storage"),
		leftOut:   rapid.SliceOfN(rapid.SampledFrom([]bool{false, false, false, false, true}), n, n).Draw(t, "left out"),
		workers:   rapid.IntRange(1, 5).Draw(t, "workers"),
		batch:     rapid.SampledFrom([]int{1, 1, 4}).Draw(t, "batch"),
		tries:     rapid.SampledFrom([]int{0, 0, 3}).Draw(t, "tries"),
		seed:      rapid.Uint64().Draw(t, "seed"),
		batchSize: rapid.IntRange(1, 20).Draw(t, "batch size"),
	}
	bad := rapid.IntRange(0, 10).Draw(t, "bad in ten")
	for range n {
		b := works
		if rapid.IntRange(1, 10).Draw(t, "luck") <= bad {
			b = behaviour(rapid.IntRange(1, int(behavers)-1).Draw(t, "behaviour"))
		}
		s.behaves = append(s.behaves, b)
	}
	for range rapid.IntRange(0, 6).Draw(t, "processes") {
		s.kills = append(s.kills, time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms"))*time.Millisecond)
		s.orderly = append(s.orderly, rapid.Bool().Draw(t, "orderly"))
	}
	return s
}

// A world is the file, and all that is known of the events, in the slowest way: a log of all
// tries.
type world struct {
	*scenario
	mu       sync.Mutex
	rand     *rand.Rand
	events   []*event.Event
	repaired bool

	position event.ID
	state    []byte
	blocked  map[event.Storage]cache.BlockedStorage
	dead     map[int64]cache.DeadLetter
	number   int64

	done            map[event.ID]time.Time // the last success
	doneNow         map[event.ID]time.Time // in this life
	stored          map[event.ID]bool      // is not done again
	tried           map[event.ID]int       // failed tries
	killed, charged int
	running         map[event.Storage]event.ID
	last            map[event.Storage]event.ID // the last event that was done in this life
	errs            []error
}

// A life is one process.
type life struct {
	killed chan struct{}
	once   sync.Once
}

func (l *life) gone() bool {
	select {
	case <-l.killed:
		return true
	default:
		return false
	}
}

func (w *world) errorf(format string, args ...any) {
	w.errs = append(w.errs, fmt.Errorf(format, args...))
}

var errKilled = errors.New("killed")

// lifeStore is the file as one process sees it.
type lifeStore struct {
	*world
	life *life
}

func (s lifeStore) Position() event.ID { return s.position }
func (s lifeStore) State() []byte      { return s.state }

func (s lifeStore) Blocked(context.Context) (list []cache.BlockedStorage, err error) {
	for _, b := range s.blocked {
		list = append(list, b)
	}
	return list, nil
}

const stepLatency = 3 * time.Millisecond

func (s lifeStore) Step(ctx context.Context, step *cache.ConsumerStep) error {
	time.Sleep(stepLatency)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.gone() {
		return errKilled
	}
	if ctx.Err() != nil {
		s.errorf("a step has a context that has ended")
	}
	s.position, s.state = step.Position, step.State
	for _, st := range step.Unblock {
		delete(s.blocked, st)
	}
	for _, b := range step.Block {
		s.blocked[b.Storage] = b
	}
	for _, d := range step.Bury {
		s.number++
		d.Number = s.number
		s.dead[d.Number] = d
		s.checkDead(&d)
	}
	for _, d := range step.Return {
		if _, ok := s.dead[d.Number]; ok {
			s.dead[d.Number] = d
		}
	}
	for _, n := range step.Remove {
		delete(s.dead, n)
	}
	s.checkOpen(step.State)
	oldest := event.ID(0)
	for _, ev := range s.events {
		if _, ok := s.done[ev.ID]; !ok && !s.leftOut[ev.ID-1] && ev.ID <= s.position && !s.isDead(ev.ID) {
			oldest = ev.ID
			break
		}
	}
	if oldest != 0 && (step.Oldest == 0 || step.Oldest > oldest) {
		s.errorf("a step says that %s is the oldest unfinished event, and %s is", step.Oldest, oldest)
	}
	return nil
}

// checkOpen checks that each event that a state names is the first unfinished one of a storage.
func (w *world) checkOpen(state []byte) {
	stored, err := decodeState(state)
	if err != nil {
		w.errorf("a step's state: %w", err)
	}
	open, err := decodeOpen(stored.Open)
	if err != nil {
		w.errorf("a step's state: %w", err)
	}
	for _, o := range open {
		if o.id > event.ID(len(w.events)) {
			w.errorf("a step's state names %s, which is no event", o.id)
			continue
		}
		for _, ev := range w.events[:o.id-1] {
			if _, done := w.done[ev.ID]; ev.Storage() == w.events[o.id-1].Storage() && !done && !w.leftOut[ev.ID-1] && !w.isDead(ev.ID) {
				w.errorf("a step's state names %s, and %s of its storage is not done", o.id, ev.ID)
			}
		}
	}
}

func (w *world) isDead(id event.ID) bool {
	for _, d := range w.dead {
		if d.Event.ID == id {
			return true
		}
	}
	return false
}

// checkDead checks that a dead letter deserves it.
func (w *world) checkDead(d *cache.DeadLetter) {
	// A process that is killed costs at most one event a try: the one that was alone.
	// Failures that were not stored before a kill do not count.
	charged := max(0, d.Tries-w.tried[d.Event.ID])
	switch w.charged += charged; {
	case d.Tries != w.scenario.tries:
		w.errorf("%s is dead after %d tries, want %d", d.Event.ID, d.Tries, w.scenario.tries)
	case w.charged > w.killed:
		w.errorf("%s is dead after %d tries, of which %d failed; %d processes were killed", d.Event.ID, d.Tries, w.tried[d.Event.ID], w.killed)
	}
}

func (s lifeStore) EventsByID(_ context.Context, ids []event.ID) (evs []event.Event, err error) {
	for _, id := range ids {
		evs = append(evs, *s.events[id-1])
	}
	return evs, nil
}

func (s lifeStore) ReadStorage(_ context.Context, st event.Storage, after, until event.ID, limit int) (evs []event.Event, next event.ID, err error) {
	time.Sleep(time.Millisecond)
	for _, ev := range s.events {
		if ev.ID > after && ev.ID <= until && ev.Storage() == st {
			if len(evs) == limit {
				return evs, evs[limit-1].ID, nil
			}
			evs = append(evs, *ev)
		}
	}
	return evs, max(after, until), nil
}

func (s lifeStore) AskedAgain(context.Context) (list []cache.DeadLetter, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dead {
		if d.Retry {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b cache.DeadLetter) int { return cmp.Compare(a.Number, b.Number) })
	return list, nil
}

// batches returns the events after a position, in pieces.
func (w *world) batches(ctx context.Context, after event.ID) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		for at := int(after); at < len(w.events); {
			end := min(at+w.batchSize, len(w.events))
			if !yield(Batch{w.events[at:end], event.ID(end)}, nil) {
				return
			}
			at = end
		}
		w.mu.Lock()
		repaired := w.repaired
		w.mu.Unlock()
		if !repaired {
			<-ctx.Done()
		}
	}
}

// lifeWorker tries events in one process.
type lifeWorker struct {
	*world
	life *life
}

func (w lifeWorker) Close() {}

func (w lifeWorker) Do(ctx context.Context, t *Try) error {
	if w.life.gone() { // what is done by a process that is gone is not done
		<-ctx.Done()
		return ctx.Err()
	}
	w.mu.Lock()
	pause := time.Duration(w.rand.IntN(20)) * time.Millisecond
	for _, ev := range t.Events {
		w.start(ev, t)
	}
	repaired := w.repaired
	w.mu.Unlock()
	var err error
	for _, ev := range t.Events {
		err = errors.Join(err, w.doOne(ctx, ev, pause, repaired))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ev := range t.Events {
		delete(w.running, ev.Storage())
	}
	if w.life.gone() {
		return errKilled
	}
	var again *AgainError
	for _, ev := range t.Events {
		switch {
		case err == nil:
			w.done[ev.ID] = time.Now()
			w.doneNow[ev.ID] = time.Now()
			if !t.Dead {
				w.last[ev.Storage()] = ev.ID
			}
		case len(t.Events) == 1 && !errors.As(err, &again) && ctx.Err() != errEnding:
			w.tried[ev.ID]++
		}
	}
	return err
}

// start checks the laws of order.
func (w *world) start(ev *event.Event, t *Try) {
	if w.leftOut[ev.ID-1] {
		w.errorf("%s is tried, though it is left out", ev.ID)
	}
	if other, ok := w.running[ev.Storage()]; ok && len(t.Events) == 1 {
		w.errorf("%s is tried while %s of the same storage is", ev.ID, other)
	}
	w.running[ev.Storage()] = ev.ID
	if t.Dead {
		return
	}
	if w.stored[ev.ID] {
		w.errorf("%s is tried again, though it was done long before the last process ended", ev.ID)
	}
	for _, before := range w.events[:ev.ID-1] {
		if slices.ContainsFunc(t.Events, func(ev *event.Event) bool { return ev.ID == before.ID }) { // of the same batch
			continue
		}
		if _, ok := w.done[before.ID]; before.Storage() == ev.Storage() && !ok && !w.leftOut[before.ID-1] && !w.isDead(before.ID) && w.tries == 0 {
			w.errorf("%s is tried before %s of its storage is done", ev.ID, before.ID)
		}
	}
	if w.last[ev.Storage()] > ev.ID {
		w.errorf("%s is tried after %s was done in one process", ev.ID, w.last[ev.Storage()])
	}
}

func (w lifeWorker) doOne(ctx context.Context, ev *event.Event, pause time.Duration, repaired bool) error {
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return ctx.Err()
	}
	w.mu.Lock()
	tried, coin := w.tried[ev.ID], w.rand.IntN(2)
	w.mu.Unlock()
	b := w.behaves[ev.ID-1]
	switch {
	case repaired:
	case b == failsTwice && tried < 2, b == fails:
		return errors.New("it failed")
	case b == busy && coin == 0:
		return &AgainError{300 * time.Millisecond, errors.New("busy")}
	case b == hangs:
		<-ctx.Done()
		return ctx.Err()
	case b == kills:
		w.kill(w.life)
		return errKilled
	}
	return nil
}

// kill ends a process at once.
func (w *world) kill(l *life) {
	l.once.Do(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.killed++
		clear(w.running)
		// A step begins up to groupTime late, or after the one before it.
		w.store(time.Now().Add(-groupTime - 2*stepLatency))
		close(l.killed)
	})
}

// store takes that all that was done by a time is stored.
func (w *world) store(by time.Time) {
	for id, at := range w.doneNow {
		if !at.After(by) {
			w.stored[id] = true
		}
	}
}

// live runs one process until it is killed, ends in order, or is done.
func (w *world) live(after time.Duration, orderly bool) error {
	l := &life{killed: make(chan struct{})}
	clear(w.last)
	clear(w.doneNow)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Config{
			Store: lifeStore{w, l}, Batches: w.batches, NewWorker: func() Worker { return lifeWorker{w, l} },
			Workers: w.workers, Batch: w.batch, Tries: w.tries, TryTimeout: 2 * time.Second, Grace: 3 * time.Second,
			Want: func(ev *event.Event) (bool, error) { return !w.leftOut[ev.ID-1], nil },
		})
	}()
	var timer <-chan time.Time
	if after > 0 {
		timer = time.After(after)
	}
	select {
	case <-timer:
		if !orderly {
			w.kill(l)
		}
	case <-l.killed:
	case err := <-ended:
		return err
	}
	cancel()
	err := <-ended
	if !orderly || l.gone() {
		return nil
	}
	w.store(time.Now())
	if !errors.Is(err, context.Canceled) {
		return fmt.Errorf("it ended with %v, want that it was canceled", err)
	}
	return nil
}

// run returns what is wrong with the outcome of a scenario.
func (s *scenario) run() []error {
	w := &world{scenario: s, rand: rand.New(rand.NewPCG(s.seed, 0)), blocked: map[event.Storage]cache.BlockedStorage{}, dead: map[int64]cache.DeadLetter{},
		done: map[event.ID]time.Time{}, doneNow: map[event.ID]time.Time{}, stored: map[event.ID]bool{}, tried: map[event.ID]int{}, running: map[event.Storage]event.ID{}, last: map[event.Storage]event.ID{}}
	for i, st := range s.storages {
		d := event.Draft{User: "u", Path: fmt.Sprint(st), Type: event.Put, Key: fmt.Sprint(i), Value: []byte("1")}
		ev := event.New(event.ID(i+1), event.Time(i+1), d, d.Hash())
		w.events = append(w.events, &ev)
	}
	for i, after := range s.kills {
		if err := w.live(after, s.orderly[i]); err != nil {
			w.errorf("process %d: %w", i, err)
		}
	}
	w.repaired = true
	for range 2 { // the first one may give up events that have killed others
		for n, d := range w.dead {
			d.Retry = true
			w.dead[n] = d
		}
		if err := w.live(0, false); err != nil {
			w.errorf("the last process: %w", err)
		}
	}
	for _, ev := range w.events {
		if _, ok := w.done[ev.ID]; !ok && !w.leftOut[ev.ID-1] {
			w.errorf("%s is not done", ev.ID)
		}
	}
	if len(w.blocked) > 0 || len(w.dead) > 0 {
		w.errorf("in the end, %d storages are blocked and %d events are dead", len(w.blocked), len(w.dead))
	}
	if w.position != event.ID(len(w.events)) {
		w.errorf("in the end, the position is %s", w.position)
	}
	return w.errs
}

// A worker does what a function says of each try.
type funcWorker func(t *Try) error

func (f funcWorker) Do(_ context.Context, t *Try) error { return f(t) }
func (f funcWorker) Close()                             {}

// A destination may be busy for some of the tries that are under way, and not for others.
func TestHeldBackPartly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newListStore(4, 4)
		begun := time.Now()
		var busy atomic.Int32
		worker := funcWorker(func(t *Try) error {
			id := t.Events[0].ID
			if time.Since(begun) > 0 {
				return nil
			}
			time.Sleep(time.Duration(id) * time.Millisecond)
			if id%2 == 0 {
				return nil
			}
			busy.Add(1)
			return &AgainError{0, errors.New("busy")}
		})
		err := Run(t.Context(), Config{Store: s, Batches: s.batches, NewWorker: func() Worker { return worker }, Workers: 4})
		if err != nil || s.Position() != 4 || busy.Load() != 2 {
			t.Errorf("at %s after it was busy %d times: %v", s.Position(), busy.Load(), err)
		}
		if took := time.Since(begun); took < 200*time.Millisecond || took > 300*time.Millisecond {
			t.Errorf("it took %s, want one pause of 200ms", took)
		}
	})
}

// An againStore has a dead letter that is to be tried again from some time on.
type againStore struct {
	*listStore
	from time.Time
	gone atomic.Bool
}

func (s *againStore) AskedAgain(context.Context) ([]cache.DeadLetter, error) {
	if s.gone.Load() || time.Now().Before(s.from) {
		return nil, nil
	}
	return []cache.DeadLetter{{Number: 1, Event: *s.events[0], Tries: 3, Retry: true}}, nil
}

func (s *againStore) Step(ctx context.Context, step *cache.ConsumerStep) error {
	if len(step.Remove) > 0 {
		s.gone.Store(true)
	}
	return s.listStore.Step(ctx, step)
}

// A dead letter is tried again soon, also while the events of its storage wait for long, and
// these keep their time.
func TestDeadWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		s := &againStore{listStore: newListStore(2, 1), from: begun.Add(30 * time.Second)}
		s.ConsumerStep.Position = 1
		var tried []time.Duration // after the letter was asked for
		worker := funcWorker(func(t *Try) error {
			if after := time.Since(s.from); after >= 0 {
				tried = append(tried, after)
			}
			if t.Dead {
				return nil
			}
			return errors.New("no")
		})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		err := Run(ctx, Config{Store: s, Batches: s.batches, NewWorker: func() Worker { return worker }})
		if !errors.Is(err, context.DeadlineExceeded) || !s.gone.Load() {
			t.Errorf("the dead letter is done: %t, %v", s.gone.Load(), err)
		}
		// The other event is tried after 0.2, 0.6, 1.4, 3, 6.2, 12.6, 25.4 and 51 seconds.
		if len(tried) != 2 || tried[0] > 1100*time.Millisecond || tried[1] < 20*time.Second || tried[1] > 22*time.Second {
			t.Errorf("tried after %v", tried)
		}
	})
}

// A letterStore is an againStore that keeps the dead letter as it is stored.
type letterStore struct {
	*againStore
	letter cache.DeadLetter
}

func (s *letterStore) Step(ctx context.Context, step *cache.ConsumerStep) error {
	s.mu.Lock()
	for _, d := range step.Return {
		s.letter = d
	}
	s.mu.Unlock()
	return s.againStore.Step(ctx, step)
}

// While the destination is busy, a dead letter stays one that is to be tried again, without
// another try: a process that is killed then costs nothing.
func TestDeadWhileHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &letterStore{againStore: &againStore{listStore: newListStore(1, 1)}}
		s.ConsumerStep.Position = 1
		worker := funcWorker(func(*Try) error { return &AgainError{time.Minute, errors.New("no connection")} })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
		defer cancel()
		ended := make(chan error, 1)
		batches := func(ctx context.Context, _ event.ID) iter.Seq2[Batch, error] {
			return func(func(Batch, error) bool) { <-ctx.Done() }
		}
		go func() {
			ended <- Run(ctx, Config{Store: s, Batches: batches, NewWorker: func() Worker { return worker }})
		}()
		time.Sleep(30 * time.Second)
		s.mu.Lock()
		if !s.letter.Retry || s.letter.Tries != 3 {
			t.Errorf("the dead letter has %d tries, and is to be tried again: %t", s.letter.Tries, s.letter.Retry)
		}
		s.mu.Unlock()
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// A lettersStore has dead letters that are to be tried again, and tells of a few at a time.
type lettersStore struct {
	*listStore
	letters []cache.DeadLetter
}

func (s *lettersStore) AskedAgain(context.Context) (some []cache.DeadLetter, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.letters {
		if d.Retry && len(some) < 3 {
			some = append(some, d)
		}
	}
	return some, nil
}

func (s *lettersStore) Step(ctx context.Context, step *cache.ConsumerStep) error {
	s.mu.Lock()
	for _, d := range step.Return {
		s.letters[d.Number-1] = d
	}
	s.mu.Unlock()
	return s.listStore.Step(ctx, step)
}

// A consumer that is to end when all is done ends after the last dead letter that was asked for,
// however few the store tells of at a time. It does not wait between them, unless the
// destination is busy.
func TestDeadMany(t *testing.T) {
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := &lettersStore{listStore: newListStore(10, 4)}
			s.ConsumerStep.Position = 10
			for i, ev := range s.events {
				s.letters = append(s.letters, cache.DeadLetter{Number: int64(i + 1), Event: *ev, Tries: 3, Retry: true})
			}
			begun, tried, again := time.Now(), 0, busy
			worker := funcWorker(func(t *Try) error {
				if again && tried == 9 {
					again = false
					time.Sleep(3 * time.Second) // a look finds no other one
					return &AgainError{time.Minute, errors.New("no connection")}
				}
				tried++
				return errors.New("no")
			})
			err := Run(t.Context(), Config{Store: s, Batches: s.batches, NewWorker: func() Worker { return worker }})
			if took := time.Since(begun); err != nil || tried != 10 || !busy && took > 2*time.Second {
				t.Errorf("busy: %t; %d dead letters were tried in %s: %v", busy, tried, took, err)
			}
		})
	}
}

// A slowStore takes a while to read a storage.
type slowStore struct{ *listStore }

const slowRead = 10 * time.Millisecond

func (s slowStore) ReadStorage(ctx context.Context, st event.Storage, after, until event.ID, limit int) ([]event.Event, event.ID, error) {
	time.Sleep(slowRead)
	return s.listStore.ReadStorage(ctx, st, after, until, limit)
}

// An event may come while those before it, of which there are none, are read.
func TestEventWhileReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slowStore{newListStore(2, 1)}
		// A process was killed while the first event was under way.
		state, err := json.Marshal(storedState{Consumer: stateVersion, Open: encodeOpen([]openEvent{{1, 1}})})
		if err != nil {
			t.Fatal(err)
		}
		s.ConsumerStep = cache.ConsumerStep{Position: 1, State: state, Oldest: 1}
		batches := func(context.Context, event.ID) iter.Seq2[Batch, error] {
			return func(yield func(Batch, error) bool) {
				time.Sleep(slowRead + slowRead/2) // the first event is done, and its storage is read on
				yield(Batch{s.events[1:], 2}, nil)
			}
		}
		done := 0
		worker := funcWorker(func(*Try) error { done++; return nil })
		if err := Run(t.Context(), Config{Store: s, Batches: batches, NewWorker: func() Worker { return worker }}); err != nil || done != 2 {
			t.Errorf("%d events are done: %v", done, err)
		}
	})
}

// An event that is given up since processes were killed while it was under way is told like others.
func TestKilledTold(t *testing.T) {
	s := newListStore(2, 1)
	state, err := json.Marshal(storedState{Consumer: stateVersion, Open: encodeOpen([]openEvent{{1, 1}})})
	if err != nil {
		t.Fatal(err)
	}
	s.ConsumerStep = cache.ConsumerStep{Position: 2, State: state, Oldest: 1}
	st := s.events[0].Storage()
	s.blocked[st] = cache.BlockedStorage{Storage: st, First: 1, Tries: 3}
	var told []Failure
	worker := funcWorker(func(*Try) error { return nil })
	err = Run(t.Context(), Config{Store: s, Batches: s.batches, NewWorker: func() Worker { return worker }, Tries: 3, OnFail: func(f Failure) { told = append(told, f) }})
	if err != nil || len(told) != 1 || told[0].Event.ID != 1 || told[0].Try != 3 || !told[0].Dead || told[0].Err == nil {
		t.Errorf("told %+v: %v", told, err)
	}
}

// An event of which is not known whether it is wanted, since the consumer was stopped, is not done:
// neither a new one, nor one of a storage that waits.
func TestWantStopped(t *testing.T) {
	for _, waits := range []bool{false, true} {
		s := newListStore(3, 1)
		if waits {
			st := s.events[0].Storage()
			s.ConsumerStep.Position, s.ConsumerStep.Oldest = 3, 1
			s.blocked[st] = cache.BlockedStorage{Storage: st, First: 1}
		}
		stopped := errors.New("stopped")
		var done []event.ID
		want := func(ev *event.Event) (bool, error) {
			if ev.ID == 3 {
				return false, stopped
			}
			return false, nil
		}
		for _, expected := range []error{stopped, nil} {
			worker := funcWorker(func(t *Try) error { done = append(done, t.Events[0].ID); return nil })
			err := Run(t.Context(), Config{Store: s, Batches: s.batches, NewWorker: func() Worker { return worker }, Want: want})
			if !errors.Is(err, expected) {
				t.Errorf("Run: %v, want %v", err, expected)
			}
			want = func(ev *event.Event) (bool, error) { return ev.ID == 3, nil }
		}
		if !slices.Equal(done, []event.ID{3}) || s.Position() != 3 || len(s.blocked) > 0 {
			t.Errorf("waits %t: %v are done, at %s, and %d storages wait", waits, done, s.Position(), len(s.blocked))
		}
	}
}

// A lineWorker only makes the lines of events.
type lineWorker struct{}

func (lineWorker) Do(ctx context.Context, t *Try) error {
	_, err := t.appendLine(ctx, nil)
	return err
}
func (lineWorker) Close() {}

// A line that takes too long ends with its try: that counts as a failure, and the end of the
// consumer does not.
func TestLineEnds(t *testing.T) {
	line := func(ctx context.Context, b []byte, _ *event.Event) ([]byte, error) {
		<-ctx.Done()
		return b, errors.New("cut off")
	}
	for _, limit := range []time.Duration{time.Second, 0} {
		synctest.Test(t, func(t *testing.T) {
			s := newListStore(1, 1)
			var failure error
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			err := Run(ctx, Config{Store: s, Batches: s.batches, NewWorker: func() Worker { return lineWorker{} }, Line: line,
				Tries: 1, TryTimeout: limit, OnFail: func(f Failure) { failure = f.Err }})
			late := errors.As(failure, new(*TimeoutError))
			switch {
			case limit > 0 && (err != nil || !late || s.Oldest != 0):
				t.Errorf("a line that takes longer than its try: %v, the try: %v, unfinished: %s", err, failure, s.Oldest)
			case limit == 0 && (!errors.Is(err, context.DeadlineExceeded) || failure != nil || s.Oldest != 1):
				t.Errorf("a line that takes longer than the consumer: %v, the try: %v, unfinished: %s", err, failure, s.Oldest)
			}
		})
	}
}

// lower makes bounds so small that few events reach them.
func lower(t *testing.T, bounds map[*int]int) {
	for bound, n := range bounds {
		old := *bound
		*bound = n
		t.Cleanup(func() { *bound = old })
	}
}

// A readsStore counts the reads of storages, each of which takes a while.
type readsStore struct {
	slowStore
	reads atomic.Int32
}

func (s *readsStore) ReadStorage(ctx context.Context, st event.Storage, after, until event.ID, limit int) ([]event.Event, event.ID, error) {
	s.reads.Add(1)
	return s.slowStore.ReadStorage(ctx, st, after, until, limit)
}

// A storage that failed, with more events than are read of it at once, is tried again after its
// pause, also while a backlog of others keeps the queues full. It is not read more often than
// that takes.
func TestRetriedBesideBacklog(t *testing.T) {
	lower(t, map[*int]int{&maxQueued: 64, &maxRead: 16, &loadEvents: 4})
	synctest.Test(t, func(t *testing.T) {
		s := &readsStore{slowStore: slowStore{newListStore(10_000, 10)}}
		begun := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var again time.Duration
		tries := 0
		worker := funcWorker(func(t *Try) error {
			time.Sleep(time.Millisecond)
			if t.Events[0].ID != 1 {
				return nil
			}
			if tries++; tries == 2 {
				again = time.Since(begun)
				cancel()
			}
			return errors.New("no")
		})
		batches := func(context.Context, event.ID) iter.Seq2[Batch, error] {
			return func(yield func(Batch, error) bool) {
				for evs := range slices.Chunk(s.events, 10) {
					if !yield(Batch{evs, evs[len(evs)-1].ID}, nil) {
						return
					}
				}
			}
		}
		err := Run(ctx, Config{Store: s, Batches: batches, NewWorker: func() Worker { return worker }})
		if !errors.Is(err, context.Canceled) || again < 200*time.Millisecond || again > time.Second {
			t.Errorf("tried again after %s, want 200ms and a little more: %v", again, err)
		}
		if reads := s.reads.Load(); reads > 5 {
			t.Errorf("%d reads", reads)
		}
	})
}

var errDropped = errors.New("it was dropped")

// A droppingStore no longer has the events up to one, from some time on.
type droppingStore struct {
	*listStore
	oldest event.ID
	from   time.Time
}

func (s *droppingStore) ReadStorage(ctx context.Context, st event.Storage, after, until event.ID, limit int) ([]event.Event, event.ID, error) {
	if after < s.oldest && !time.Now().Before(s.from) {
		return nil, after, fmt.Errorf("read after %s: %w", after, errDropped)
	}
	return s.listStore.ReadStorage(ctx, st, after, until, limit)
}

// A storage whose unfinished events the copy no longer has goes on after them, if that is asked for,
// and is done if it has no others. All other storages are done in any case.
func TestDroppedUnfinished(t *testing.T) {
	for oldest, want := range map[event.ID][]event.ID{4: {5, 7}, 8: nil} {
		synctest.Test(t, func(t *testing.T) {
			s := &droppingStore{newListStore(8, 2), oldest, time.Now().Add(time.Second)}
			first, dropped := s.events[0].Storage(), ""
			var done []event.ID
			others := 0
			worker := funcWorker(func(t *Try) error {
				switch ev := t.Events[0]; {
				case ev.Storage() != first:
					others++
				case ev.ID == 1:
					return errors.New("no")
				default:
					done = append(done, ev.ID)
				}
				return nil
			})
			cfg := Config{Store: s, Batches: s.batches, NewWorker: func() Worker { return worker }}
			if err := Run(t.Context(), cfg); !errors.Is(err, errDropped) || others != 4 {
				t.Errorf("without PassDropped: %v; %d events of another storage are done", err, others)
			}
			cfg.PassDropped = func(d Dropped) (event.ID, bool) {
				dropped += fmt.Sprintf("%s: %v; ", d.Storage, d.Err)
				return oldest, d.Unfinished && errors.Is(d.Err, errDropped)
			}
			if err := Run(t.Context(), cfg); err != nil || !slices.Equal(done, want) || s.Position() != 8 || s.Oldest != 0 || len(s.blocked) > 0 {
				t.Errorf("%v; %v are done; it is at %s, %s is unfinished, and %d storages wait", err, done, s.Position(), s.Oldest, len(s.blocked))
			}
			if want := fmt.Sprintf("%s: read after %s: %v; ", first, event.Beginning, errDropped); dropped != want {
				t.Errorf("dropped %s, want %s", dropped, want)
			}
		})
	}
}

// Whatever workers do and however processes end, each event is done, or dead if it deserves
// it, and the order of each storage holds.
func TestModel(t *testing.T) {
	lower(t, map[*int]int{&maxQueued: 6, &maxRead: 2, &maxBegun: 8, &laneBegun: 3, &loadEvents: 2})
	rapid.Check(t, func(rt *rapid.T) {
		s := drawScenario(rt)
		var errs []error
		synctest.Test(t, func(*testing.T) { errs = s.run() })
		for _, err := range errs[:min(len(errs), 5)] {
			rt.Error(err)
		}
	})
}

// While the destination is busy, nothing counts a try that has not begun: a process that is killed
// then costs no event one of its tries. Afterwards, all is done.
func TestKillWhileHeldBack(t *testing.T) {
	for name, storages := range map[string]int{
		"it is alone": 1,
		"it waits for a worker, which another one has": 2,
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { checkHeldBack(t, storages) }) })
	}
}

func checkHeldBack(t *testing.T, storages int) {
	s := slowStore{newListStore(2, storages)}
	// A process was killed while the first event was under way.
	state, err := json.Marshal(storedState{Consumer: stateVersion, Open: encodeOpen([]openEvent{{1, 1}})})
	if err != nil {
		t.Fatal(err)
	}
	s.ConsumerStep = cache.ConsumerStep{Position: 1, State: state, Oldest: 1}
	const times = 5
	n, held := 0, make(chan struct{}, times)
	worker := funcWorker(func(*Try) error {
		time.Sleep(2 * slowRead)
		if n++; n > times {
			return nil
		}
		held <- struct{}{}
		return &AgainError{time.Second, errors.New("no connection")}
	})
	ended := make(chan error, 1)
	go func() {
		ended <- Run(t.Context(), Config{Store: s, Batches: s.batches, NewWorker: func() Worker { return worker }, Tries: 3})
	}()
	for range times {
		<-held
		time.Sleep(4 * groupTime) // what has changed is stored, and the pause goes on
		s.mu.Lock()
		for _, b := range s.blocked {
			if b.Tries > 0 {
				t.Errorf("the row of %s counts %d tries", b.Storage, b.Tries)
			}
		}
		s.mu.Unlock()
	}
	if err := <-ended; err != nil || s.Position() != 2 || len(s.blocked) > 0 {
		t.Errorf("at %s with %d storages blocked: %v", s.Position(), len(s.blocked), err)
	}
}
