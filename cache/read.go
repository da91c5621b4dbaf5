package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// One call of Read looks at no more than this.
const (
	maxReadEvents = 10_000
	maxReadBytes  = 1 << 20
	maxReadTime   = 250 * time.Millisecond
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
	err = db.view(ctx, func(tx *sql.Tx) error {
		end, err := heldEnd(tx, topics, after)
		if err != nil {
			return err
		}
		r := reader{ctx: ctx, tx: tx, topics: topics, limit: min(limit, maxReadEvents)}
		next, err = r.read(after, min(until, end))
		evs = r.events
		return err
	})
	if err != nil {
		return nil, after, fmt.Errorf("read after %s: %w", after, err)
	}
	return evs, next, nil
}

// heldEnd returns how far the windows hold all of topics without a hole after
// position p: p itself where p is the edge of what is held.
func heldEnd(tx *sql.Tx, topics []event.Topic, p event.ID) (event.ID, error) {
	windows, err := loadWindows(tx)
	if err != nil {
		return 0, err
	}
	end, ok, next, more := setOf(windows).Edge(topics, p)
	if !ok {
		return 0, &window.NotHeldError{After: p, Oldest: next, Some: more}
	}
	return end, nil
}

// Held returns which stretches of the topics' history are held: of all of them. Of
// no topics none are.
func (db *DB) Held(ctx context.Context, topics ...event.Topic) (held window.Spans, err error) {
	err = db.view(ctx, func(tx *sql.Tx) error {
		windows, err := loadWindows(tx)
		held = setOf(windows).Held(topics...)
		return err
	})
	return held, err
}

// A reader collects events in one reading transaction.
type reader struct {
	ctx    context.Context
	tx     *sql.Tx
	topics []event.Topic
	limit  int
	bytes  int
	events []event.Event
}

func (r *reader) full() bool { return len(r.events) >= r.limit || r.bytes >= maxReadBytes }

