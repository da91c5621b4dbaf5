package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

type stateOptions struct {
	topicFlags
	at     string
	diff   string
	follow bool
	wait   bool
}

func newStateCommand(a *app) *cobra.Command {
	var o stateOptions
	cmd := &cobra.Command{
		Use:     "state TOPIC",
		GroupID: groupRead,
		Short:   "Print the state of a topic at any moment",
		Long: `Print the state of a topic: for each storage the event that set its value, ordered by
user and path. Missing events are fetched and kept; a state that is held needs no
server. Without --at, if no server can be reached, print the newest state held and its
time on standard error.

--follow prints the state, each event marked "snapshot":true, then a line of type
"live", then each change as it happens.

--diff prints the changes from a moment to --at, or to now: lines of type "change" with
the storage and the events "before" and "after", or null.`,
		Example: `  rstream state alice --at 14:05
  rstream state us/quakes --follow | jq -c '[.path, .type, .value.mag]'
  rstream state alice --diff 24h`,
		Args:              afterURL(oneTopic),
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := a.chooseURL(cmd, args)
			if err != nil {
				return err
			}
			topics, err := o.needTopics(args)
			if err != nil {
				return err
			}
			return runState(cmd.Context(), a, o, topics[0])
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	addMoment(cmd, &o.at, "at", "the state at `MOMENT` (default: now)")
	addMoment(cmd, &o.diff, "diff", "print the changes since `MOMENT` instead")
	f.BoolVar(&o.follow, "follow", false, "keep printing each change")
	f.BoolVar(&o.wait, "wait", false, "keep trying if the server cannot be reached at first")
	addFull(a, cmd)
	addFilter(a, cmd)
	o.topicFlags.addTopicFlags(cmd)
	excludeFlags(cmd, "follow", "at", "diff")
	excludeFlags(cmd, "diff", "where", "jq")
	return cmd
}

// oneTopic accepts at most one topic.
func oneTopic(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("want one topic, not also %q", args[1])
	}
	return nil
}

func (o *stateOptions) parseMoments(a *app) (at, since event.Moment, err error) {
	when, err := a.readMoment("--at", o.at)
	if err != nil {
		return at, since, err
	}
	diff, err := a.readMoment("--diff", o.diff)
	if err != nil {
		return at, since, err
	}
	if at = event.Now; when != nil {
		at = *when
	}
	if diff != nil {
		since = *diff
	}
	return at, since, nil
}

func runState(ctx context.Context, a *app, o stateOptions, topic event.Topic) error {
	at, since, err := o.parseMoments(a)
	if err != nil {
		return err
	}
	if a.source != nil {
		return a.stateOfSource(ctx, o, topic, since, at)
	}
	if log, err := a.openLog(ctx); err != nil || log != nil && !o.follow {
		if err != nil {
			return err
		}
		defer log.Close()
		return a.out.untilClosed(ctx, func(ctx context.Context) error {
			return a.showState(ctx, o, logStates{log}, topic, since, at)
		})
	}
	s, err := a.openSession(ctx, o.wait)
	if err != nil {
		return fmt.Errorf("state of %s: %w", topic, err)
	}
	defer s.Close()
	err = a.out.untilClosed(ctx, func(ctx context.Context) error {
		if o.follow {
			return a.followState(ctx, s, topic)
		}
		return a.showState(ctx, o, s, topic, since, at)
	})
	return a.gapLine(s.explainOtherLog(ctx, err))
}

func (a *app) showState(ctx context.Context, o stateOptions, s states, topic event.Topic, since, at event.Moment) error {
	if o.diff != "" {
		return a.diffStates(ctx, s, topic, since, at)
	}
	return a.printState(ctx, s, topic, at)
}

// states gives access to the state at any moment.
type states interface {
	// findState returns the position of a moment, and makes the state there readable.
	findState(ctx context.Context, topic event.Topic, at event.Moment) (event.ID, error)
	// copyFile returns the file to read it from.
	copyFile() *cache.DB
}

// logStates are the states in a server's own file.
type logStates struct{ db *cache.DB }

func (l logStates) findState(ctx context.Context, topic event.Topic, at event.Moment) (event.ID, error) {
	return offlinePosition(ctx, l.db, at, l.db.Head())
}

