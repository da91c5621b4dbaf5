package cache

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Bounds of one call of Read.
const (
	maxReadEvents = 10_000
	maxReadBytes  = rows.MaxReadBytes
	maxReadTime   = rows.MaxReadTime
	// maxSeeks is how many storages may be looked up one by one before scanning the
	// events is cheaper.
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
		r := reader{kept: db.queries.joined, ctx: ctx, tx: tx, topics: topics, limit: min(limit, maxReadEvents)}
		next, err = r.read(after, min(until, end))
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
		r := reader{kept: db.queries.joined, ctx: ctx, tx: tx, topics: topics, limit: min(limit, maxReadEvents), raw: true, lines: b}
		next, err = r.read(after, min(until, end))
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
	windows *sql.Stmt // windowsQuery
	joined  *sql.Stmt // joinedQuery
}

// prepareReading prepares the statements. It needs a connection of its own, so the caller
// must not hold one.
func (db *DB) prepareReading(ctx context.Context) (err error) {
	if db.queries.windows, err = db.file.PrepareRead(ctx, rows.WindowsQuery); err != nil {
		return err
	}
	db.queries.joined, err = db.file.PrepareRead(ctx, joinedQuery)
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
	kept   *sql.Stmt // of joinedQuery, or nil
	ctx    context.Context
	tx     *sql.Tx
	topics []event.Topic
	limit  int
	raw    bool // collect lines, not events
	n      int  // how many were found
	bytes  int
	events []event.Event
	lines  []byte
}

func (r *reader) full() bool { return r.n >= r.limit || r.bytes >= maxReadBytes }

// reset discards the collected events.
func (r *reader) reset() { r.n, r.bytes, r.events, r.lines = 0, 0, r.events[:0], r.lines[:0] }

