package retention

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/seen"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Policy says what a log keeps. The zero Policy keeps everything.
type Policy struct {
	History  time.Duration // maximum age of events; if zero, any
	TTL      []Rule
	MaxBytes int64 // maximum size of the file; if zero, any
	// Outgrown is called once if the file stays larger than MaxBytes. If nil, nothing is said.
	Outgrown func()
	// Horizon returns the position below which another server has dropped the history of
	// the log, which is then dropped here, too. If nil, no other server decides.
	Horizon func() event.ID
	// Decider says whether this server decides about the log. If nil, it does.
	Decider Decider
	// Damaged is called with damage that retention goes past, once for each. If nil,
	// nothing is said.
	Damaged func(error)
}

// None reports whether p keeps everything.
func (p Policy) None() bool {
	return p.History == 0 && p.MaxBytes == 0 && p.Horizon == nil && len(ttlRules(p.TTL).ages()) == 0
}

func (p Policy) checkPolicy() error {
	if p.History < 0 || p.MaxBytes < 0 {
		return fmt.Errorf("retain a history of %s and %d bytes: want no negative number", p.History, p.MaxBytes)
	}
	return newRules(p.TTL).checkRules()
}

// A Decider is the part of one server in the decisions about a log that many servers share.
type Decider interface {
	// Decides reports whether this server decides now.
	Decides() bool
	// MoveHorizon moves the horizon of the log, on all servers.
	MoveHorizon(ctx context.Context, to event.ID) error
}

// ErrLater means that something could not be decided now. The next round tries it again.
var ErrLater = errors.New("this cannot be decided now")

// A Committer appends events to the log: it alone assigns ids.
type Committer interface {
	// Expire deletes those of the old values that are still current, and records that the
	// values of topics up to a position have been dealt with.
	Expire(ctx context.Context, old []Expiry, topics []event.Topic, upTo event.ID) error
}

// A History is the retained history of a log.
type History struct {
	file      *dbfile.File
	tables    *rows.Tables
	seen      *seen.Index
	snapshots *snapshot.Store
	mono      func() time.Duration // time passed since some moment
}

// New returns the History of a log's file. mono returns the time passed since some fixed
// moment.
func New(f *dbfile.File, t *rows.Tables, x *seen.Index, s *snapshot.Store, mono func() time.Duration) *History {
	return &History{file: f, tables: t, seen: x, snapshots: s, mono: mono}
}

// NoThrottle is a Throttle that does not wait.
func NoThrottle(ctx context.Context, _ time.Duration) error { return ctx.Err() }

// SetPolicy replaces the policy for the rounds that follow. The first of them makes the
// clock durable.
func (r *Retainer) SetPolicy(p Policy) { r.cfg, r.clockKept = p, r.clock.seen-maxTick }

