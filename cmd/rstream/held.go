package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// notHeld returns the error for topics of which nothing is held. Its hint names the
// held topics.
func notHeld(ctx context.Context, db *cache.DB, topics []event.Topic) error {
	others, err := heldTopics(ctx, db)
	if err != nil {
		return err
	}
	hint := fmt.Sprintf("fetch it with \"rstream sync %s\"", shellTopics(topics))
	for _, t := range topics {
		start, err := db.FollowedSince(ctx, t)
		if err != nil {
			return err
		}
		if start > event.Beginning {
			hint = fmt.Sprintf("syncs of it start at %s; fetch what came before with \"rstream sync %s --since beginning\"", start, shellTopics(topics))
			break
		}
	}
	if len(others) > 0 {
		hint += "; held topics: " + topicList(others[:min(len(others), namedTopics)])
	}
	if more := len(others) - namedTopics; more > 0 {
		hint += fmt.Sprintf(" and %d more", more)
	}
	if meant := dottedTopic(topics[0]); meant != "" {
		hint += "; did you mean " + shellWord(meant) + "?"
	}
	return &exitError{exitGap, fmt.Sprintf("nothing of %s is held in %s", topicList(topics), db.Path()), hint}
}

// namedTopics limits how many topics a hint names.
const namedTopics = 5

// reportGaps notes the requested ranges that are not held.
func (a *app) reportGaps(gaps window.Spans) error {
	for _, gap := range gaps {
		a.note("not held: events between %s and %s", positionName(gap.From), gap.To)
	}
	if len(gaps) > 0 {
		return &exitError{status: exitGap}
	}
	return nil
}

// heldTopics returns the topics with a held range, wider ones first.
func heldTopics(ctx context.Context, db *cache.DB) (topics []event.Topic, err error) {
	windows, err := db.Windows(ctx)
	if err != nil {
		return nil, err
	}
	seen := map[event.Topic]bool{}
	for i := range windows {
		w := &windows[i]
		if w.State != window.Pending && !w.Held().Empty() && !seen[w.Topic] {
			seen[w.Topic] = true
			topics = append(topics, w.Topic)
		}
	}
	return topics, nil
}

// heldOf returns the held ranges of topics, at least one, and the requested range. With a staleError,
// the range is empty.
func (r momentRange) heldOf(ctx context.Context, db *cache.DB, topics []event.Topic) (held window.Spans, span window.Span, err error) {
	if held, err = db.Held(ctx, topics...); err != nil {
		return nil, span, err
	}
	if len(held) == 0 {
		return nil, span, notHeld(ctx, db, topics)
	}
	end := held[len(held)-1].To
	span = window.Span{From: event.Beginning, To: end}
	timed := false
	if r.since != nil {
		if span.From, timed, err = firstPosition(ctx, db, *r.since, end); err != nil {
			return nil, span, err
		}
	}
	if r.until != nil {
		if span.To, err = lastPosition(ctx, db, held, *r.until); err != nil {
			return nil, span, err
		}
	}
	switch {
	case timed && span.From > end && r.goesOn(span):
		return held, window.Span{From: end, To: end}, &staleError{&exitError{exitGap,
			fmt.Sprintf("the copy holds %s only up to %s, before --since %s", topicList(topics), end, r.since),
			fmt.Sprintf("fetch the rest with \"rstream sync %s\"", shellTopics(topics))}}
	case span.To < span.From && r.until == nil:
		return nil, span, usagef("--since %s lies after all that is held, up to %s", span.From, span.To)
	case span.To < span.From:
		return nil, span, usagef("--since %s lies after --until %s", span.From, span.To)
	}
	return held, span, nil
}

// goesOn reports whether a range that begins at a time goes on after all events that the copy knows,
// so that its span does not show that some of it is not held.
func (r momentRange) goesOn(span window.Span) bool {
	if r.until == nil {
		return true
	}
	if _, fixed := r.until.Cursor(); fixed {
		return false
	}
	_, timed := pastTime(*r.until)
	return !timed || span.To == span.From // it is less if the end is before the beginning
}

// A staleError means that topics are held only up to a position before the time at which a range
// begins.
type staleError struct{ exit *exitError }

func (e *staleError) Error() string { return e.exit.text }
func (e *staleError) Unwrap() error { return e.exit }

// pastTime returns the time of m if it is one that is over.
func pastTime(m event.Moment) (t event.Time, ok bool) {
	now := time.Now()
	if _, future := m.FutureTime(now); future {
		return 0, false
	}
	return m.Time(now)
}

// firstPosition returns the first position that a moment can have, as far as the copy knows. If
// timed is set, the moment is a time, and its position may be after end, the end of what is held:
// events of other topics tell.
func firstPosition(ctx context.Context, db *cache.DB, m event.Moment, end event.ID) (at event.ID, timed bool, err error) {
	t, timed := pastTime(m)
	if !timed {
		at, err = offlinePosition(ctx, db, m, end)
		return at, false, err
	}
	at, err = db.PositionAt(ctx, t)
	return at, true, err
}

// lastPosition returns the position of a moment that ends a range. If events that are not held may
// belong to the range, it is the last one that the moment can have, so that they are reported. If
// nothing later than the moment is known, it is the last known one: nobody can tell a log without
// newer events from a copy that lacks them.
func lastPosition(ctx context.Context, db *cache.DB, held window.Spans, m event.Moment) (event.ID, error) {
	t, timed := pastTime(m)
	if !timed {
		return offlinePosition(ctx, db, m, held[len(held)-1].To)
	}
	can, err := db.PositionsAt(ctx, t)
	if err != nil || can.To == event.MaxID || held.Contains(can) {
		return can.From, err
	}
	return can.To, nil
}
