package rows

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// PositionAt returns the position of the last event with a time at or before t, as far
// as stored events and known bounds of windows tell, or Beginning if there is none. If a
// damaged page may have that event, PositionAt returns a *pages.DamageError and a position
// that is no later.
func PositionAt(ctx context.Context, tx *sql.Tx, t event.Time) (event.ID, error) {
	at, damage := pages.PositionAt(ctx, tx, t)
	if damage != nil && !errors.Is(damage, dbfile.ErrCorrupt) {
		return 0, damage
	}
	bound, err := boundBefore(ctx, tx, t)
	if err != nil {
		return 0, err
	}
	if at, err = notDropped(ctx, tx, max(at, bound), t); err != nil {
		return 0, err
	}
	return at, damage
}

// PositionsAt returns the positions that time t can have, as far as stored events and known bounds
// of windows tell: that of PositionAt and those after it, up to the last one that can be before
// the next known to be later than t. That is event.MaxID if none is known to be later.
func PositionsAt(ctx context.Context, tx *sql.Tx, t event.Time) (window.Span, error) {
	at, err := PositionAt(ctx, tx, t)
	if err != nil {
		return window.Span{}, err
	}
	later, some, err := pages.Next(ctx, tx, at)
	var damage *pages.DamageError
	if errors.As(err, &damage) { // PositionAt would have failed if it had events of an earlier time
		later, some, err = max(damage.ID, at+1), true, nil
	}
	if err != nil {
		return window.Span{}, err
	}
	var bound sql.NullInt64
	if err := tx.QueryRowContext(ctx, `SELECT min(at) FROM bound WHERE time > ? AND at > ? AND `+BoundSound, int64(t), at).Scan(&bound); err != nil {
		return window.Span{}, err
	}
	if bound.Valid && (!some || event.ID(bound.Int64) < later) {
		later, some = event.ID(bound.Int64), true
	}
	if !some {
		return window.Span{From: at, To: event.MaxID}, nil
	}
	return window.Span{From: at, To: later - 1}, nil
}

// LastAt returns the time of the last event at or before position at, and the mark of the
// position, zero if it is not known; ok is false if there is none. A mirror of some topics
// lacks events before most positions: there, the time is that of the last one that it has, and
// ok is false.
func (t *Tables) LastAt(ctx context.Context, tx *sql.Tx, at event.ID) (last event.Time, mark event.Mark, ok bool, err error) {
	horizon, err := t.HorizonIn(tx)
	if err != nil {
		return 0, 0, false, err
	}
	if at < horizon {
		return 0, 0, false, &window.NotHeldError{After: at, Oldest: horizon, Some: true}
	}
	line, some, err := pages.Last(ctx, tx, window.Span{To: at}, t.file.Role != dbfile.Client)
	if err == nil && some && line.ID <= horizon && horizon < at && t.file.Role != dbfile.Client {
		// In a file of an earlier version, a page that begins before this one may go on after the
		// state from which the mirror has begun.
		line, some, err = pages.Last(ctx, tx, window.Span{To: at}, false)
	}
	if err != nil {
		return 0, 0, false, err
	}
	if some {
		ev, err := ParsePosted(line.Posted(), line.Text)
		if err != nil {
			return 0, 0, false, err
		}
		last, mark, ok = ev.Time, ev.Mark(), true
	}
	if t.file.IsPart() && (!some || line.ID < at) {
		mark, err = receivedMark(ctx, tx, at)
		gone, dropped, failed := lastDropped(ctx, tx, at)
		if dropped && at == horizon {
			mark = gone.mark
		}
		return max(last, gone.time), mark, false, errors.Join(err, failed)
	}
	if line.ID > horizon && t.file.Role != dbfile.Client {
		return last, mark, ok, nil
	}
	gone, dropped, err := lastDropped(ctx, tx, at)
	if err != nil {
		return 0, 0, false, err
	}
	if dropped {
		mark = gone.mark
	}
	bound, bounded, err := boundTime(ctx, tx, at)
	return max(last, gone.time, bound), mark, ok || dropped || bounded, err
}

