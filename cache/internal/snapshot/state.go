package snapshot

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// State calls fn with the state of topic at position at: for each storage the last event
// up to there, if that is a PUT. The events are sorted by user and path. No transaction
// is open while fn runs, memory use does not grow with the state, and events after at do
// not change it.
//
// The state is known where all history up to at is held, or all of it since a kept
// snapshot; events that a server dropped below its horizon do not matter. Elsewhere State
// returns a *window.NotHeldError.
func (s *Store) State(ctx context.Context, topic event.Topic, at event.ID, fn func(*event.Event) error) error {
	return s.StateAfter(ctx, topic, at, event.Storage{}, fn)
}

// StateAfter is State for the storages that follow after.
func (store *Store) StateAfter(ctx context.Context, topic event.Topic, at event.ID, after event.Storage, fn func(*event.Event) error) error {
	s := stateReader{db: store, topic: topic, at: at}
	s.from, _ = topic.StorageRange()
	if n := after.Next(); n.Compare(s.from) > 0 {
		s.from = n
	}
	return s.eachEvent(ctx, fn)
}

// StateFrom returns the position from which the state of topic at position at is folded:
// that of a kept snapshot, or the beginning. If the state is not known, it returns
// State's error.
func (s *Store) StateFrom(ctx context.Context, topic event.Topic, at event.ID) (from event.ID, err error) {
	err = s.file.View(ctx, func(tx *sql.Tx) error {
		base, err := s.findBase(ctx, tx, topic, at)
		from = base.at
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("state of %s at %s: %w", topic, at, err)
	}
	return from, nil
}

// beyond reports whether s comes after all storages of topic.
func beyond(topic event.Topic, s event.Storage) bool {
	_, end := topic.StorageRange()
	return end != (event.Storage{}) && s.Compare(end) >= 0
}

// A Ref is a storage and the last event of it.
type Ref struct {
	event.Storage
	ID   event.ID
	Put  bool          // known to be a PUT
	Del  bool          // known not to be one
	at   pages.Locator // where the line was stored, a hint; page 0 if that is not known
	line []byte        // if it is known already
}

// A stateReader reads a state in chunks, each in a transaction of its own.
type stateReader struct {
	db    *Store
	topic event.Topic
	at    event.ID
	names bool          // only names and ids are wanted, if nothing else is needed
	from  event.Storage // the storages before it were read

	planned  bool
	removals int64
	horizon  event.ID // nothing below it that a log has dropped counts
	baseAt   event.ID
	base     refQueue // the members of the base snapshot
	since    refQueue // the last event of each storage changed since
	merged   []Ref    // not read yet
	chunk    int      // how many refs to merge at a time
}

func (s *stateReader) eachEvent(ctx context.Context, fn func(*event.Event) error) error {
	for more := true; more; {
		var evs []event.Event
		err := s.db.file.View(ctx, func(tx *sql.Tx) (err error) {
			evs, more, err = s.next(ctx, tx)
			return err
		})
		if err != nil {
			return fmt.Errorf("state of %s at %s: %w", s.topic, s.at, err)
		}
		for i := range evs {
			if err := fn(&evs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// next reads the next events of the state.
func (s *stateReader) next(ctx context.Context, tx *sql.Tx) (evs []event.Event, more bool, err error) {
	if err := s.planMore(ctx, tx); err != nil {
		return nil, false, err
	}
	if evs, err = s.readMerged(ctx, tx); err != nil {
		return nil, false, err
	}
	return evs, s.more(), nil
}

// planMore makes sure that refs are merged, if there are any.
func (s *stateReader) planMore(ctx context.Context, tx *sql.Tx) error {
	if err := s.plan(ctx, tx); err != nil || len(s.merged) > 0 {
		return err
	}
	return s.merge(ctx, tx)
}

func (s *stateReader) more() bool { return len(s.merged) > 0 || !s.base.ended() || !s.since.ended() }

// eachRef calls fn with the members of the state. It reads no line unless it has to.
func (s *stateReader) eachRef(ctx context.Context, fn func(*Ref) error) error {
	for more := true; more; {
		var refs []Ref
		err := s.db.file.View(ctx, func(tx *sql.Tx) (err error) {
			if err := s.planMore(ctx, tx); err != nil {
				return err
			}
			refs, err = s.readRefs(ctx, tx)
			more = s.more()
			return err
		})
		if err != nil {
			return fmt.Errorf("state of %s at %s: %w", s.topic, s.at, err)
		}
		for i := range refs {
			if err := fn(&refs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// plan decides what to fold, at first and after each removal of stored events, which may
// have removed the events planned for. A horizon that moves changes no plan until it has
// passed the state's position.
func (s *stateReader) plan(ctx context.Context, tx *sql.Tx) error {
	now, err := rows.LoadRemovals(tx)
	if err != nil {
		return err
	}
	if s.horizon, err = s.db.tables.HorizonIn(tx); err != nil {
		return err
	}
	if s.planned && now == s.removals && s.at >= s.horizon {
		return nil
	}
	base, err := s.db.findBase(ctx, tx, s.topic, s.at)
	if err != nil {
		return err
	}
	s.planned, s.removals, s.baseAt, s.merged = true, now, base.at, nil
	s.base = refQueue{at: s.from, end: base.id == 0, load: base.loader(s.topic)}
	s.since = refQueue{at: s.from}
	lines := !s.names && base.count <= int64(GatherMax) // return the first of a large state soon
	if s.names {
		refs, ok, err := s.db.LastRecent(ctx, tx, s.topic, window.Span{From: base.at, To: s.at}, now)
		if err != nil || ok {
			s.since.load = loaderOf(refs)
			return err
		}
	}
	s.since.load, err = loadSince(ctx, tx, s.topic, base, s.at, lines)
	return err
}

// merge merges the next refs: a ref since the snapshot replaces the snapshot's ref of the
// same storage.
func (s *stateReader) merge(ctx context.Context, tx *sql.Tx) error {
	s.chunk = min(max(2*s.chunk, rows.StorageChunk), 8*rows.StorageChunk) // return the first chunk soon
	s.merged = make([]Ref, 0, s.chunk)
	size := 0
	for started := time.Now(); len(s.merged) < s.chunk && size < rows.MaxReadBytes; {
		if (s.base.needsFill() || s.since.needsFill()) && time.Since(started) >= rows.MaxReadTime {
			return nil
		}
		if err := errors.Join(s.base.fill(ctx, tx), s.since.fill(ctx, tx)); err != nil {
			return err
		}
		switch b, o := s.base.first(), s.since.first(); {
		case s.base.ended() && s.since.ended():
			return nil
		case o != nil && s.base.reaches(o.Storage):
			if b != nil && b.Storage == o.Storage {
				s.base.pop()
			}
			s.merged = append(s.merged, s.since.pop())
		case b != nil && s.since.reaches(b.Storage):
			s.merged = append(s.merged, s.base.pop())
			size += len(b.line)
		}
	}
	return nil
}

// readMerged reads the events of the merged refs.
func (s *stateReader) readMerged(ctx context.Context, tx *sql.Tx) (evs []event.Event, err error) {
	n, err := s.fetch(ctx, tx)
	if err != nil || n == 0 {
		return nil, err
	}
	evs = make([]event.Event, 0, n)
	for i := range s.merged[:n] {
		r := &s.merged[i]
		if r.Del || s.isDropped(r) {
			continue
		}
		ev, err := rows.ParseStored(r.ID, r.line)
		if err == nil && ev.Storage() != r.Storage {
			err = errOfOther(r)
		}
		if err != nil {
			return nil, err
		}
		if ev.Type == event.Put {
			evs = append(evs, ev)
		}
	}
	s.from, s.merged = s.merged[n-1].Next(), s.merged[n:]
	return evs, nil
}

func errOfOther(r *Ref) error {
	return fmt.Errorf("%w: event %s does not belong to %s", dbfile.ErrCorrupt, r.ID, r.Storage)
}

// readRefs is read for names and ids.
func (s *stateReader) readRefs(ctx context.Context, tx *sql.Tx) (refs []Ref, err error) {
	n, err := s.fetch(ctx, tx)
	if err != nil || n == 0 {
		return nil, err
	}
	refs = make([]Ref, 0, n)
	for i := range s.merged[:n] {
		r := &s.merged[i]
		if r.Del || s.isDropped(r) {
			continue
		}
		if !s.knownByName(r) {
			if err := r.skimLine(); err != nil {
				return nil, err
			}
		}
		if r.Put {
			refs = append(refs, *r)
		}
	}
	s.from, s.merged = s.merged[n-1].Next(), s.merged[n:]
	return refs, nil
}

// skimLine takes from the line of r whether it is a PUT.
func (r *Ref) skimLine() error {
	ev, err := event.Skim(r.line)
	if err == nil && ev.ID != r.ID {
		err = fmt.Errorf("event %s is stored as %s", ev.ID, r.ID)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", dbfile.ErrCorrupt, err)
	}
	if string(ev.User) != r.User || string(ev.Path) != r.Path {
		return errOfOther(r)
	}
	r.Put, r.Del, r.line = ev.Type == event.Put, ev.Type != event.Put, nil
	return nil
}

// knownByName reports whether r can be answered without its line. Members of a snapshot
// from below the horizon may be gone.
func (s *stateReader) knownByName(r *Ref) bool {
	return r.Del || s.names && r.Put && s.baseAt >= s.horizon
}

// isDropped reports whether the event of r, whose line was looked for, is not there because
// a log has dropped it.
func (s *stateReader) isDropped(r *Ref) bool {
	return r.line == nil && !s.knownByName(r) && r.ID <= s.horizon
}

// fetch reads the lines of the merged refs that are stored as events, about a megabyte at a
// time. It returns n so that the first n refs are complete. A missing line stays nil.
func (s *stateReader) fetch(ctx context.Context, tx *sql.Tx) (n int, err error) {
	wanted, n := s.wanted()
	if len(wanted) == 0 {
		return n, nil
	}
	// Neighbors share a page.
	slices.SortFunc(wanted, func(a, b int) int {
		return cmp.Or(cmp.Compare(s.merged[a].at.Page, s.merged[b].at.Page), cmp.Compare(s.merged[a].ID, s.merged[b].ID))
	})
	moved, err := s.cutRefLines(ctx, tx, wanted)
	if err != nil || len(moved) == 0 {
		return n, err
	}
	long, err := s.resolve(ctx, tx, moved)
	if err != nil {
		return 0, err
	}
	slices.Sort(long)
	size := 0
	for _, i := range long {
		if size >= rows.MaxReadBytes {
			return i, nil
		}
		r := &s.merged[i]
		if r.line, err = pages.ReadLine(ctx, tx, &pages.Posted{ID: r.ID, Locator: r.at}); err != nil {
			return 0, err
		}
		size += len(r.line)
	}
	return n, nil
}

// unknownLine is about how long a line is whose place is not known.
const unknownLine = 512

// wanted returns the indexes of the merged refs whose lines are to be read together, and
// how many refs are complete then.
func (s *stateReader) wanted() (wanted []int, n int) {
	size := 0
	for ; n < len(s.merged) && size < rows.MaxReadBytes; n++ {
		r := &s.merged[n]
		if r.line != nil || s.knownByName(r) {
			continue
		}
		wanted = append(wanted, n)
		if size += int(r.at.Length); r.at.Page == 0 {
			size += unknownLine
		}
	}
	return wanted, n
}

// cutRefLines reads the lines of some merged refs where they should be. It returns those that
// are not there.
func (s *stateReader) cutRefLines(ctx context.Context, tx *sql.Tx, wanted []int) (moved []int, err error) {
	places := make([]pages.Posted, len(wanted))
	for i, j := range wanted {
		places[i] = pages.Posted{ID: s.merged[j].ID, Locator: s.merged[j].at}
	}
	err = pages.CutLines(ctx, tx, places, func(i int, line []byte) error {
		if s.merged[wanted[i]].line = line; line == nil {
			moved = append(moved, wanted[i])
		}
		return nil
	})
	return moved, err
}

// resolve reads the lines of merged refs by their ids, but for long ones, which it returns.
func (s *stateReader) resolve(ctx context.Context, tx *sql.Tx, moved []int) (long []int, err error) {
	slices.SortFunc(moved, func(a, b int) int { return cmp.Compare(s.merged[a].ID, s.merged[b].ID) })
	ids := make([]event.ID, len(moved))
	for i, j := range moved {
		ids[i] = s.merged[j].ID
	}
	places, err := pages.Resolve(ctx, tx, slices.Compact(ids))
	if err != nil {
		return nil, err
	}
	at := make(map[event.ID]pages.Locator, len(places))
	for _, p := range places {
		at[p.ID] = p.Locator
	}
	var short []int
	for _, j := range moved {
		r := &s.merged[j]
		switch r.at = at[r.ID]; {
		case r.at.Page == 0: // it is not held
		case r.at.Length == 0:
			long = append(long, j)
		default:
			short = append(short, j)
		}
	}
	lost, err := s.cutRefLines(ctx, tx, short)
	return append(long, lost...), err // reading a lost one says why
}

// A refQueue yields refs sorted by storage, loaded some at a time.
type refQueue struct {
	load func(ctx context.Context, tx *sql.Tx, from event.Storage) (refs []Ref, at event.Storage, end bool, err error)
	refs []Ref
	at   event.Storage // the storages before it were loaded
	end  bool          // nothing is left to load
}

func (q *refQueue) ended() bool { return q.end && len(q.refs) == 0 }

// needsFill reports whether the queue must be filled.
func (q *refQueue) needsFill() bool { return len(q.refs) == 0 && !q.end }

// fill loads more refs once if the queue has none.
func (q *refQueue) fill(ctx context.Context, tx *sql.Tx) (err error) {
	if !q.needsFill() {
		return nil
	}
	q.refs, q.at, q.end, err = q.load(ctx, tx, q.at)
	return err
}

func (q *refQueue) first() *Ref {
	if len(q.refs) == 0 {
		return nil
	}
	return &q.refs[0]
}

func (q *refQueue) pop() Ref {
	r := q.refs[0]
	q.refs = q.refs[1:]
	return r
}

// reaches reports whether the queue will never return a storage before s.
func (q *refQueue) reaches(s event.Storage) bool {
	if r := q.first(); r != nil {
		return r.Compare(s) >= 0
	}
	return q.end || q.at.Compare(s) > 0
}

// GatherMax is how many ids to scan for the events since a snapshot; beyond that, each
// storage is looked up. It is a variable for the tests.
var GatherMax event.ID = 8 * event.BlockSize

// FewStorages is how many storages are always looked up one by one: that costs less than
// any snapshot.
var FewStorages = 256

// loadSince returns a loader of the last event of each storage of topic after base, up to
// position at, with lines if lines is set.
func loadSince(ctx context.Context, tx *sql.Tx, topic event.Topic, base keptSnapshot, at event.ID, lines bool) (load func(context.Context, *sql.Tx, event.Storage) ([]Ref, event.Storage, bool, error), err error) {
	span := window.Span{From: base.at, To: at}
	if span.To-span.From > GatherMax {
		return lookUpLast(ctx, tx, topic, span)
	}
	if few, err := hasFew(ctx, tx, topic); err != nil || few {
		load, err2 := lookUpLast(ctx, tx, topic, span)
		return load, errors.Join(err, err2)
	}
	refs, err := scanLast(ctx, tx, topic, span, lines)
	var damage *pages.DamageError
	if errors.As(err, &damage) {
		return lookUpLast(ctx, tx, topic, span) // which reads no page that it does not need
	}
	return loaderOf(refs), err
}

// loaderOf returns a loader of refs, all at once.
func loaderOf(refs []Ref) func(context.Context, *sql.Tx, event.Storage) ([]Ref, event.Storage, bool, error) {
	return func(_ context.Context, _ *sql.Tx, from event.Storage) ([]Ref, event.Storage, bool, error) {
		i, _ := slices.BinarySearchFunc(refs, from, func(r Ref, s event.Storage) int { return r.Compare(s) })
		return refs[i:], from, true, nil
	}
}

// hasFew reports whether topic has at most FewStorages storages.
func hasFew(ctx context.Context, tx *sql.Tx, topic event.Topic) (few bool, err error) {
	where, args := rows.StoragesOf(topic)
	var n int
	err = tx.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM storage s WHERE `+where+` LIMIT ? + 0)`,
		append(args, FewStorages+1)...).Scan(&n)
	return n <= FewStorages, err
}

// lookUpLast returns a loader that looks up the last event in span of each storage, one
// after another.
func lookUpLast(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span) (load func(context.Context, *sql.Tx, event.Storage) ([]Ref, event.Storage, bool, error), err error) {
	var indexed event.ID
	if err := dbfile.ScanLog(ctx, tx, `indexed`, &indexed); err != nil {
		return nil, err
	}
	l := lastLookup{topic: topic, span: span, open: map[int64]pages.Posted{}}
	if indexed < span.To { // at most a block and a batch
		open := window.Span{From: max(indexed, span.From), To: span.To}
		err = pages.Scan(ctx, tx, pages.Query{Span: open, MaxText: maxText}, func(line pages.Line) error {
			l.open[line.Storage] = line.Posted()
			return nil
		})
	}
	return l.loadLast, err
}

type lastLookup struct {
	topic event.Topic
	span  window.Span
	open  map[int64]pages.Posted // the last events of storages after the last indexed one
}

func (l *lastLookup) loadLast(ctx context.Context, tx *sql.Tx, from event.Storage) (refs []Ref, at event.Storage, end bool, err error) {
	storages, err := rows.StoragesFrom(ctx, tx, l.topic, from)
	if err != nil {
		return nil, from, false, err
	}
	numbers := make([]int64, len(storages))
	for i := range storages {
		numbers[i] = storages[i].ID
	}
	posted, err := pages.LastPosted(ctx, tx, numbers, l.span, nil)
	if err != nil {
		return nil, from, false, err
	}
	for i := range storages {
		s := &storages[i]
		last, ok := l.open[s.ID]
		if !ok {
			last = posted[i]
		}
		if last.ID != event.Beginning {
			refs = append(refs, Ref{Storage: s.Storage, ID: last.ID, at: last.Locator})
		}
		from = s.Next()
	}
	return refs, from, len(storages) < rows.StorageChunk, nil
}

// StateTime returns a position at which topic has its state of time t, judging by stored
// events and known bounds of windows. ok is false if an event of the topic may be missing
// there.
func (s *Store) StateTime(ctx context.Context, topic event.Topic, t event.Time) (at event.ID, ok bool, err error) {
	err = s.file.View(ctx, func(tx *sql.Tx) error {
		between, err := rows.PositionsAt(ctx, tx, t)
		if at = between.From; err != nil || between.To == event.MaxID {
			return err
		}
		windows, err := rows.LoadWindows(tx)
		if err != nil {
			return err
		}
		for _, span := range rows.WindowSet(windows).Held(topic) {
			ok = ok || span.From <= between.From && between.To <= span.To
		}
		return nil
	})
	if err != nil {
		return 0, false, fmt.Errorf("state of %s at %s: %w", topic, t, err)
	}
	return at, ok, nil
}

// LastState returns the latest position at which the state of topic is known.
func (s *Store) LastState(ctx context.Context, topic event.Topic) (at event.ID, err error) {
	err = s.file.View(ctx, func(tx *sql.Tx) error {
		windows, err := rows.LoadWindows(tx)
		if err != nil {
			return err
		}
		held := rows.WindowSet(windows).Held(topic)
		for _, span := range slices.Backward(held) {
			_, err := s.findBase(ctx, tx, topic, span.To)
			var hole *window.NotHeldError
			if !errors.As(err, &hole) {
				at = span.To
				return err
			}
		}
		return gapAt(held, event.Beginning)
	})
	if err != nil {
		return 0, fmt.Errorf("state of %s: %w", topic, err)
	}
	return at, nil
}