func (l logStates) copyFile() *cache.DB { return l.db }

// openLog opens the file of --cache if it is a server's own or a backup of one: it is
// complete, so no server is needed.
func (a *app) openLog(ctx context.Context) (*cache.DB, error) {
	if a.cache == "" {
		return nil, nil
	}
	db, err := a.openIfCreated(ctx, a.cache, "")
	if err != nil || db == nil || db.Role() != cache.Client {
		return db, err
	}
	return nil, db.Close()
}

// findState makes a state readable, as Client.StateAt does. If the current state is not
// available, because no server can be reached or the copy is read-only, it falls back
// to the newest state held.
func (s *session) findState(ctx context.Context, topic event.Topic, at event.Moment) (event.ID, error) {
	id, err := s.StateAt(ctx, topic, at)
	why := "no server can be reached"
	switch {
	case err == nil || !at.IsNow():
		return id, err
	case errors.Is(err, cache.ErrReadOnly):
		why = s.db.Path() + " is read-only and takes no newer events"
	case !errors.As(err, new(*client.UnreachableError)):
		return 0, err
	}
	id, last := s.db.Snapshots().LastState(ctx, topic)
	if last != nil {
		return 0, err // there is no state to fall back on
	}
	when := ""
	if t, ok, err := s.db.TimeAt(ctx, id); err == nil && ok {
		when = ", " + localTime(t)
	}
	s.app.note("%s; this is the state as of %s%s", why, positionName(id), when)
	return id, nil
}

func (s *session) copyFile() *cache.DB { return s.db }

func (a *app) printState(ctx context.Context, s states, topic event.Topic, at event.Moment) error {
	id, err := s.findState(ctx, topic, at)
	if err != nil {
		return err
	}
	doubted, err := stateDoubted(ctx, s.copyFile(), topic, id)
	if err != nil {
		return err
	}
	if err := s.copyFile().State(ctx, topic, id, a.out.writeEvent); err != nil {
		return err
	}
	return cmp.Or(a.out.flush(), a.noteDoubted([]event.Topic{topic}, doubted))
}

// followState prints the state and then each change.
func (a *app) followState(ctx context.Context, s *session, topic event.Topic) error {
	doubted, err := s.db.Doubted(ctx, topic)
	if err != nil {
		return err
	}
	doubt := a.noteDoubted([]event.Topic{topic}, doubted)
	a.showWaiting([]event.Topic{topic}) // nothing may come for long
	for b, err := range s.Follow(ctx, topic) {
		for i := 0; err == nil && i < len(b.Events); i++ {
			ev := b.Events[i]
			if b.State {
				ev = markSnapshot(ev)
			}
			err = a.out.writeEvent(ev)
		}
		if err == nil && len(b.Events) == 0 && b.State {
			err = a.printLive()
		}
		if err == nil && (!b.State || len(b.Events) == 0) {
			if err = a.out.flush(); err == nil {
				a.showWaiting([]event.Topic{topic})
			}
		}
		if err != nil {
			return err
		}
	}
	return doubt
}

// printLive says that everything so far has been printed, and that live events follow.
func (a *app) printLive() error {
	if a.out.isForPerson() {
		return nil
	}
	return a.out.writeJSON(map[string]string{"type": "live"})
}

// A stateChange is a line of --diff: the change of one storage.
type stateChange struct {
	Type   string   `json:"type"`
	User   string   `json:"user"`
	Path   string   `json:"path"`
	Before rawEvent `json:"before"`
	After  rawEvent `json:"after"`
}

// A rawEvent is an event as a JSON value in another line: its own bytes, or null.
type rawEvent struct{ *event.Event }

// MarshalJSON returns the event's line.
func (e rawEvent) MarshalJSON() ([]byte, error) {
	if e.Event == nil {
		return []byte("null"), nil
	}
	return e.Line(), nil
}

