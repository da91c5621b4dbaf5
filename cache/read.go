package cache

import (
	"bytes"
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

// Bounds of one call of Read.
const (
	maxReadEvents = 10_000
	maxReadBytes  = rows.MaxReadBytes
	maxReadTime   = rows.MaxReadTime
	// maxSeeks is how many storages may be looked up one by one before looking at the
	// names of all events is cheaper.
	maxSeeks = 8192
)

// Read returns events of topics after position after and up to until, oldest first: at
// most limit and about a megabyte of them. next is the position up to which it has
// looked: it may be after the last event, but is never beyond until or the end of the
// held range. If next equals after and limit is positive, nothing after it is held yet.
// If after is neither in a held range nor at the end of one, Read returns a
// *window.NotHeldError.
func (db *DB) Read(ctx context.Context, topics []event.Topic, after, until event.ID, limit int) (evs []event.Event, next event.ID, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		end, err := db.heldEnd(ctx, tx, topics, after)
		if err != nil {
			return err
		}
		f := db.filters.take(topics)
		defer db.filters.put(f)
		r := reader{ctx: ctx, tx: tx, filter: f, dense: db.file.IsDense(), limit: min(limit, maxReadEvents)}
		next, err = r.readSound(after, min(until, end))
		evs = r.events
		return err
	})
	if err != nil {
		return nil, after, fmt.Errorf("read after %s: %w", after, err)
	}
	return evs, next, nil
}

// AppendLines is Read for callers that only forward the events: it appends their lines to
// b, each with a line feed. It parses no more than the names.
func (db *DB) AppendLines(ctx context.Context, b []byte, topics []event.Topic, after, until event.ID, limit int) (lines []byte, next event.ID, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		end, err := db.heldEnd(ctx, tx, topics, after)
		if err != nil {
			return err
		}
		f := db.filters.take(topics)
		defer db.filters.put(f)
		r := reader{ctx: ctx, tx: tx, filter: f, dense: db.file.IsDense(), limit: min(limit, maxReadEvents), raw: true, lines: b}
		next, err = r.readSound(after, min(until, end))
		lines = r.lines
		return err
	})
	if err != nil {
		return b, after, fmt.Errorf("read after %s: %w", after, err)
	}
	return lines, next, nil
}

// heldEnd returns the end of the range held of all of topics after position p: p itself
// if p is the end of a held range.
func (db *DB) heldEnd(ctx context.Context, tx *sql.Tx, topics []event.Topic, p event.ID) (event.ID, error) {
	result, err := tx.StmtContext(ctx, db.queries.windows).QueryContext(ctx)
	if err != nil {
		return 0, err
	}
	windows, err := rows.ScanWindows(result)
	if err != nil {
		return 0, err
	}
	end, ok, next, more := rows.WindowSet(windows).Edge(topics, p)
	if !ok {
		return 0, &window.NotHeldError{After: p, Oldest: next, Some: more}
	}
	return end, nil
}

// readStatements stay prepared on the reading connections: preparing a few statements
// takes as long as reading a thousand events.
type readStatements struct {
	windows *sql.Stmt // rows.WindowsQuery
}

// prepareReading prepares the statements. It needs a connection of its own, so the caller
// must not hold one.
func (db *DB) prepareReading(ctx context.Context) (err error) {
	db.queries.windows, err = db.file.PrepareRead(ctx, rows.WindowsQuery)
	return err
}

// Held returns the spans held of all the topics; none if there are no topics.
func (db *DB) Held(ctx context.Context, topics ...event.Topic) (held window.Spans, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		windows, err := rows.LoadWindows(tx)
		held = rows.WindowSet(windows).Held(topics...)
		return err
	})
	return held, err
}

// A reader collects events in one reading transaction.
type reader struct {
	ctx    context.Context
	tx     *sql.Tx
	filter *storageFilter
	dense  bool // every id is stored
	limit  int
	raw    bool // collect lines, not events
	n      int  // how many were found
	looked int  // how many were looked at by scans
	pages  int  // how many pages were passed by scans that copy none
	bytes  int
	events []event.Event
	lines  []byte
	sparse bool // the lines of the pages that are read are seldom wanted
}

