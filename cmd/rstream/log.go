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
are missing or differ from the server, standard error says where and the status is 3.
What has happened since the last sync is not known here: for the newest events, run
"rstream sync" first.`,
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
		if span, err = a.lastOf(ctx, db, topics, held, span, o.n); err != nil {
			return err
		}
	}
	return a.printHeld(ctx, db, topics, held, span)
}

// lastOf returns the end of span that begins with the nth printed event from its end, or span if
// it has fewer.
func (a *app) lastOf(ctx context.Context, db *cache.DB, topics []event.Topic, held window.Spans, span window.Span, n int) (window.Span, error) {
	end := span
	if a.filter.where == nil { // otherwise nobody knows how many events it leaves out
		var err error
		if end.From, err = db.BeforeLast(ctx, topics, n, span.From, span.To); err != nil {
			return span, err
		}
	}
	var last []event.ID // of the events that are printed, the last n
	for _, s := range held.Intersect(window.Spans{end}) {
		err := db.Each(ctx, topics, s, func(ev *event.Event) error {
			out, err := a.out.filter.leavesOut(ev)
			if out || err != nil {
				return err
			}
			if last = append(last, ev.ID); len(last)-n >= n { // 2*n may be too large
				last = append(last[:0], last[len(last)-n:]...)
			}
			return nil
		})
		if err != nil {
			return span, err
		}
	}
	a.filter.failed, a.filter.firstFailure = 0, nil // counted again when they are printed
	if len(last) < n {
		if db.Role() == cache.Client && end.From > span.From { // a sync has filled a hole meanwhile
			return end, nil
		}
		return span, nil
	}
	// There may be a gap before the first of them.
	return window.Span{From: last[len(last)-n] - 1, To: span.To}, nil
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