// read looks at (after, until] in steps, within its bounds. It takes at least one step,
// since callers take no progress for the end of the held range.
func (r *reader) read(after, until event.ID) (event.ID, error) {
	if after >= until || r.full() {
		return after, nil
	}
	started := time.Now()
	after, err := r.scanDense(after, until)
	if err != nil || after >= until || r.full() {
		return after, err
	}
	seeks, err := r.seeks()
	if err != nil || seeks == 0 {
		return until, err // no storage, no event
	}
	var indexed event.ID
	if err := r.tx.QueryRowContext(r.ctx, `SELECT indexed FROM log`).Scan(&indexed); err != nil {
		return after, err
	}
	most, few := mostBlocks(seeks), seeks >= 0 && len(r.topics) <= maxConditions
	for blocks := uint64(minStep); after < until && !r.full(); blocks = min(4*blocks, most) {
		if seeks < 0 || after >= indexed {
			after, err = r.scan(after, until, few, maxScan)
		} else {
			after, err = r.seek(after, min(until, indexed, stepEnd(after, blocks)))
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
	// maxConditions is how many topics one SQL condition names; SQLite bounds
	// the depth of an expression.
	maxConditions = 100
)

// maxScan is how many events one step scans without postings. Tests lower it.
var maxScan = 65536

// mostBlocks bounds a step so that it costs about the same for one storage or thousands.
func mostBlocks(seeks int) uint64 { return max(16, maxStep/uint64(max(seeks, 0)+1)) }

func stepEnd(after event.ID, blocks uint64) event.ID {
	end := (uint64(after)/event.BlockSize + blocks) * event.BlockSize
	return event.ID(min(end, uint64(event.MaxID)))
}

// seeks returns how many storages the topics have, or -1 if scanning is cheaper than
// looking up each.
func (r *reader) seeks() (int, error) {
	n := 0
	for _, t := range r.topics {
		if t == event.All {
			return -1, nil
		}
		where, args := rows.StoragesOf(t)
		var some int
		err := r.tx.QueryRowContext(r.ctx, `SELECT count(*) FROM (SELECT 1 FROM storage s WHERE `+where+` LIMIT ?)`,
			append(args, maxSeeks+1)...).Scan(&some)
		if err != nil {
			return 0, err
		}
		if n += some; n > maxSeeks {
			return -1, nil
		}
	}
	return n, nil
}

func (r *reader) matches(user, path string) bool {
	for _, t := range r.topics {
		if t.Matches(user, path) {
			return true
		}
	}
	return false
}

// probe is how many events to look at to find out whether many of them belong to the
// topics.
const probe = 128

// scanDense scans the events of (after, until] while at least a quarter belong to the
// topics: that is cheaper than finding those.
func (r *reader) scanDense(after, until event.ID) (event.ID, error) {
	most := probe
	if r.all() {
		most = maxJoin
	}
	for ; after < until && !r.full(); most = maxJoin {
		found := r.n
		next, err := r.scan(after, until, false, min(most, maxScan))
		if err != nil || r.n-found < most/4 {
			return next, err
		}
		after = next
	}
	return after, nil
}

// scan reads the events of (after, until] in order, up to most of them: all, or if few is
// set those of the topics' storages.
func (r *reader) scan(after, until event.ID, few bool, most int) (event.ID, error) {
	filter, names := "", []any(nil)
	if few {
		where, args := r.storages()
		filter, names = `AND storage IN (SELECT s.id FROM storage s WHERE `+where+`)`, args
	}
	for sparse := few; most > 0 && after < until && !r.full(); {
		limit := min(most, r.room(), max(r.limit-r.n, probe))
		if !sparse { // there are no more events than ids
			to := min(until, after+event.ID(limit))
			n, at, err := r.scanAll(after, to)
			if err != nil || r.full() {
				return at, err
			}
			after, most, sparse = to, most-n, n < limit/2
			continue
		}
		n, at, err := r.scanRows(after, until)(r.tx.QueryContext(r.ctx, joinedLines+`(SELECT id, line FROM event WHERE id > ? AND id <= ? `+filter+`
			ORDER BY id LIMIT ?)`, append(append([]any{rows.MaxJoined, after, until}, names...), limit)...))
		if err != nil || r.full() {
			return at, err
		}
		if n < limit {
			return until, nil
		}
		after, most = at, most-n
	}
	return after, nil
}

// joinedLines begins a query for joined lines. Long and empty lines come as ids instead.
// The sum of the ids shows whether each line is stored under its own id.
const (
	joinedLines = `SELECT CAST(group_concat(CASE WHEN octet_length(line) BETWEEN 1 AND ? THEN line ELSE id END, char(10)) AS BLOB),
		sum(id & 1099511627775) FROM `
	joinedQuery = joinedLines + `event WHERE id > ? AND id <= ?`
	joinedBits  = 1<<40 - 1 // so that a sum of maxJoin ids fits into an integer
)

// scanAll reads the events of (after, until].
func (r *reader) scanAll(after, until event.ID) (n int, at event.ID, err error) {
	read := r.scanRows(after, until)
	if r.kept == nil {
		return read(r.tx.QueryContext(r.ctx, joinedQuery, rows.MaxJoined, after, until))
	}
	return read(r.tx.StmtContext(r.ctx, r.kept).QueryContext(r.ctx, rows.MaxJoined, after, until))
}

// maxJoin is the maximum number of joined lines.
const maxJoin = 1000

// room returns how many more lines may come joined, however long they are.
func (r *reader) room() int {
	return max(1, min(maxJoin, (maxReadBytes-r.bytes)/max(rows.MaxJoined, 1)))
}

// scanRows returns a function that reads the joined lines of events in (after, until]. It
// returns how many events it has looked at and the last of them.
func (r *reader) scanRows(after, until event.ID) func(rows *sql.Rows, err error) (n int, at event.ID, _ error) {
	return func(rows *sql.Rows, err error) (n int, at event.ID, _ error) {
		if err != nil {
			return 0, after, err
		}
		defer rows.Close()
		var joined sql.RawBytes
		var sum sql.NullInt64
		at = after
		for rows.Next() { // once
			if err := rows.Scan(&joined, &sum); err != nil {
				return 0, after, err
			}
			if n, at, err = r.addJoined(joined, event.ID(sum.Int64), after, until); err != nil {
				return 0, after, err
			}
		}
		return n, at, rows.Err()
	}
}

// addJoined adds joined lines of events in (after, until], in order and with the sum of
// their ids, until there are enough. It returns how many it has looked at and the last of
// them.
func (r *reader) addJoined(joined []byte, sum, after, until event.ID) (n int, at event.ID, err error) {
	if r.raw {
		r.lines = slices.Grow(r.lines, len(joined)+1)
	}
	for at = after; len(joined) > 0 && !r.full(); n++ {
		var line []byte
		line, joined, _ = bytes.Cut(joined, rows.Newline)
		id, err := r.add(line)
		if err != nil {
			return 0, after, err
		}
		if id <= at || id > until {
			return 0, after, rows.ErrJoined
		}
		at = id
		sum -= id & joinedBits
	}
	for rest := joined; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, rows.Newline)
		id, err := joinedID(line)
		if err != nil {
			return 0, after, err
		}
		sum -= id & joinedBits
	}
	if sum != 0 {
		return 0, after, rows.ErrJoined
	}
	return n, at, nil
}

// joinedID returns the id of a joined line, or of an id in place of a line.
func joinedID(line []byte) (event.ID, error) {
	if len(line) > 0 && line[0] == '{' {
		return lineID(line)
	}
	id, err := strconv.ParseUint(string(line), 10, 63)
	if err != nil {
		return 0, rows.ErrJoined
	}
	return event.ID(id), nil
}

