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

// One call of Read looks at no more than this.
const (
	maxReadEvents = 10_000
	maxReadBytes  = rows.MaxReadBytes
	maxReadTime   = rows.MaxReadTime
	// maxSeeks is how many storages may be looked up one by one before
	// scanning the events is cheaper.
	maxSeeks = 8192
)

// Read returns events of topics after position after and up to until, oldest
// first: at most limit and about a megabyte of them. next is the position up to
// which it has looked: it may lie behind the last event and is never beyond until
// or beyond what is held. If next equals after and limit is positive, nothing is held
// behind after yet. Where the windows neither hold what follows after nor end there,
// Read returns a *window.NotHeldError.
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

// AppendLines is Read for those who only pass the events on: it appends their lines to
// b, each with a line feed. What they say is not looked at beyond the names.
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

// heldEnd returns how far the windows hold all of topics without a hole after
// position p: p itself where p is the edge of what is held.
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

// readStatements are those that the reading connections keep prepared: reading a
// thousand events takes no longer than preparing a few.
type readStatements struct {
	windows *sql.Stmt // windowsQuery
	joined  *sql.Stmt // joinedQuery
}

// prepareReading prepares them. It needs a connection of its own, so it cannot be done
// by who holds one.
func (db *DB) prepareReading(ctx context.Context) (err error) {
	if db.queries.windows, err = db.file.PrepareRead(ctx, rows.WindowsQuery); err != nil {
		return err
	}
	db.queries.joined, err = db.file.PrepareRead(ctx, joinedQuery)
	return err
}

// Held returns which stretches of the topics' history are held: of all of them. Of
// no topics none are.
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
	raw    bool // lines are wanted, not events
	n      int  // what was found
	bytes  int
	events []event.Event
	lines  []byte
}

func (r *reader) full() bool { return r.n >= r.limit || r.bytes >= maxReadBytes }

// reset forgets what was found.
func (r *reader) reset() { r.n, r.bytes, r.events, r.lines = 0, 0, r.events[:0], r.lines[:0] }

// read looks at (after, until] in steps, as far as its bounds allow: one step at
// least, since a reader who gets nowhere takes it for the end of what is held.
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
	// A step begins small, since a storage may have every event there, and
	// grows, since it may have few. Both are in blocks.
	minStep = 1
	maxStep = 65536
	// maxConditions is how many topics one SQL condition names; SQLite bounds
	// the depth of an expression.
	maxConditions = 100
)

// maxScan is how many events one step looks at without postings. Tests lower it.
var maxScan = 65536

// mostBlocks bounds one step so that it costs about as much whether the topics have
// one storage or thousands.
func mostBlocks(seeks int) uint64 { return max(16, maxStep/uint64(max(seeks, 0)+1)) }

func stepEnd(after event.ID, blocks uint64) event.ID {
	end := (uint64(after)/event.BlockSize + blocks) * event.BlockSize
	return event.ID(min(end, uint64(event.MaxID)))
}

// seeks returns how many storages the topics have, or -1 if scanning is cheaper
// than looking up each.
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

// probe is how many events are looked at to find out whether the topics have many.
const probe = 128

// scanDense reads the events of (after, until] in order as long as the topics have a
// quarter of them: that is cheaper than to find out which these are.
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

// scan reads the events of (after, until] in order, up to most of them: all, or with
// few those of the topics' storages.
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

// joinedLines begins a query for lines that come joined, but for long and empty ones:
// these come as ids. The sum tells whether the lines stand under the ids that they say.
const (
	joinedLines = `SELECT CAST(group_concat(CASE WHEN octet_length(line) BETWEEN 1 AND ? THEN line ELSE id END, char(10)) AS BLOB),
		sum(id & 1099511627775) FROM `
	joinedQuery = joinedLines + `event WHERE id > ? AND id <= ?`
	joinedBits  = 1<<40 - 1 // so that a sum of maxJoin is no more than an integer
)

// scanAll reads the events of (after, until].
func (r *reader) scanAll(after, until event.ID) (n int, at event.ID, err error) {
	read := r.scanRows(after, until)
	if r.kept == nil {
		return read(r.tx.QueryContext(r.ctx, joinedQuery, rows.MaxJoined, after, until))
	}
	return read(r.tx.StmtContext(r.ctx, r.kept).QueryContext(r.ctx, rows.MaxJoined, after, until))
}

// maxJoin is how many lines come joined at most.
const maxJoin = 1000

// room returns how many more lines may come joined, however long they are.
func (r *reader) room() int {
	return max(1, min(maxJoin, (maxReadBytes-r.bytes)/max(rows.MaxJoined, 1)))
}

// scanRows returns what reads the joined lines of events in (after, until], and returns
// how many events it has looked at and the last of them.
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

// addJoined adds joined lines of events in (after, until], in their order and with the
// sum of their ids, until there are enough, and returns how many it has looked at and
// the last.
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

// joinedID returns the id of a line that has come joined with others, or as an id.
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

// add adds the event of a line that has come joined with others, or as an id.
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

// lineID reads the id that a line begins with, and looks whether it has an end.
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

// storages returns the SQL condition on storage s for the topics together.
func (r *reader) storages() (where string, args []any) {
	var ors []string
	for _, t := range r.topics {
		or, some := rows.StoragesOf(t)
		ors, args = append(ors, or), append(args, some...)
	}
	return strings.Join(ors, " OR "), args
}

// take reads the event of a row and keeps it if it belongs to the topics.
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
		return r.scan(after, until, false, maxScan) // reading in order beats finding each
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

// seekSome reads events with the given ids, but for those that were forgotten since
// they were indexed, and returns how far it has come.
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

// posted returns the ids in (after, until] that the postings give to the topics,
// in order, each once.
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
// position until, or from if they have no more than n there: the horizon of a log that
// lies behind it.
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

// A backReader finds the newest events, more than n of them if there are.
type backReader struct {
	ctx    context.Context
	tx     *sql.Tx
	topics []event.Topic
	n      int
	found  []event.ID // newest first
}

// read looks back through span in steps that grow, each read like any other stretch.
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

// PositionAt returns the position of the last event with a time at or before t, as far
// as stored events and known bounds of windows tell, or Beginning if there is none.
// Times grow with ids, so it is found by halving.
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
