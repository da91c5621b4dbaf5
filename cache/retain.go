package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/seen"
	"github.com/rstream-dev/rstream/event"
)

// A policy says what a log lets go. The zero policy keeps everything.
type policy struct {
	History  time.Duration // how old events may become; if zero, any age
	TTL      []rule
	MaxBytes int64 // how large the file may become; if zero, any size
}

// none reports whether p keeps everything.
func (p policy) none() bool {
	return p.History == 0 && p.MaxBytes == 0 && len(ttlRules(p.TTL).ages()) == 0
}

func (p policy) check() error {
	if p.History < 0 || p.MaxBytes < 0 {
		return fmt.Errorf("retain a history of %s and %d bytes: want no negative number", p.History, p.MaxBytes)
	}
	return newRules(p.TTL).check()
}

// A committer appends events to the log: it alone gives ids.
type committer interface {
	// Expire ends the values that are still as they were found, and notes that those of
	// topics up to a position have had their time.
	Expire(ctx context.Context, old []expiry, topics []event.Topic, upTo event.ID) error
}

// A history is what a log has kept, and from which retention lets go.
type history struct {
	file      *dbfile.File
	tables    *rows.Tables
	seen      *seen.Index
	committer committer
	mono      func() time.Duration // since some moment: the time that has passed
}

func newHistory(f *dbfile.File, t *rows.Tables, x *seen.Index, c committer, mono func() time.Duration) *history {
	return &history{file: f, tables: t, seen: x, committer: c, mono: mono}
}

// noRest goes on at once.
func noRest(ctx context.Context, _ time.Duration) error { return ctx.Err() }

// setPolicy has the following rounds let go of what another policy says. The first of them
// makes the clock durable.
func (r *retainer) setPolicy(p policy) { r.cfg, r.kept = p, r.clock.seen-tickTime }