// KeptMarks is how many marks of positions the file of a mirror of some topics has. It is a
// variable for the tests.
var KeptMarks = 4096

var (
	keepMark  = strings.Replace(dbfile.MirrorTable.Insert(), "INSERT", "INSERT OR REPLACE", 1)
	findMark  = `SELECT mark FROM mirror1 WHERE mirror1 = ? AND ` + dbfile.MirrorTable.Sound()
	dropMarks = `DELETE FROM mirror1 WHERE mirror1 <= (SELECT mirror1 FROM mirror1 ORDER BY mirror1 DESC LIMIT 1 OFFSET ?)`
)

// KeepMark keeps the mark of a position, whose event a mirror of some topics does not have. Readers
// get the mark, and come back with it.
func (t *Tables) KeepMark(tx *sql.Tx, p event.Point) error {
	if p.Mark == 0 {
		return nil
	}
	if _, err := t.file.Exec(tx, keepMark, int64(p.ID), p.Mark.String()); err != nil {
		return err
	}
	_, err := t.file.Exec(tx, dropMarks, KeptMarks)
	return err
}

// receivedMark returns the mark of KeepMark, zero if it is not known.
func receivedMark(ctx context.Context, tx *sql.Tx, at event.ID) (event.Mark, error) {
	var mark string
	err := tx.QueryRowContext(ctx, findMark, int64(at)).Scan(&mark)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return ParseMark(mark)
}

// BoundSound is the condition that a row of bound counts. A damaged bound is as if it were
// not there: the server is asked. So is one at the beginning, which has no time; a server can
// have sent one to an earlier version.
var BoundSound = `(bound.at > 0 AND ` + dbfile.BoundTable.Sound() + `)`

// boundBefore returns the last position with a time at or before t among those that a
// server has named, or Beginning.
func boundBefore(ctx context.Context, tx *sql.Tx, t event.Time) (at event.ID, err error) {
	err = tx.QueryRowContext(ctx, `SELECT coalesce(max(at), 0) FROM bound WHERE time <= ? AND `+BoundSound, int64(t)).Scan(&at)
	return at, err
}

// boundTime returns the time of the last position up to at that a server has named.
func boundTime(ctx context.Context, tx *sql.Tx, at event.ID) (t event.Time, some bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT coalesce(max(time), 0), count(*) > 0 FROM bound WHERE at <= ? AND `+BoundSound, at).Scan(&t, &some)
	return t, some, err
}

// notDropped corrects at, the position of the last stored event at or before time t: it
// returns the horizon if that event is older and those up to the horizon were dropped.
func notDropped(ctx context.Context, tx *sql.Tx, at event.ID, t event.Time) (event.ID, error) {
	var horizon event.ID
	var last event.Time
	err := dbfile.ScanLog(ctx, tx, `horizon, horizon_time`, &horizon, &last)
	if err != nil || last == 0 || last > t {
		return at, err
	}
	return max(at, horizon), nil
}

// A dropped is the remaining record of the last event at or before the horizon.
type dropped struct {
	time event.Time
	mark event.Mark // zero if the horizon was moved by an earlier version
}

// lastDropped returns the record of the last event at or before the horizon, if that is
// at or before a position and the event may be gone.
func lastDropped(ctx context.Context, tx *sql.Tx, at event.ID) (d dropped, some bool, err error) {
	var horizon event.ID
	var mark string
	err = dbfile.ScanLog(ctx, tx, `horizon, horizon_time, horizon_mark`, &horizon, &d.time, &mark)
	if err != nil || d.time == 0 || horizon > at {
		return dropped{}, false, err
	}
	d.mark, err = ParseMark(mark)
	return d, err == nil, err
}