func (r *reader) reachedLimit() bool { return r.n >= r.limit || r.bytes >= maxReadBytes }

// reset discards the collected events.
func (r *reader) reset() { r.n, r.bytes, r.events, r.lines = 0, 0, r.events[:0], r.lines[:0] }

// readSound is read that ends before damage, which is an error only if nothing comes
// before it.
func (r *reader) readSound(after, until event.ID) (event.ID, error) {
	next, err := r.readForward(after, until)
	if next > after && errors.Is(err, ErrCorrupt) {
		err = nil
	}
	return next, err
}

// readForward looks at (after, until] in steps, within its bounds. It takes at least one step,
// since callers take no progress for the end of the held range.
func (r *reader) readForward(after, until event.ID) (event.ID, error) {
	if after >= until || r.reachedLimit() {
		return after, nil
	}
	started := time.Now()
	after, err := r.scanDense(after, until, started)
	if err != nil || after >= until || r.reachedLimit() || time.Since(started) > maxReadTime {
		return after, err
	}
	numbers, few, err := rows.FindNumbers(r.ctx, r.tx, r.filter.topics, maxSeeks)
	switch {
	case err != nil:
		return after, err
	case few && len(numbers) == 0:
		return until, nil // no storage, no event
	}
	var indexed event.ID
	if err := dbfile.ScanLog(r.ctx, r.tx, `indexed`, &indexed); err != nil {
		return after, err
	}
	r.sparse = true
	most, want := mostBlocks(len(numbers)), r.filter.lineFilter()
	if few {
		want = wantNumbers(numbers)
	}
	for blocks := uint64(minStep); after < until && !r.reachedLimit(); blocks = min(4*blocks, most) {
		found := r.n
		switch {
		case !few || after >= indexed:
			after, err = r.scan(after, until, maxScan, want)
		case r.filter.scans:
			after, err = r.scanJudged(after, until, want)
		default:
			after, err = r.seek(after, min(until, indexed, stepEnd(after, blocks)), numbers, want)
			if err == nil && r.n == found && blocks == most { // ids may lie so far apart that there are too many steps
				after, err = pages.NextPosted(r.ctx, r.tx, numbers, window.Span{From: after, To: min(until, indexed)})
			}
		}
		if err != nil || time.Since(started) > maxReadTime {
			return after, err
		}
	}
	return after, nil
}

const (
	// A step starts small, since a storage may have every event there, and grows, since
	// it may have few. Both are in blocks.
	minStep = 1
	maxStep = 65536
)

// maxScan is how many events one step looks at without postings. Tests lower it.
var maxScan = 65536

// mostBlocks bounds a step so that it costs about the same for one storage or thousands.
func mostBlocks(seeks int) uint64 { return max(16, maxStep/uint64(seeks+1)) }

func stepEnd(after event.ID, blocks uint64) event.ID {
	end := (uint64(after)/event.BlockSize + blocks) * event.BlockSize
	return event.ID(min(end, uint64(event.MaxID)))
}

// A lineFilter reports whether a line belongs to the topics. The zero lineFilter takes all.
type lineFilter struct {
	storage func(number int64) bool          // false if the number decides that it does not; may be nil
	line    func(l pages.Line) (bool, error) // nil if the number decides
}

func (f *lineFilter) wants(l pages.Line) (bool, error) {
	if f.storage != nil && !f.storage(l.Storage) {
		return false, nil
	}
	if f.line != nil {
		return f.line(l)
	}
	return true, nil
}

// wantNumbers returns a filter for storages.
func wantNumbers(numbers []int64) lineFilter {
	var small numberSet
	large := map[int64]bool{}
	for _, n := range numbers {
		small.add(n)
		if !small.has(n) {
			large[n] = true
		}
	}
	return lineFilter{storage: func(n int64) bool { return small.has(n) || len(large) > 0 && large[n] }}
}

// probe is how many events to look at to find out whether many of them belong to the
// topics; denseChunk is how many to look at from then on.
const (
	probe      = 128
	denseChunk = 1000
)