// read looks at (after, until] in steps, as far as its bounds allow: one step at
// least, since a reader who gets nowhere takes it for the end of what is held.
func (r *reader) read(after, until event.ID) (event.ID, error) {
	if after >= until || r.full() {
		return after, nil
	}
	started := time.Now()
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
			after, err = r.scan(after, until, few)
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
		where, args := storagesOf(t)
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

// storagesOf returns the SQL condition on storage s for the storages of t.
func storagesOf(t event.Topic) (where string, args []any) {
	var ors []string
	for _, r := range t.PathRanges() {
		var ands []string
		if user, ok := t.User(); ok {
			ands, args = append(ands, "s.user = ?"), append(args, user)
		}
		ands, args = append(ands, "s.path >= ?"), append(args, r.From)
		if r.To != "" {
			ands, args = append(ands, "s.path < ?"), append(args, r.To)
		}
		ors = append(ors, "("+strings.Join(ands, " AND ")+")")
	}
	return "(" + strings.Join(ors, " OR ") + ")", args
}

func (r *reader) matches(ev *event.Event) bool {
	for _, t := range r.topics {
		if t.Matches(ev.User, ev.Path) {
			return true
		}
	}
	return false
}

// scan reads the events of (after, until] in order, up to maxScan of them: all, or
// with few those of the topics' storages.
func (r *reader) scan(after, until event.ID, few bool) (event.ID, error) {
	filter, args := "", []any{after, until}
	if few {
		where, names := r.storages()
		filter, args = `AND storage IN (SELECT s.id FROM storage s WHERE `+where+`)`, append(args, names...)
	}
	rows, err := r.tx.QueryContext(r.ctx, `SELECT id, line FROM event WHERE id > ? AND id <= ? `+filter+`
		ORDER BY id LIMIT ?`, append(args, maxScan)...)
	if err != nil {
		return after, err
	}
	defer rows.Close()
	n := 0
	for ; rows.Next(); n++ {
		if after, err = r.take(rows); err != nil || r.full() {
			return after, err
		}
	}
	if n < maxScan {
		after = until
	}
	return after, rows.Err()
}

// storages returns the SQL condition on storage s for the topics together.
func (r *reader) storages() (where string, args []any) {
	var ors []string
	for _, t := range r.topics {
		or, some := storagesOf(t)
		ors, args = append(ors, or), append(args, some...)
	}
	return strings.Join(ors, " OR "), args
}

// take reads the event of a row and keeps it if it belongs to the topics.
func (r *reader) take(row interface{ Scan(...any) error }) (id event.ID, err error) {
	var line []byte
	if err := row.Scan(&id, &line); err != nil {
		return 0, err
	}
	ev, err := stored(id, line)
	if err != nil {
		return 0, err
	}
	if r.matches(&ev) {
		r.events = append(r.events, ev)
		r.bytes += len(line)
	}
	return id, nil
}

// seek reads the events of (after, until] that the postings name.
func (r *reader) seek(after, until event.ID) (event.ID, error) {
	ids, err := r.posted(after, until)
	if err != nil {
		return after, err
	}
	if uint64(len(ids)) > uint64(until-after)/4 {
		return r.scan(after, until, false) // reading in order beats finding each
	}
	stmt, err := r.tx.PrepareContext(r.ctx, `SELECT id, line FROM event WHERE id = ?`)
	if err != nil {
		return after, err
	}
	defer stmt.Close()
	for _, id := range ids {
		_, err := r.take(stmt.QueryRowContext(r.ctx, id))
		if errors.Is(err, sql.ErrNoRows) {
			continue // forgotten since it was indexed
		}
		if err != nil {
			return after, err
		}
		if r.full() {
			return id, nil
		}
	}
	return until, nil
}

// posted returns the ids in (after, until] that the postings give to the topics,
// in order, each once.
func (r *reader) posted(after, until event.ID) ([]event.ID, error) {
	var ids []event.ID
	for _, t := range r.topics {
		where, args := storagesOf(t)
		rows, err := r.tx.QueryContext(r.ctx, `SELECT p.block, p.offsets FROM storage s CROSS JOIN posting p
			ON p.storage = s.id AND p.block BETWEEN ? AND ? WHERE `+where,
			append([]any{int64((after + 1).Block()), int64(until.Block())}, args...)...)
		if err != nil {
			return nil, err
		}
		err = eachPosting(rows, func(id event.ID) {
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

func eachPosting(rows *sql.Rows, visit func(event.ID)) error {
	defer rows.Close()
	var block int64
	var offsets sql.RawBytes
	for rows.Next() {
		if err := rows.Scan(&block, &offsets); err != nil {
			return err
		}
		positions(block, offsets, visit)
	}
	return rows.Err()
}

// BeforeLast returns the newest position after which topics have n held events up to
// position until, or from if they have no more than n there.
func (db *DB) BeforeLast(ctx context.Context, topics []event.Topic, n int, from, until event.ID) (at event.ID, err error) {
	if n <= 0 || until <= from {
		return max(until, from), nil
	}
	at = from
	err = db.view(ctx, func(tx *sql.Tx) error {
		windows, err := loadWindows(tx)
		if err != nil {
			return err
		}
		b := backReader{ctx: ctx, tx: tx, topics: topics, n: n}
		held := setOf(windows).Held(topics...).Intersect(window.Spans{{From: from, To: until}})
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
		r.events, r.bytes, after = nil, 0, next
	}
	return ids, nil
}

// PositionAt returns the position of the last stored event with a time at or before
// t, or Beginning if there is none. Times grow with ids, so it is found by halving.
func (db *DB) PositionAt(ctx context.Context, t event.Time) (at event.ID, err error) {
	err = db.view(ctx, func(tx *sql.Tx) error {
		at, err = positionIn(ctx, tx, t)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("position at %s: %w", t, err)
	}
	return at, nil
}

func positionIn(ctx context.Context, tx *sql.Tx, t event.Time) (event.ID, error) {
	stmt, err := tx.PrepareContext(ctx, `SELECT id, line FROM event WHERE id <= ? ORDER BY id DESC LIMIT 1`)
	if err != nil {
		return 0, err
	}
	defer stmt.Close()
	return positionAt(ctx, stmt, t)
}

// positionAt halves (low, high]: what is stored up to low is early enough, what is
// stored after high is too late.
func positionAt(ctx context.Context, last *sql.Stmt, t event.Time) (at event.ID, err error) {
	for low, high := event.Beginning, event.MaxID; low < high; {
		middle := low + (high-low+1)/2
		var id event.ID
		var line []byte
		var ev event.Event
		switch err := last.QueryRowContext(ctx, middle).Scan(&id, &line); {
		case errors.Is(err, sql.ErrNoRows):
			low = middle
			continue
		case err != nil:
			return 0, err
		}
		if ev, err = stored(id, line); err != nil {
			return 0, err
		}
		if ev.Time > t {
			high = id - 1
		} else {
			at, low = id, middle
		}
	}
	return at, nil
}