// add adds the event of a joined line, or of an id in place of a line.
func (r *reader) add(line []byte) (event.ID, error) {
	if len(line) > 0 && line[0] != '{' {
		id, err := joinedID(line)
		if err != nil {
			return 0, err
		}
		return r.take(r.tx.QueryRowContext(r.ctx, `SELECT id, line FROM event WHERE id = ?`, id))
	}
	if r.raw {
		return r.addRaw(line)
	}
	ev, err := event.Stored(bytes.Clone(line))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	r.addEvent(&ev, len(line))
	return ev.ID, nil
}

// addRaw adds a line if it belongs to the topics.
func (r *reader) addRaw(line []byte) (id event.ID, err error) {
	id, err = lineID(line)
	wanted := r.all()
	if err == nil && !wanted {
		var s event.Skimmed
		s, err = event.Skim(line)
		wanted = r.matches(string(s.User), string(s.Path))
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if wanted {
		r.lines = append(append(r.lines, line...), '\n')
		r.n++
		r.bytes += len(line)
	}
	return id, nil
}

// lineID reads the id at the start of a line, and checks that the line is complete.
func lineID(line []byte) (id event.ID, err error) {
	const before = `{"id":"`
	if len(line) < len(before)+event.IDLen || string(line[:len(before)]) != before || line[len(line)-1] != '}' {
		return 0, rows.ErrJoined
	}
	err = id.UnmarshalText(line[len(before):][:event.IDLen])
	return id, err
}

func (r *reader) addEvent(ev *event.Event, size int) {
	if r.matches(ev.User, ev.Path) {
		r.events = append(r.events, *ev)
		r.n++
		r.bytes += size
	}
}

// all reports whether every event belongs to the topics.
func (r *reader) all() bool { return len(r.topics) > 0 && r.topics[0] == event.All }

// storages returns an SQL condition on storage s, true for the topics' storages, and its
// arguments.
func (r *reader) storages() (where string, args []any) {
	var ors []string
	for _, t := range r.topics {
		or, some := rows.StoragesOf(t)
		ors, args = append(ors, or), append(args, some...)
	}
	return strings.Join(ors, " OR "), args
}

// take reads the event of a row and collects it if it belongs to the topics.
func (r *reader) take(row *sql.Row) (id event.ID, err error) {
	var line []byte
	if err := row.Scan(&id, &line); err != nil {
		return 0, err
	}
	ev, err := rows.ParseStored(id, line)
	switch {
	case err != nil:
		return 0, err
	case r.raw:
		return r.addRaw(line)
	}
	r.addEvent(&ev, len(line))
	return id, nil
}

// seek reads the events of (after, until] that the postings name.
func (r *reader) seek(after, until event.ID) (event.ID, error) {
	ids, err := r.posted(after, until)
	if err != nil {
		return after, err
	}
	if uint64(len(ids)) > uint64(until-after)/4 {
		return r.scan(after, until, false, maxScan) // scanning is cheaper than seeking each
	}
	for len(ids) > 0 {
		n := min(len(ids), r.room(), r.limit-r.n)
		if at, err := r.seekSome(ids[:n]); err != nil || r.full() {
			return at, err
		}
		ids = ids[n:]
	}
	return until, nil
}

// seekSome reads the events with the given ids, except those forgotten since they were
// indexed, and returns how far it has come.
func (r *reader) seekSome(ids []event.ID) (event.ID, error) {
	at := ids[len(ids)-1]
	var failed error
	err := rows.LinesOf(r.ctx, r.tx, ids, func(i int, line []byte, long bool) {
		switch {
		case failed != nil || r.full():
			at = min(at, ids[i]-1)
			return
		case long:
			_, failed = r.take(r.tx.QueryRowContext(r.ctx, `SELECT id, line FROM event WHERE id = ?`, ids[i]))
		case line != nil:
			var id event.ID
			if id, failed = r.add(line); failed == nil && id != ids[i] {
				failed = rows.ErrJoined
			}
		}
	})
	return at, errors.Join(err, failed)
}

// posted returns the topics' ids in (after, until] according to the postings, sorted,
// each once.
func (r *reader) posted(after, until event.ID) ([]event.ID, error) {
	var ids []event.ID
	for _, t := range r.topics {
		where, args := rows.StoragesOf(t)
		result, err := r.tx.QueryContext(r.ctx, `SELECT p.block, p.offsets FROM storage s CROSS JOIN posting p
			ON p.storage = s.id AND p.block BETWEEN ? AND ? WHERE `+where,
			append([]any{int64((after + 1).Block()), int64(until.Block())}, args...)...)
		if err != nil {
			return nil, err
		}
		err = rows.EachPosting(result, func(id event.ID) {
			if after < id && id <= until {
				ids = append(ids, id)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
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
			err = b.read(held[i])
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

// read goes backwards through span in growing steps, and reads each of them forwards.
func (b *backReader) read(span window.Span) error {
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
	r := reader{ctx: ctx, tx: tx, topics: topics, limit: maxReadEvents}
	for after < until {
		next, err := r.read(after, until)
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