// scanDense scans the events of (after, until] while at least a quarter belong to the
// topics: that is cheaper than finding those.
func (r *reader) scanDense(after, until event.ID, started time.Time) (event.ID, error) {
	if r.filter.all() {
		for after < until && !r.reachedLimit() {
			next, err := r.scan(after, until, maxScan, lineFilter{})
			if err != nil || time.Since(started) > maxReadTime {
				return next, err
			}
			after = next
		}
		return after, nil
	}
	most := probe
	if r.filter.dense {
		most = denseChunk
	}
	for ; after < until && !r.reachedLimit(); most = denseChunk {
		found, looked := r.n, r.looked
		next, err := r.scan(after, until, min(most, maxScan), r.filter.lineFilter())
		if err != nil {
			return next, err
		}
		if r.filter.dense = 4*(r.n-found) >= r.looked-looked; !r.filter.dense {
			return next, nil
		}
		after = next
	}
	return after, nil
}

// errEnough ends a scan.
var errEnough = errors.New("enough")

// scan reads the wanted events of (after, until] in order, of at most most events that it
// looks at. It returns the position up to which it has read.
func (r *reader) scan(after, until event.ID, most int, want lineFilter) (event.ID, error) {
	if r.dense { // each id is an event, so those that are not wanted need not be counted
		until = min(until, after+event.ID(most))
	}
	q := pages.Query{Span: window.Span{From: after, To: until}, Dense: r.dense, Reuse: r.raw, Passed: &r.pages}
	if r.dense {
		q.Want = want.storage
	}
	at, looked := after, 0
	err := pages.Scan(r.ctx, r.tx, q, func(l pages.Line) error {
		ok, err := want.wants(l)
		if err == nil && ok {
			err = r.collectLine(l.ID, l.Text)
		}
		if err != nil {
			return err
		}
		at = l.ID
		if looked++; looked >= most || r.reachedLimit() {
			return errEnough
		}
		return nil
	})
	switch err {
	case nil:
		at = until
	case errEnough:
		err = nil
	}
	if r.dense {
		looked = int(at - after)
	}
	r.looked += looked
	return at, err
}

// scanJudged scans, without copying pages, as long as that costs less than seeking lines by
// postings. A line that is sought takes about as long as a page that is scanned.
func (r *reader) scanJudged(after, until event.ID, want lineFilter) (event.ID, error) {
	found, passed := r.n, r.pages
	next, err := r.scan(after, until, min(event.BlockSize, maxScan), want)
	r.filter.scans = r.pages-passed <= r.n-found
	return next, err
}

// collectLine collects the line of an event.
func (r *reader) collectLine(id event.ID, line []byte) error {
	r.n++
	r.bytes += len(line)
	if r.raw {
		if err := checkLine(id, line); err != nil {
			return err
		}
		r.lines = append(append(r.lines, line...), '\n')
		return nil
	}
	if r.sparse {
		line = bytes.Clone(line) // otherwise it would keep its whole page in memory
	}
	ev, err := rows.ParseStored(id, line)
	if err == nil {
		r.events = append(r.events, ev)
	}
	return err
}

// checkLine checks that a line begins with its id and is complete.
func checkLine(id event.ID, line []byte) error {
	const before = `{"id":"`
	var buf [len(before) + event.IDLen]byte
	start := id.AppendTo(append(buf[:0], before...))
	if !bytes.HasPrefix(line, start) || line[len(line)-1] != '}' {
		return fmt.Errorf("%w: event %s is stored as %.60q", ErrCorrupt, id, line)
	}
	return nil
}

