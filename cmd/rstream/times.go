package main

import (
	"context"
	"errors"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// positionTimes are the times of positions, as far as a file knows them.
type positionTimes struct {
	ctx   context.Context
	db    *cache.DB
	known map[event.ID]*event.Time
}

func newPositionTimes(ctx context.Context, db *cache.DB) *positionTimes {
	return &positionTimes{ctx, db, map[event.ID]*event.Time{}}
}

// timeAt returns the time of a position, or nil if it is not known. Damage is not an error:
// commands that list positions also work on a damaged file.
func (p *positionTimes) timeAt(id event.ID) (*event.Time, error) {
	if t, ok := p.known[id]; ok {
		return t, nil
	}
	t, ok, err := p.db.KnownTime(p.ctx, id)
	if errors.Is(err, cache.ErrCorrupt) {
		ok, err = false, nil
	}
	if err != nil {
		return nil, err
	}
	p.known[id] = nil
	if ok {
		p.known[id] = &t
	}
	return p.known[id], nil
}

// startTime returns the time at which a window begins, or nil: that of its start or, if that
// is not known, of its first event.
func (p *positionTimes) startTime(w *window.Window) (*event.Time, error) {
	t, err := p.timeAt(w.From)
	if err != nil || t != nil {
		return t, err
	}
	err = p.db.Each(p.ctx, []event.Topic{w.Topic}, w.Held(), func(ev *event.Event) error {
		t = &ev.Time
		return cache.ErrStop
	})
	if errors.Is(err, cache.ErrCorrupt) || errors.As(err, new(*window.NotHeldError)) {
		return nil, nil // damaged, or forgotten since
	}
	return t, err
}

// spanTimes returns the times of the bounds of a span.
func (p *positionTimes) spanTimes(span window.Span) (from, to *event.Time, err error) {
	if from, err = p.timeAt(span.From); err == nil {
		to, err = p.timeAt(span.To)
	}
	return from, to, err
}

// timeText formats a time that may not be known.
func timeText(t *event.Time) string {
	if t == nil {
		return "-"
	}
	return localTime(*t)
}

// afterComma formats a time, if it is known, to follow a position.
func afterComma(t *event.Time) string {
	if t == nil {
		return ""
	}
	return ", " + localTime(*t)
}

// spanText formats the times of the bounds of a span, as far as they are known.
func spanText(from, to *event.Time) string {
	switch {
	case from != nil && to != nil:
		return " (" + localTime(*from) + " to " + localTime(*to) + ")"
	case from != nil:
		return " (since " + localTime(*from) + ")"
	case to != nil:
		return " (up to " + localTime(*to) + ")"
	}
	return ""
}
