package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

type logOptions struct {
	topicFlags
	since string
	until string
}

func newLogCommand(a *app) *cobra.Command {
	var o logOptions
	cmd := &cobra.Command{
		Use:     "log TOPIC...",
		GroupID: groupRead,
		Short:   "Print events from the local copy, offline",
		Long: `Print what the local copy holds of the topics. Nothing is asked of a server. Where
it does not hold all, or differs from the server, standard error says where and the
status is 3.`,
		Example: `  rstream log alice --since 1h
  rstream log '*/quakes' | jq .value.place`,
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			topics, err := o.need(args)
			if err != nil {
				return err
			}
			return runLog(cmd.Context(), a, o, topics)
		},
	}
	o.add(cmd)
	return cmd
}

// add adds the flags of commands that read a stretch of the local copy.
func (o *logOptions) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	addMoment(cmd, &o.since, "since", "begin at `MOMENT` (default: beginning)")
	addMoment(cmd, &o.until, "until", "end at `MOMENT` (default: the last that is held)")
	o.topicFlags.add(cmd)
}

func runLog(ctx context.Context, a *app, o logOptions, topics []event.Topic) error {
	db, err := a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	held, span, err := o.heldOf(ctx, db, topics)
	if err != nil {
		return err
	}
	return a.printHeld(ctx, db, topics, held, span)
}

// heldOf returns what is held of topics, which must be something, and the stretch that
// is asked for.
func (o *logOptions) heldOf(ctx context.Context, db *cache.DB, topics []event.Topic) (held window.Spans, span window.Span, err error) {
	since, err := optionalMoment(o.since)
	if err != nil {
		return nil, span, err
	}
	until, err := optionalMoment(o.until)
	if err != nil {
		return nil, span, err
	}
	if held, err = db.Held(ctx, topics...); err != nil {
		return nil, span, err
	}
	if len(held) == 0 {
		return nil, span, notHeld(ctx, db, topics)
	}
	end := held[len(held)-1].To
	span = window.Span{From: event.Beginning, To: end}
	if since != nil {
		if span.From, err = offlinePosition(ctx, db, *since, end); err != nil {
			return nil, span, err
		}
	}
	if until != nil {
		if span.To, err = offlinePosition(ctx, db, *until, end); err != nil {
			return nil, span, err
		}
	}
	if span.To < span.From {
		return nil, span, usagef("--since %s lies after --until %s", span.From, span.To)
	}
	return held, span, nil
}

// optionalMoment reads a moment as a person writes it, nil if there is none.
func optionalMoment(s string) (*event.Moment, error) {
	if s == "" {
		return nil, nil
	}
	m, err := event.ParseLocalMoment(s, time.Now())
	if err != nil {
		return nil, &usageError{err}
	}
	return &m.Moment, nil
}

// checkOrder refuses an end before the beginning where that can be seen without a
// server.
func checkOrder(since, until *event.Moment) error {
	if since == nil || until == nil {
		return nil
	}
	now := time.Now()
	a, ok := since.Time(now)
	b, ok2 := until.Time(now)
	from, ok3 := since.Cursor()
	to, ok4 := until.Cursor()
	if ok && ok2 && a > b || ok3 && ok4 && from.ID > to.ID {
		return usagef("--since %s lies after --until %s", since, until)
	}
	return nil
}

func topicList(topics []event.Topic) (s string) {
	for i, t := range topics {
		if i > 0 {
			s += ", "
		}
		s += t.String()
	}
	return s
}

// shellTopics writes topics as arguments for a shell.
func shellTopics(topics []event.Topic) (s string) {
	for i, t := range topics {
		if i > 0 {
			s += " "
		}
		s += shellWord(t.String())
	}
	return s
}

// shellWord writes s as one word of a shell, in quotes only if it needs them.
func shellWord(s string) string {
	plain := strings.Trim(s, "/-._:@%+,ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") == ""
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// notHeld says that nothing of topics is held, and what is.
func notHeld(ctx context.Context, db *cache.DB, topics []event.Topic) error {
	others, err := heldTopics(ctx, db)
	if err != nil {
		return err
	}
	hint := fmt.Sprintf("fetch it with \"rstream sync %s\"", shellTopics(topics))
	if len(others) > 0 {
		hint += "; what is held is of " + topicList(others[:min(len(others), namedTopics)])
	}
	if more := len(others) - namedTopics; more > 0 {
		hint += fmt.Sprintf(" and %d more", more)
	}
	if meant := dottedTopic(topics[0]); meant != "" {
		hint += "; did you mean " + meant + "?"
	}
	return &exitError{exitGap, fmt.Sprintf("nothing of %s is held in %s", topicList(topics), db.Path()), hint}
}

// namedTopics is how many topics a hint names.
const namedTopics = 5

// offlinePosition turns a moment into a position by what is held.
func offlinePosition(ctx context.Context, db *cache.DB, m event.Moment, end event.ID) (event.ID, error) {
	if m.IsNow() {
		return end, nil
	}
	if t, ok := m.Time(time.Now()); ok {
		return db.PositionAt(ctx, t)
	}
	c, _ := m.Cursor()
	if !c.Of(db.Log()) {
		return 0, usagef("%s is a position of another log; %s holds %s", c, db.Path(), db.Log())
	}
	return c.ID, nil
}

// printHeld prints what is held of span and says what is not.
func (a *app) printHeld(ctx context.Context, db *cache.DB, topics []event.Topic, held window.Spans, span window.Span) error {
	doubted, err := doubtedIn(ctx, db, topics, span)
	if err != nil {
		return err
	}
	for _, s := range held.Intersect(window.Spans{span}) {
		if err := db.Each(ctx, topics, s, func(ev *event.Event) error { return a.out.event(ev) }); err != nil {
			return err
		}
	}
	if err := a.out.flush(); err != nil {
		return err
	}
	return cmp.Or(a.noteDoubted(topics, doubted), a.reportGaps(held.Gaps(span)))
}

// reportGaps says what is not held of what was asked for.
func (a *app) reportGaps(gaps window.Spans) error {
	for _, gap := range gaps {
		a.note("not held: what happened between %s and %s", positionName(gap.From), gap.To)
	}
	if len(gaps) > 0 {
		return &exitError{status: exitGap}
	}
	return nil
}

func positionName(id event.ID) string {
	if id == event.Beginning {
		return "the beginning"
	}
	return id.String()
}
