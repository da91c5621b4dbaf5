package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// Retention says what a log lets go. The zero Retention keeps everything.
type Retention struct {
	// History is how old events may become: older ones are dropped by blocks, and
	// what is left of them is the state. If zero, any age.
	History time.Duration
	// TTL is how old values may become: one that was not set again since is ended by
	// a DEL. Values of other topics may have any age.
	TTL []TTL
	// MaxBytes is how large the file may become, its write-ahead log aside: the oldest
	// history is dropped until it fits. If zero, any size.
	MaxBytes int64
}

// None reports whether r keeps everything.
func (r Retention) None() bool {
	return r.History == 0 && r.MaxBytes == 0 && len(ttlRules(r.TTL).ages()) == 0
}

func (r Retention) check() error {
	if r.History < 0 || r.MaxBytes < 0 {
		return fmt.Errorf("retain a history of %s and %d bytes: want no negative number", r.History, r.MaxBytes)
	}
	return newRules(r.TTL).check()
}

// Retain lets go of a log, beside the appends and in small steps, what cfg says, until
// ctx ends. What another writer or a full disk keeps it from is done in the next round.
// What was begun by a process that was killed is brought to its end even if cfg keeps
// everything.
func (db *DB) Retain(ctx context.Context, cfg Retention) error {
	r, err := db.newRetainer(ctx, cfg)
	if err != nil {
		return err
	}
	rest := time.NewTicker(r.interval())
	defer rest.Stop()
	for {
		err := r.round(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, dbfile.ErrBusy) && !errors.Is(err, dbfile.ErrFull) && !errors.Is(err, ErrUnknown):
			return err
		case cfg.None() && err == nil:
			return nil
		}
		select {
		case <-rest.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// RetainOnce lets go of what cfg says, all at once: nobody else is to use the log.
func (db *DB) RetainOnce(ctx context.Context, cfg Retention) error {
	r, err := db.newRetainer(ctx, cfg)
	if err != nil {
		return err
	}
	r.rest = noRest
	return r.round(ctx)
}

// noRest goes on at once.
func noRest(ctx context.Context, _ time.Duration) error { return ctx.Err() }

// A retainer lets go of what a log need not keep. There is one at a time.
type retainer struct {
	db    *DB
	cfg   Retention
	clock *retainClock
	kept  time.Duration // when the clock was made durable
	rest  func(context.Context, time.Duration) error

	steps   int
	cleared event.ID // the horizon below which nothing is kept but events
}

func (db *DB) newRetainer(ctx context.Context, cfg Retention) (*retainer, error) {
	if db.commits == nil {
		return nil, fmt.Errorf("retain: %w: it gives no ids", dbfile.ErrRole)
	}
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
	if err == nil && !r.cfg.None() {
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
	at, err := r.db.PositionAt(ctx, t)
	if err != nil {
		return err
	}
	return r.db.moveHorizon(ctx, at/event.BlockSize*event.BlockSize)
}

// A retained is how far retention has come.
type retained struct {
	horizon, dropped, indexed, hashed event.ID
}

func (db *DB) loadRetained(ctx context.Context) (r retained, err error) {
	err = db.file.ViewRow(ctx, `SELECT w.start, l.dropped, l.indexed, l.hashed FROM log l
		JOIN window w ON w.topic = '*' AND w.state = 'committed'`, nil, &r.horizon, &r.dropped, &r.indexed, &r.hashed)
	if errors.Is(err, sql.ErrNoRows) {
		err = db.file.Named(errNoWindow)
	}
	return r, err
}

// moveHorizon moves the horizon up to a position, the end of a block, if it lies below:
// from then on nobody is told of what was before, and it may be dropped.
func (db *DB) moveHorizon(ctx context.Context, to event.ID) error {
	at, err := db.loadRetained(ctx)
	if err != nil {
		return err
	}
	to = min(to, at.indexed)
	if to <= at.horizon {
		return nil
	}
	last, mark, _, err := db.LastAt(ctx, to) // as long as it is there
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