// diffStates prints the changes between two moments. It reads both states side by side
// in the order of their storages, so memory use does not depend on their size.
func (a *app) diffStates(ctx context.Context, s states, topic event.Topic, since, until event.Moment) error {
	from, err := s.findState(ctx, topic, since)
	if err != nil {
		return err
	}
	to, err := s.findState(ctx, topic, until)
	if err != nil {
		return err
	}
	if to < from {
		// A time resolves to the last event held before it, which may lie before a
		// position that is the same moment for this topic.
		between := window.Span{From: to, To: from}
		doubted, err := doubtedRanges(ctx, s.copyFile(), []event.Topic{topic}, between)
		if err != nil {
			return err
		}
		same, err := hasNoEvents(ctx, s.copyFile(), topic, between)
		switch {
		case err != nil:
			return err
		case !same:
			return usagef("--diff %s lies after --at %s", since, until)
		}
		return a.noteDoubted([]event.Topic{topic}, doubted)
	}
	before, err := stateDoubted(ctx, s.copyFile(), topic, from) // it may be built from other events than the second
	if err != nil {
		return err
	}
	doubted, err := stateDoubted(ctx, s.copyFile(), topic, to)
	if err != nil {
		return err
	}
	doubted = window.Union(append(doubted, before...)...)
	for pair, err := range sideBySide(stateEvents(ctx, s, topic, from), stateEvents(ctx, s, topic, to)) {
		if err == nil {
			err = a.printChange(pair)
		}
		if err != nil {
			return err
		}
	}
	return cmp.Or(a.out.flush(), a.noteDoubted([]event.Topic{topic}, doubted))
}

// hasNoEvents reports whether span has no events of topic, as far as is known.
func hasNoEvents(ctx context.Context, db *cache.DB, topic event.Topic, span window.Span) (bool, error) {
	some := false
	err := db.Each(ctx, []event.Topic{topic}, span, func(*event.Event) error {
		some = true
		return cache.ErrStop
	})
	if errors.As(err, new(*window.NotHeldError)) {
		return false, nil
	}
	return err == nil && !some, err
}

// stateEvents returns an iterator over the state of topic at a position.
func stateEvents(ctx context.Context, s states, topic event.Topic, at event.ID) iter.Seq2[*event.Event, error] {
	return func(yield func(*event.Event, error) bool) {
		err := s.copyFile().State(ctx, topic, at, func(ev *event.Event) error {
			if !yield(ev, nil) {
				return cache.ErrStop
			}
			return nil
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// A statePair holds the events of one storage in two states. Either may be nil.
type statePair struct{ before, after *event.Event }

// sideBySide merges two states in the order of their storages.
func sideBySide(before, after iter.Seq2[*event.Event, error]) iter.Seq2[statePair, error] {
	return func(yield func(statePair, error) bool) {
		nextBefore, stop := iter.Pull2(before)
		defer stop()
		nextAfter, stop := iter.Pull2(after)
		defer stop()
		b, errB, _ := nextBefore()
		n, errN, _ := nextAfter()
		for b != nil || n != nil || errB != nil || errN != nil {
			if err := errors.Join(errB, errN); err != nil {
				yield(statePair{}, err)
				return
			}
			var p statePair
			order := compareStorages(b, n)
			if order <= 0 {
				p.before = b
				b, errB, _ = nextBefore()
			}
			if order >= 0 {
				p.after = n
				n, errN, _ = nextAfter()
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

// compareStorages orders events by storage. nil sorts last.
func compareStorages(a, b *event.Event) int {
	switch {
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return a.Storage().Compare(b.Storage())
}

// printChange prints a pair whose values differ.
func (a *app) printChange(p statePair) error {
	ev := p.after
	if ev == nil {
		ev = p.before
	}
	if p.before != nil && p.after != nil && string(p.before.Value) == string(p.after.Value) {
		return nil
	}
	if !a.out.isForPerson() {
		return a.out.writeJSON(stateChange{"change", ev.User, ev.Path, rawEvent{p.before}, rawEvent{p.after}})
	}
	sign, colour, value := "~", "33", ""
	switch {
	case p.before == nil:
		sign, colour, value = "+", "32", string(p.after.Value)
	case p.after == nil:
		sign, colour, value = "-", "31", string(p.before.Value)
	default:
		value = string(p.before.Value) + " -> " + string(p.after.Value)
	}
	return a.out.printf("%s\n", a.out.screenLine(
		column{text: sign + " " + visible(ev.Storage().String()), style: colour},
		column{text: visible(value), style: colour}))
}
