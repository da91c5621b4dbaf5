package main

import (
	"context"
	"errors"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
)

// gapLine reports a gap to a consumer of JSON as a line of the stream.
func (a *app) gapLine(err error) error {
	var gap *client.GapError
	if errors.As(err, &gap) && !a.out.isForPerson() {
		return errors.Join(err, a.printGap(gap))
	}
	return err
}

// noteGap reports a gap that a sync of t skips: to a person on standard error, else as a line.
func (a *app) noteGap(t event.Topic, gap *client.GapError) error {
	switch {
	case a.out.isForPerson():
		a.note("history from %s to %s is gone from the server; the sync of %s starts at %s", gap.After, gap.Oldest, t, gap.Oldest)
	case !a.quiet:
		return a.printGap(gap)
	}
	return nil
}

func (a *app) printGap(gap *client.GapError) error {
	return a.out.writeJSON(struct {
		Type   string   `json:"type"`
		After  event.ID `json:"after"`
		Oldest event.ID `json:"oldest"`
	}{"gap", gap.After, gap.Oldest})
}

// skipGap bridges history that is gone. It prints the gap line, upon which a consumer
// discards the topics; then their state at the position where history resumes, each
// event marked; then a line that says that history follows. Between gaps, each event
// comes once and in order.
func (a *app) skipGap(ctx context.Context, s *session, topics []event.Topic, gap *client.GapError, keep *keeper) error {
	if a.out.isForPerson() {
		a.note("history from %s to %s is gone from the server; this is the state it left", gap.After, gap.Oldest)
	} else if err := a.printGap(gap); err != nil {
		return err
	}
	for _, t := range topics {
		for ev, err := range s.Snapshot(ctx, t, gap.Oldest) {
			if err == nil {
				err = a.out.writeEvent(markSnapshot(ev))
			}
			if err != nil {
				return err
			}
		}
	}
	err := a.printLive()
	keep.recordPrinted(gap.Oldest)
	return errors.Join(err, a.out.flush())
}

// markSnapshot returns ev with a member that says that it comes from a snapshot.
func markSnapshot(ev *event.Event) *event.Event {
	m := event.Event{ID: ev.ID, Time: ev.Time, Draft: ev.Draft, Hash: ev.Hash}
	if len(ev.Extra) > 0 {
		m.Extra = append(append(m.Extra, ev.Extra...), ',')
	}
	m.Extra = append(m.Extra, `"snapshot":true`...)
	return &m
}