// Run enforces the policy, alongside the appends and in small steps, until ctx ends. If
// the policy keeps everything, Run returns once interrupted work is complete.
func (r *Retainer) Run(ctx context.Context) error {
	rest := time.NewTicker(r.interval())
	defer rest.Stop()
	defer r.keepLastTick(ctx)
	for {
		err := r.Round(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, dbfile.ErrBusy) && !errors.Is(err, dbfile.ErrFull) && !errors.Is(err, dbfile.ErrUnknown) && !errors.Is(err, ErrLater):
			return err
		case r.cfg.None() && err == nil:
			return nil
		}
		select {
		case <-rest.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// RunOnce enforces the policy once, without pauses.
func (r *Retainer) RunOnce(ctx context.Context) error {
	r.Throttle = NoThrottle
	return r.Round(ctx)
}

// TrustWall sets the clock to the wall clock.
func (r *Retainer) TrustWall() {
	r.clock.setToWall()
	r.byWall = true
}

// RunOnceByWall is RunOnce by the wall clock. It does not return the free space.
func (r *Retainer) RunOnceByWall(ctx context.Context) error {
	r.TrustWall()
	r.Throttle = NoThrottle
	return r.enforce(ctx)
}

// A Retainer removes what a log need not keep. A log has at most one at a time.
type Retainer struct {
	history   *History
	committer Committer
	cfg       Policy
	clock     *clock
	clockKept time.Duration                              // when the clock was last made durable
	byWall    bool                                       // the clock was set to the wall clock
	Throttle  func(context.Context, time.Duration) error // called after each step, with its duration

	steps   int
	cleared event.ID        // the horizon below which only events are left
	damaged map[string]bool // the damage that was reported

	outgrown retained // at which the file stayed larger than MaxBytes
	told     bool     // that was reported
}

// skipDamage reports damage, which retention then goes past.
func (r *Retainer) skipDamage(damage *pages.DamageError) error {
	if text := damage.Error(); r.cfg.Damaged != nil && !r.damaged[text] {
		r.damaged[text] = true
		r.cfg.Damaged(r.history.file.Named(damage))
	}
	return nil
}

// NewRetainer returns a Retainer whose clock continues from that of the last one. c appends
// to the log. It returns an error if the policy is invalid.
func (h *History) NewRetainer(ctx context.Context, cfg Policy, c Committer) (*Retainer, error) {
	if err := cfg.checkPolicy(); err != nil {
		return nil, err
	}
	clock, err := h.loadClock(ctx)
	if err != nil {
		return nil, dbfile.Wrap(err, "retain")
	}
	return &Retainer{history: h, committer: c, cfg: cfg, clock: clock, clockKept: -maxTick, Throttle: throttle, damaged: map[string]bool{}}, nil
}

// The pause between rounds is a tenth of the shortest age, within these bounds. So is the
// time after which the clock is made durable: what a server has seen pass since then does not
// count if the server is killed, so what expires is late by a tenth each time.
const (
	minRound, maxRound = 50 * time.Millisecond, 10 * time.Second
	minTick, maxTick   = time.Second, time.Minute
	// sizeRound is how often the size of the file is checked, if it is bounded.
	sizeRound = time.Second
	// lastTick is how long the end of a Run may take to make the clock durable.
	lastTick = time.Second
)

func (r *Retainer) interval() time.Duration {
	most := maxRound
	if r.cfg.MaxBytes > 0 {
		most = sizeRound
	}
	return max(min(r.tenth(), most), minRound)
}

// tickTime returns how often the clock is made durable.
func (r *Retainer) tickTime() time.Duration { return max(min(r.tenth(), maxTick), minTick) }

// tenth returns a tenth of the shortest age of the policy.
func (r *Retainer) tenth() time.Duration {
	shortest := time.Duration(math.MaxInt64)
	for _, age := range append(ttlRules(r.cfg.TTL).ages(), r.cfg.History) {
		if age > 0 {
			shortest = min(shortest, age)
		}
	}
	return shortest / 10
}

// keepsClock reports whether the clock is made durable. If the policy keeps everything, it is
// not: nobody looks at it, so it would stay as it is for as long as that policy is served.
func (r *Retainer) keepsClock() bool { return !r.cfg.None() || r.byWall }

// keepLastTick makes the clock durable at the end of a Run. If that fails, some time that has
// passed does not count, as if the server had been killed.
func (r *Retainer) keepLastTick(ctx context.Context) {
	if !r.keepsClock() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTick)
	defer cancel()
	r.clock.now()
	_ = r.history.keepTick(ctx, r.clock)
}

// throttle pauses after a step, in proportion to its duration, to let others use the
// file.
func throttle(ctx context.Context, took time.Duration) error {
	rest := time.NewTimer(min(max(3*took, time.Millisecond), time.Second))
	defer rest.Stop()
	select {
	case <-rest.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Round removes what has expired by now, and returns the space.
func (r *Retainer) Round(ctx context.Context) error {
	err := r.enforce(ctx)
	if err == nil && !r.cfg.None() {
		err = r.giveBackSpace(ctx)
	}
	return dbfile.Wrap(err, "retain")
}

// enforce moves the horizon, durably, then drops what lies below it.
func (r *Retainer) enforce(ctx context.Context) error {
	now := r.clock.now()
	if seen := r.clock.seen; r.keepsClock() && seen-r.clockKept >= r.tickTime() {
		if err := r.history.keepTick(ctx, r.clock); err != nil {
			return err
		}
		r.clockKept = seen
	}
	if err := r.decide(ctx, now); err != nil {
		return err
	}
	if r.cfg.Horizon != nil {
		if err := r.history.MoveHorizon(ctx, r.cfg.Horizon()/event.BlockSize*event.BlockSize); err != nil {
			return err
		}
	}
	if err := r.DropBelow(ctx); err != nil {
		return err
	}
	if r.cfg.MaxBytes > 0 {
		return r.trimToSize(ctx)
	}
	return nil
}

// decide decides what has expired by a time, unless another server does.
func (r *Retainer) decide(ctx context.Context, now event.Time) error {
	if r.cfg.Decider != nil && !r.cfg.Decider.Decides() {
		return nil
	}
	if err := r.expireValues(ctx, now); err != nil || r.cfg.History == 0 {
		return err
	}
	return r.advanceHorizon(ctx, now-micros(r.cfg.History))
}

// advanceHorizon moves the horizon up to the end of the last block whose events all have
// times at or before t.
func (r *Retainer) advanceHorizon(ctx context.Context, t event.Time) error {
	at, err := r.positionAtTime(ctx, t)
	if err != nil {
		return err
	}
	to := at / event.BlockSize * event.BlockSize
	if r.cfg.Decider == nil {
		return r.history.MoveHorizon(ctx, to)
	}
	if to <= r.cfg.Horizon() {
		return nil
	}
	if err := r.cfg.Decider.MoveHorizon(ctx, to); err != nil {
		return fmt.Errorf("%w: %w", ErrLater, err)
	}
	return nil
}

// positionAtTime returns the position of the last event with a time at or before t, or
// that of an earlier event if a page is damaged there.
func (r *Retainer) positionAtTime(ctx context.Context, t event.Time) (at event.ID, err error) {
	err = r.history.file.View(ctx, func(tx *sql.Tx) error {
		var damage *pages.DamageError
		if at, err = rows.PositionAt(ctx, tx, t); errors.As(err, &damage) {
			return r.skipDamage(damage)
		}
		return err
	})
	return at, dbfile.Wrap(err, "position at %s", t)
}

// lastAt returns the time of the last event at or before a position, and its mark. If it is
// damaged, the mark is not known, and the time is that of an earlier one.
func (h *History) lastAt(ctx context.Context, at event.ID) (t event.Time, mark event.Mark, err error) {
	err = h.file.View(ctx, func(tx *sql.Tx) error {
		t, mark, _, err = h.tables.LastAt(ctx, tx, at)
		var damage *pages.DamageError
		if errors.As(err, &damage) {
			mark = 0
			t, err = lastSound(ctx, tx, at)
		}
		return err
	})
	return t, mark, dbfile.Wrap(err, "time at %s", at)
}

// lastSound returns the time of the last event at or before a position that can be read,
// 0 if there is none near.
func lastSound(ctx context.Context, tx *sql.Tx, at event.ID) (t event.Time, err error) {
	near := window.Span{From: at - min(at, event.BlockSize), To: at}
	skip := pages.Skip(func(*pages.DamageError) error { return nil })
	q := pages.Query{Span: near, MaxText: maxDelLine, Skip: skip}
	err = pages.Scan(ctx, tx, q, func(l pages.Line) error {
		if l.Text == nil {
			return nil
		}
		ev, err := rows.ParsePosted(l.Posted(), l.Text)
		if err == nil {
			t = ev.Time
		}
		return skip.Pass(err)
	})
	return t, err
}

// A retained is the progress of retention.
type retained struct {
	horizon, dropped, indexed, hashed event.ID
}

func (h *History) loadRetained(ctx context.Context) (r retained, err error) {
	err = h.file.ViewLog(ctx, `horizon, dropped, indexed, hashed`, &r.horizon, &r.dropped, &r.indexed, &r.hashed)
	return r, err
}

// MoveHorizon moves the horizon up to a position, the end of a block, if that is higher.
// From then on nothing below it is served, and it may be dropped.
func (h *History) MoveHorizon(ctx context.Context, to event.ID) error {
	at, err := h.loadRetained(ctx)
	if err != nil {
		return err
	}
	to = min(to, at.indexed)
	if to <= at.horizon {
		return nil
	}
	last, mark, err := h.lastAt(ctx, to) // while it is there
	if err != nil {
		return err
	}
	err = h.file.Update(ctx, func(tx *sql.Tx) error {
		var now event.ID
		if err := h.file.ScanLog(tx, `horizon`, &now); err != nil || to <= now {
			return err // a mirror may have begun at a later one, whose mark must stay
		}
		if err := h.file.UpdateLog(tx, moveHorizon, int64(last), markText(mark), to); err != nil {
			return err
		}
		return dbfile.CopyLog(tx)
	})
	if err != nil {
		h.tables.Horizon.Forget()
		return err
	}
	h.tables.Horizon.Set(to)
	return nil
}

var (
	moveHorizon = dbfile.LogTable.Update("horizon_time", "max(horizon_time, ?1)", "horizon_mark", "?2", "horizon", "max(horizon, ?3)")
	setDropped  = dbfile.LogTable.Update("dropped", "?1")
	setTick     = dbfile.LogTable.Update("tick", "?1")
)

// markText returns a mark as it is stored; one that is not known is empty.
func markText(m event.Mark) string {
	if m == 0 {
		return ""
	}
	return m.String()
}
