package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/source"
)

// tailSource is runTail for a source.
func (o *tailOptions) tailSource(ctx context.Context, a *app, topics []event.Topic) (err error) {
	given, err := a.readRange(o.since, o.until)
	if err != nil {
		return err
	}
	s, err := a.openSource(ctx, source.FollowConfig{UntilEnd: o.untilLive, EndIdle: sourceIdle, Wait: o.wait})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	p := newSourcePrinter(a, topics)
	p.most, p.skipGap = o.count, o.skipGap
	if p.bounds, err = boundsOf(ctx, s.db, given.until); err != nil {
		return err
	}
	begin := func(ctx context.Context, db *cache.DB) (event.ID, error) {
		return o.beginSource(ctx, db, p, given.since)
	}
	if o.name == "" {
		return s.print(ctx, p, begin)
	}
	// The session changes its handle of the file when it begins to follow.
	db, err := a.openDB(ctx, a.source.path, cache.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if o.target() != "" {
		return o.consumeSource(ctx, &consumption{a: a, db: db, topics: topics, follows: isFollowing(given.until, o.untilLive)}, s, p)
	}
	cursor, err := holdCursor(ctx, db, o.name, topics)
	if err != nil {
		return err
	}
	keep, keeping, err := a.startKeeper(ctx, cursor)
	if err != nil {
		return err
	}
	p.keep = keep
	return keep.endOutput(ctx, s.print(keeping, p, begin))
}

// beginSource returns the position after which a tail begins. It prints the state there, if
// the tail starts with it.
func (o *tailOptions) beginSource(ctx context.Context, db *cache.DB, p *sourcePrinter, since *event.Moment) (event.ID, error) {
	if p.keep != nil {
		if at := p.keep.resumePosition(); at != event.Beginning || !o.fromState {
			return at, nil
		}
	}
	if o.fromState {
		at := db.Head()
		return at, p.printState(ctx, db, at)
	}
	if since != nil {
		return offlinePosition(ctx, db, *since, db.Head())
	}
	horizon, err := db.Horizon(ctx)
	if err != nil {
		return 0, err
	}
	return db.BeforeLast(ctx, p.asked, o.n, horizon, max(horizon, min(p.bounds.last(), db.Head())))
}

// printState prints the state at a position, and that live events follow.
func (p *sourcePrinter) printState(ctx context.Context, db *cache.DB, at event.ID) error {
	for i, t := range p.asked {
		err := db.State(ctx, t, at, func(ev *event.Event) error {
			if p.isGap(ev) || slices.ContainsFunc(p.asked[:i], func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) }) {
				return nil
			}
			return p.a.out.writeEvent(markSnapshot(ev))
		})
		if err != nil {
			return err
		}
	}
	err := p.a.printLive()
	p.keep.recordPrinted(at)
	return errors.Join(err, p.a.out.flush())
}

// passDropped bridges history that the file no longer has, with the state that it left. Without
// output, there is nothing to bridge: the events were stored, and retention has dropped them since.
func (p *sourcePrinter) passDropped(ctx context.Context, db *cache.DB, oldest event.ID) error {
	if p.silent {
		if slices.Contains(p.asked, event.All) { // ids are dense
			p.events += int(oldest - p.at)
		}
		p.at = oldest
		return nil
	}
	gap := &client.GapError{After: p.at, Oldest: oldest}
	if p.give != nil {
		return &exitError{exitGap, fmt.Sprintf("history from %s to %s is no longer in %s", positionName(gap.After), gap.Oldest, db.Path()),
			"leave it out with \"rstream cursor set NAME " + oldest.String() + "\""}
	}
	if p.a.out.isForPerson() {
		p.a.note("history from %s to %s is no longer in %s", positionName(gap.After), gap.Oldest, db.Path())
	} else if err := p.a.printGap(gap); err != nil {
		return err
	}
	if !p.skipGap {
		return &exitError{exitGap, fmt.Sprintf("history from %s to %s is no longer in %s", positionName(gap.After), gap.Oldest, db.Path()),
			"start again with --since " + oldest.String() + ", or add --skip-gap to continue with the state there"}
	}
	p.at = oldest
	return p.printState(ctx, db, oldest)
}

// sourceBounds say where printing ends. The zero sourceBounds have no end.
type sourceBounds struct {
	bounded bool     // it ends at id
	id      event.ID // the last position
	isOver  bool     // all events up to id are in the file already

	time event.Time // it ends at this time, which is to come; 0 for none
}

// errUntil is the cause of a context that --until has ended.
var errUntil = errors.New("--until is over")

// boundsOf returns the bounds that end at a moment, which may be nil. The time of an event
// is that of its receipt, so all events up to a time that is over are in the file.
func boundsOf(ctx context.Context, db *cache.DB, until *event.Moment) (b sourceBounds, err error) {
	if until == nil {
		return b, nil
	}
	if t, ok := until.FutureTime(time.Now()); ok {
		return sourceBounds{time: t}, nil
	}
	b.bounded = true
	b.id, err = offlinePosition(ctx, db, *until, db.Head())
	b.isOver = b.id <= db.Head()
	return b, err
}

// last returns the last position that may be printed.
func (b *sourceBounds) last() event.ID {
	if b.bounded {
		return b.id
	}
	return event.MaxID
}

// isAfter reports whether ev is after the end.
func (b *sourceBounds) isAfter(ev *event.Event) bool { return b.time != 0 && ev.Time > b.time }

// withDeadline returns a context that ends with the bounds.
func (b *sourceBounds) withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if b.time == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithDeadlineCause(ctx, b.time.Time(), errUntil)
}

// stateOfSource is runState for a source.
func (a *app) stateOfSource(ctx context.Context, o stateOptions, topic event.Topic, since, at event.Moment) error {
	if o.follow {
		tail := tailOptions{fromState: true, wait: o.wait}
		return tail.tailSource(ctx, a, []event.Topic{topic})
	}
	db, err := a.openSourceOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	return a.out.untilClosed(ctx, func(ctx context.Context) error { return a.showState(ctx, o, logStates{db}, topic, since, at) })
}
