package main

import (
	"context"
	"fmt"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A doubtLine is a range of a topic in which the copy was found to differ from the
// server.
type doubtLine struct {
	Topic event.Topic `json:"topic"`
	From  event.ID    `json:"from"`
	To    event.ID    `json:"to"`

	// The times of the bounds, in status, if they are known.
	FromTime *event.Time `json:"from_time,omitempty"`
	ToTime   *event.Time `json:"to_time,omitempty"`
}

func doubtLines(ctx context.Context, db *cache.DB) ([]doubtLine, error) {
	doubts, err := db.Doubts(ctx)
	lines := make([]doubtLine, len(doubts))
	for i, d := range doubts {
		lines[i] = doubtLine{Topic: d.Topic, From: d.Span.From, To: d.Span.To}
	}
	return lines, err
}

// doubtedRanges returns the parts of span in which the copy of topics is in doubt. Readers
// call it before they read: a repair during the read may come too late for them.
func doubtedRanges(ctx context.Context, db *cache.DB, topics []event.Topic, span window.Span) (window.Spans, error) {
	doubted, err := db.Doubted(ctx, topics...)
	return doubted.Intersect(window.Spans{span}), err
}

// noteDoubted reports where the copy differs. The command then exits with the status of
// a gap, since events may be missing there.
func (a *app) noteDoubted(topics []event.Topic, doubted window.Spans) error {
	for _, span := range doubted {
		a.note("the copy of %s differs from the server between %s and %s; run \"rstream sync %s\"",
			topicList(topics), positionName(span.From), span.To, shellTopics(topics))
	}
	if len(doubted) > 0 {
		return &exitError{status: exitGap}
	}
	return nil
}

// stateDoubted returns the doubted parts of the history from which the state of topic
// at a position is built.
func stateDoubted(ctx context.Context, db *cache.DB, topic event.Topic, at event.ID) (window.Spans, error) {
	from, err := db.Snapshots().StateFrom(ctx, topic, at)
	if err != nil {
		return nil, err
	}
	return doubtedRanges(ctx, db, []event.Topic{topic}, window.Span{From: from, To: at})
}

// passDoubt checks the range that a tail is about to pass. A cursor must not pass
// events that may be missing, so a tail with a name ends there; others continue with a
// note.
func (p *tailPrinter) passDoubt(ctx context.Context, b *client.Batch) error {
	from := b.From
	if p.keep != nil {
		from = p.keep.resumePosition()
	}
	doubted, err := doubtedRanges(ctx, p.s.db, p.topics, window.Span{From: from, To: b.Position})
	switch {
	case err != nil || len(doubted) == 0:
		return err
	case p.keep != nil:
		return stopBefore(p.topics, doubted[0])
	}
	p.doubt = p.a.noteDoubted(p.topics, doubted)
	return nil
}

// stopBefore is the error of a reader whose cursor must not pass a doubted range.
func stopBefore(topics []event.Topic, doubted window.Span) error {
	return &exitError{exitGap, fmt.Sprintf("the copy of %s differs from the server between %s and %s; the cursor stops before it",
		topicList(topics), positionName(doubted.From), doubted.To), fmt.Sprintf("run \"rstream sync %s\" first", shellTopics(topics))}
}