// run lets go of what the policy says, beside the appends and in small steps, until ctx
// ends or, if the policy keeps everything, until what was begun is brought to its end.
func (r *retainer) run(ctx context.Context) error {
	rest := time.NewTicker(r.interval())
	defer rest.Stop()
	for {
		err := r.round(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, dbfile.ErrBusy) && !errors.Is(err, dbfile.ErrFull) && !errors.Is(err, dbfile.ErrUnknown):
			return err
		case r.cfg.none() && err == nil:
			return nil
		}
		select {
		case <-rest.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// once lets go of what the policy says, all at once.
func (r *retainer) once(ctx context.Context) error {
	r.rest = noRest
	return r.round(ctx)
}

// trustWall makes the clock show what the wall clock does.
func (r *retainer) trustWall() { r.clock.set() }

// onceByWall is once by the clock on the wall, without giving space back.
func (r *retainer) onceByWall(ctx context.Context) error {
	r.trustWall()
	r.rest = noRest
	return r.letGo(ctx)
}

// A retainer lets go of what a log need not keep. There is one at a time.
type retainer struct {
	db    *history
	cfg   policy
	clock *retainClock
	kept  time.Duration // when the clock was made durable
	rest  func(context.Context, time.Duration) error

	steps   int
	cleared event.ID // the horizon below which nothing is kept but events
}

func (db *history) newRetainer(ctx context.Context, cfg policy) (*retainer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	clock, err := db.loadClock(ctx)
	if err != nil {
		return nil, dbfile.Wrap(err, "retain")
	}
	return &retainer{db: db, cfg: cfg, clock: clock, kept: -tickTime, rest: restAfter}, nil
}

// Retention looks around as often as ten times in the shortest of its ages, within
// these bounds.
const (
	minRound = 50 * time.Millisecond
	maxRound = 10 * time.Second
	// sizeRound is how often it looks at the size of the file, if that is bounded.
	sizeRound = time.Second
	// tickTime is how often the clock is made durable.
	tickTime = time.Minute
)

func (r *retainer) interval() time.Duration {
	most := maxRound
	for _, age := range append(ttlRules(r.cfg.TTL).ages(), r.cfg.History) {
		if age > 0 {
			most = min(most, age/10)
		}
	}
	if r.cfg.MaxBytes > 0 {
		most = min(most, sizeRound)
	}
	return max(most, minRound)
}

// restAfter leaves the file to others after a step that took some time.
func restAfter(ctx context.Context, took time.Duration) error {
	rest := time.NewTimer(min(max(3*took, time.Millisecond), time.Second))
	defer rest.Stop()
	select {
	case <-rest.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// round lets go of what has had its time by now, and gives back the space.
func (r *retainer) round(ctx context.Context) error {
	err := r.letGo(ctx)
	if err == nil && !r.cfg.none() {
		err = r.shrink(ctx)
	}
	return dbfile.Wrap(err, "retain")
}

// letGo moves the horizon, durably, before it drops what lies below.
func (r *retainer) letGo(ctx context.Context) error {
	now := r.clock.now()
	if seen := r.clock.seen; seen-r.kept >= tickTime {
		if err := r.db.keepTick(ctx, r.clock); err != nil {
			return err
		}
		r.kept = seen
	}
	if err := r.expire(ctx, now); err != nil {
		return err
	}
	if r.cfg.History > 0 {
		if err := r.raise(ctx, now-micros(r.cfg.History)); err != nil {
			return err
		}
	}
	if err := r.drop(ctx); err != nil {
		return err
	}
	if r.cfg.MaxBytes > 0 {
		return r.fit(ctx)
	}
	return nil
}

// raise moves the horizon up to the last block of which all events are from before or
// at a time.
func (r *retainer) raise(ctx context.Context, t event.Time) error {
	at, err := r.db.positionAt(ctx, t)
	if err != nil {
		return err
	}
	return r.db.moveHorizon(ctx, at/event.BlockSize*event.BlockSize)
}

// positionAt returns the position of the last event with a time at or before t.
func (db *history) positionAt(ctx context.Context, t event.Time) (at event.ID, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		at, err = rows.PositionAt(ctx, tx, t)
		return err
	})
	return at, dbfile.Wrap(err, "position at %s", t)
}

// lastAt returns the time of the last event at or before a position, and its mark.
func (db *history) lastAt(ctx context.Context, at event.ID) (t event.Time, mark event.Mark, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		t, mark, _, err = db.tables.LastAt(ctx, tx, at)
		return err
	})
	return t, mark, dbfile.Wrap(err, "time at %s", at)
}

// A retained is how far retention has come.
type retained struct {
	horizon, dropped, indexed, hashed event.ID
}

func (db *history) loadRetained(ctx context.Context) (r retained, err error) {
	err = db.file.ViewRow(ctx, `SELECT w.start, l.dropped, l.indexed, l.hashed FROM log l
		JOIN window w ON w.topic = '*' AND w.state = 'committed'`, nil, &r.horizon, &r.dropped, &r.indexed, &r.hashed)
	if errors.Is(err, sql.ErrNoRows) {
		err = db.file.Named(rows.ErrNoWindow)
	}
	return r, err
}

// moveHorizon moves the horizon up to a position, the end of a block, if it lies below:
// from then on nobody is told of what was before, and it may be dropped.
func (db *history) moveHorizon(ctx context.Context, to event.ID) error {
	at, err := db.loadRetained(ctx)
	if err != nil {
		return err
	}
	to = min(to, at.indexed)
	if to <= at.horizon {
		return nil
	}
	last, mark, err := db.lastAt(ctx, to) // as long as it is there
	if err != nil {
		return err
	}
	return db.file.Update(ctx, func(tx *sql.Tx) error {
		if _, err := db.file.Exec(tx, `UPDATE log SET horizon_time = ?, horizon_mark = ?`, int64(last), mark.String()); err != nil {
			return err
		}
		_, err := db.file.Exec(tx, `UPDATE window SET start = ? WHERE topic = '*' AND state = 'committed' AND start < ?`, to, to)
		return err
	})
}
