package main

import (
	"cmp"
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

type logOptions struct {
	rangeFlags
	n int // at most this many events are printed, the last ones; 0: all
}

func newLogCommand(a *app) *cobra.Command {
	var o logOptions
	cmd := &cobra.Command{
		Use:     "log TOPIC...",
		GroupID: groupRead,
		Short:   "Print events from the local copy, offline",
		Long: `Print the events of the topics in the local copy, without asking a server. If events
are missing or differ from the server, standard error says where and the status is 3.`,
		Example: `  rstream log alice --since 1h
  rstream log alice -n 20
  rstream log '*/quakes' | jq .value.place`,
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
			return runLog(cmd.Context(), a, o, topics)
		},
	}
	cmd.Flags().VarP(counter{&o.n, 1, 0}, "lines", "n", "print only the last `N` events (default: all)")
	forLineOnly(cmd.Flags(), "lines") // that of tail does not shorten this
	o.addRangeFlags(cmd)
	addFull(a, cmd)
	addFilter(a, cmd)
	return cmd
}

func runLog(ctx context.Context, a *app, o logOptions, topics []event.Topic) error {
	r, err := a.readRange(o.since, o.until)
	if err != nil {
		return err
	}
	db, err := a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	held, span, err := r.heldOf(ctx, db, topics)
	if exit := (*exitError)(nil); a.source != nil && errors.As(err, &exit) && exit.status == exitGap {
		exit.hint = "\"" + a.source.syncCommand() + "\" follows it"
	}
	if err != nil {
		return err
	}
	if o.n > 0 {
		if span, err = lastOf(ctx, db, topics, held, span, o.n); err != nil {
			return err
		}
	}
	return a.printHeld(ctx, db, topics, held, span)
}

// lastOf returns the end of span that begins with the nth held event from its end, or span if it
// has fewer.
func lastOf(ctx context.Context, db *cache.DB, topics []event.Topic, held window.Spans, span window.Span, n int) (end window.Span, err error) {
	end = span
	if end.From, err = db.BeforeLast(ctx, topics, n, span.From, span.To); err != nil {
		return span, err
	}
	first, has := span.From, 0 // there may be a gap before the first of them
	for _, s := range held.Intersect(window.Spans{end}) {
		err := db.Each(ctx, topics, s, func(ev *event.Event) error {
			if has++; has == 1 {
				first = ev.ID - 1
			}
			return nil
		})
		if err != nil {
			return span, err
		}
	}
	if has < n {
		return span, nil
	}
	return window.Span{From: first, To: span.To}, nil
}

// printHeld prints the held events of span and reports the ranges that are not held.
func (a *app) printHeld(ctx context.Context, db *cache.DB, topics []event.Topic, held window.Spans, span window.Span) error {
	doubted, err := doubtedRanges(ctx, db, topics, span)
	if err != nil {
		return err
	}
	for _, s := range held.Intersect(window.Spans{span}) {
		if err := db.Each(ctx, topics, s, func(ev *event.Event) error { return a.out.writeEvent(ev) }); err != nil {
			return err
		}
	}
	if err := a.out.flush(); err != nil {
		return err
	}
	return cmp.Or(a.noteDoubted(topics, doubted), a.reportGaps(held.Gaps(span)))
}