// seek reads the events of (after, until] that the postings of storages name.
func (r *reader) seek(after, until event.ID, numbers []int64, want lineFilter) (event.ID, error) {
	span := window.Span{From: after, To: until}
	posted, err := pages.ReadPostingsOf(r.ctx, r.tx, numbers, span)
	if err != nil {
		return after, err
	}
	hasPages := pages.HasPages
	if r.dense {
		hasPages = pages.HasDensePages
	}
	many, err := hasPages(r.ctx, r.tx, span, len(posted))
	if err != nil {
		return after, err
	}
	if !many {
		r.filter.scans = r.dense && r.raw          // such a scan copies no page
		return r.scan(after, until, maxScan, want) // reading all pages is cheaper than seeking each line
	}
	at := after
	for len(posted) > 0 {
		n, bytes := 0, r.bytes
		for ; n < min(len(posted), r.limit-r.n) && bytes < maxReadBytes; n++ {
			bytes += max(int(posted[n].Length), 1)
		}
		err := pages.ReadLines(r.ctx, r.tx, posted[:n], func(i int, line []byte) error {
			if err := r.collectLine(posted[i].ID, line); err != nil {
				return err
			}
			at = posted[i].ID
			if r.reachedLimit() {
				return errEnough
			}
			return nil
		})
		if err != nil && err != errEnough {
			return at, err // up to there, all were read
		}
		if r.reachedLimit() {
			return at, nil
		}
		posted = posted[n:]
	}
	return until, nil
}

// BeforeLast returns the newest position after which topics have n held events up to
// position until. If they have no more than n after from, it returns from, or the horizon
// of a log if that is higher.
func (db *DB) BeforeLast(ctx context.Context, topics []event.Topic, n int, from, until event.ID) (at event.ID, err error) {
	if n <= 0 || until <= from {
		return max(until, from), nil
	}
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		horizon, err := db.tables.HorizonIn(tx)
		if err != nil {
			return err
		}
		windows, err := rows.LoadWindows(tx)
		if err != nil {
			return err
		}
		at = min(max(from, horizon), until)
		b := backReader{ctx: ctx, tx: tx, topics: topics, n: n}
		held := rows.WindowSet(windows).Held(topics...).Intersect(window.Spans{{From: from, To: until}})
		for i := len(held) - 1; i >= 0 && len(b.found) <= n && err == nil; i-- {
			err = b.readBackward(held[i])
		}
		if len(b.found) > n {
			at = b.found[n]
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look back from %s: %w", until, err)
	}
	return at, nil
}

// A backReader finds the newest events, more than n of them if there are that many.
type backReader struct {
	ctx    context.Context
	tx     *sql.Tx
	topics []event.Topic
	n      int
	found  []event.ID // newest first
}

// readBackward goes backwards through span in growing steps, and reads each of them forwards.
func (b *backReader) readBackward(span window.Span) error {
	until := span.To
	for step := event.ID(event.BlockSize); until > span.From && len(b.found) <= b.n; step *= 4 {
		start := span.From
		if until-start > step && step > 0 {
			start = until - step
		}
		ids, err := idsOf(b.ctx, b.tx, b.topics, start, until)
		if err != nil {
			return err
		}
		slices.Reverse(ids)
		b.found, until = append(b.found, ids...), start
	}
	return nil
}

// idsOf returns the ids of the topics' events in (after, until].
func idsOf(ctx context.Context, tx *sql.Tx, topics []event.Topic, after, until event.ID) ([]event.ID, error) {
	var ids []event.ID
	r := reader{ctx: ctx, tx: tx, filter: &storageFilter{topics: topics}, limit: maxReadEvents}
	for after < until {
		next, err := r.readForward(after, until)
		if err != nil {
			return nil, err
		}
		for i := range r.events {
			ids = append(ids, r.events[i].ID)
		}
		r.reset()
		after = next
	}
	return ids, nil
}

// PositionAt returns the position of the last event with a time at or before t, judging
// by stored events and known bounds of windows, or Beginning if there is none. It is a
// binary search, since times never decrease.
func (db *DB) PositionAt(ctx context.Context, t event.Time) (at event.ID, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		at, err = rows.PositionAt(ctx, tx, t)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("position at %s: %w", t, err)
	}
	return at, nil
}

// PositionsAt returns the positions that a time can have in the log, judging by stored events and
// known bounds of windows: From is that of PositionAt, and To is the last position before the
// next one that is known to be later, or event.MaxID if none is. No event between the two is stored.
func (db *DB) PositionsAt(ctx context.Context, t event.Time) (span window.Span, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		span, err = rows.PositionsAt(ctx, tx, t)
		return err
	})
	if err != nil {
		return window.Span{}, fmt.Errorf("positions at %s: %w", t, err)
	}
	return span, nil
}
