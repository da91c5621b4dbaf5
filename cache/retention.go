package cache

import (
	"context"
	"fmt"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/retention"
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

// A TTL is how old the values of a topic may become. Of several for one storage, that of
// the narrowest topic counts, see [event.NarrowestFirst].
type TTL struct {
	Topic event.Topic
	Age   time.Duration // if zero, any age
}

// None reports whether r keeps everything.
func (r Retention) None() bool { return r.policy().None() }

// policy returns r as retention takes it.
func (r Retention) policy() retention.Policy {
	p := retention.Policy{History: r.History, MaxBytes: r.MaxBytes}
	for _, t := range r.TTL {
		p.TTL = append(p.TTL, retention.Rule(t))
	}
	return p
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
	return r.Run(ctx)
}

// RetainOnce lets go of what cfg says, all at once: nobody else is to use the log.
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
	return db.history.NewRetainer(ctx, cfg.policy())
}

// endsValues has the committer append what retention has found.
type endsValues struct{ db *DB }

// Expire has the committer end the values that are still as they were found, and note that
// those of topics up to a position have had their time.
func (e endsValues) Expire(ctx context.Context, old []retention.Expiry, topics []event.Topic, upTo event.ID) error {
	r := &appendRequest{ctx: ctx, old: old, scanned: topics, expired: upTo, done: make(chan error, 1)}
	return e.db.submit(ctx, r)
}
