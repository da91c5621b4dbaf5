package cache

import (
	"context"
	"fmt"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/retention"
	"github.com/rstream-dev/rstream/event"
)

// Retention configures what a log keeps. The zero Retention keeps everything.
type Retention struct {
	// History is the maximum age of events: older ones are dropped block by block, except
	// the state that they leave. If zero, any age.
	History time.Duration
	// TTL is the maximum age of values: a value not set again within it is deleted by a
	// DEL. Values of other topics may have any age.
	TTL []TTL
	// MaxBytes is the maximum size of the file in bytes, excluding its write-ahead log:
	// the oldest history is dropped until the file fits. Hashes, the origins of events and
	// the state stay, and about a quarter of MaxBytes stays for history: if all that does
	// not fit, the file is larger. If zero, any size.
	MaxBytes int64
	// Outgrown is called once if the file stays larger than MaxBytes. If nil, it is not
	// reported.
	Outgrown func()
	// Horizon returns the horizon of a mirrored log at its server: history below it is
	// dropped here, too. If nil, it stays.
	Horizon func() event.ID
	// Decider decides about a mirrored log that many servers share. It needs Horizon. If nil, a
	// mirror expires no values, and its History concerns nobody else.
	Decider Decider
	// Damaged is called with the damage that retention meets and goes past, once for each.
	// If nil, it is not reported.
	Damaged func(error)
}

// A TTL is the maximum age of the values of a topic. If several match a storage, the one
// of the narrowest topic counts; see [event.NarrowestFirst].
type TTL struct {
	Topic event.Topic
	Age   time.Duration // if zero, any
}

// A Decider is the part of one server in the decisions about a log that many servers share: at
// most one of them decides at a time. Values expire, and the horizon moves, only by its word.
type Decider interface {
	// Decides reports whether this server decides now.
	Decides() bool
	// MoveHorizon moves the horizon of the log, on all servers, up to a position.
	MoveHorizon(ctx context.Context, to event.ID) error
	// Expire deletes those of the old values that are still current.
	Expire(ctx context.Context, old []Expiry) error
}

// None reports whether r keeps everything.
func (r Retention) None() bool { return r.policy().None() }

// policy returns r as a retention.Policy.
func (r Retention) policy() retention.Policy {
	p := retention.Policy{History: r.History, MaxBytes: r.MaxBytes, Outgrown: r.Outgrown, Horizon: r.Horizon, Decider: r.Decider, Damaged: r.Damaged}
	for _, t := range r.TTL {
		p.TTL = append(p.TTL, retention.Rule(t))
	}
	return p
}

// Retain enforces cfg on a log, alongside the appends and in small steps, until ctx ends.
// Work that another writer or a full disk prevents is done in the next round. Retain
// completes the interrupted work of a killed process even if cfg keeps everything.
func (db *DB) Retain(ctx context.Context, cfg Retention) error {
	r, err := db.newRetainer(ctx, cfg)
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// RetainOnce enforces cfg once, without pauses. The log must not be in use by others.
func (db *DB) RetainOnce(ctx context.Context, cfg Retention) error {
	r, err := db.newRetainer(ctx, cfg)
	if err != nil {
		return err
	}
	return r.RunOnce(ctx)
}

func (db *DB) newRetainer(ctx context.Context, cfg Retention) (*retention.Retainer, error) {
	if db.commits == nil {
		return nil, fmt.Errorf("retain: %w: only a server assigns ids", ErrRole)
	}
	if db.file.Mirror && len(cfg.TTL) > 0 && cfg.Decider == nil {
		return nil, fmt.Errorf("retain: %w, which alone ends values", ErrMirror)
	}
	return db.history.NewRetainer(ctx, cfg.policy(), endsValues{db, cfg.Decider})
}

// endsValues passes expired values to the committer.
type endsValues struct {
	db      *DB
	decider Decider // of a log that many servers share
}

// Expire has the committer delete those of the old values that are still current, and
// record that the values of topics up to a position have been dealt with.
func (e endsValues) Expire(ctx context.Context, old []Expiry, topics []event.Topic, upTo event.ID) error {
	r := &appendRequest{ctx: ctx, old: old, scanned: topics, expired: upTo, done: make(chan error, 1)}
	if e.decider != nil {
		if len(old) > 0 {
			if err := e.decider.Expire(ctx, old); err != nil {
				return fmt.Errorf("%w: %w", retention.ErrLater, err)
			}
		}
		r.old = nil
	}
	return e.db.submit(ctx, r)
}
