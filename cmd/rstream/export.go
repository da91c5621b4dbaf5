package main

import (
	"cmp"
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

func newExportCommand(a *app) *cobra.Command {
	var o logOptions
	cmd := &cobra.Command{
		Use:     "export TOPIC...",
		GroupID: groupTools,
		Short:   "Write events in the form that import reads",
		Long: `Print what the local copy holds of the topics as JSON lines that "rstream import"
reads: for each topic a line that says of which log, which stretches and how much it
is, then the events. Nothing is asked of a server; --cache may name a server's own
file. Where not all is held, or the copy differs from the server, standard error says
where and the status is 3.`,
		Example: `  rstream export alice --since 30d >alice.jsonl
  rstream export --all --cache rstream.db | gzip >all.jsonl.gz`,
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			topics, err := o.need(args)
			if err != nil {
				return err
			}
			return runExport(cmd.Context(), a, o, topics)
		},
	}
	o.add(cmd)
	return cmd
}

// An exportLine stands before the events of a topic.
type exportLine struct {
	Type    string         `json:"type"`
	Log     string         `json:"log"`
	Topic   event.Topic    `json:"topic"`
	From    event.ID       `json:"from"` // the stretch that was asked for
	To      event.ID       `json:"to"`
	Count   uint64         `json:"count"`   // events that follow
	Windows []exportWindow `json:"windows"` // where they are all that the log has
}

// An exportWindow is a stretch that an export is whole in.
type exportWindow struct {
	From   event.ID       `json:"from"`
	To     event.ID       `json:"to"`
	Count  uint64         `json:"count"`
	Digest *window.Digest `json:"digest,omitempty"` // if it is proven
}

func runExport(ctx context.Context, a *app, o logOptions, topics []event.Topic) error {
	r, err := a.readRange(o.since, o.until)
	if err != nil {
		return err
	}
	db, err := a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	var gaps window.Spans
	var doubt error
	for _, t := range topics {
		held, span, err := r.heldOf(ctx, db, []event.Topic{t})
		if err != nil {
			return err
		}
		doubted, err := doubtedIn(ctx, db, []event.Topic{t}, span)
		if err != nil {
			return err
		}
		if err := a.export(ctx, db, t, held.Intersect(window.Spans{span}), doubted, span); err != nil {
			return err
		}
		doubt = cmp.Or(doubt, a.noteDoubted([]event.Topic{t}, doubted))
		gaps = append(gaps, held.Gaps(span)...)
	}
	if err := a.out.flush(); err != nil {
		return err
	}
	return cmp.Or(a.reportGaps(gaps), doubt)
}

// export writes what is held of t, and claims to be whole except where it is in doubt.
func (a *app) export(ctx context.Context, db *cache.DB, t event.Topic, held, doubted window.Spans, span window.Span) error {
	head := exportLine{Type: "export", Log: db.Log(), Topic: t, From: span.From, To: span.To, Windows: []exportWindow{}}
	proven, err := provenOf(ctx, db, t)
	if err != nil {
		return err
	}
	for _, s := range held {
		parts := proven.Intersect(window.Spans{s})
		for _, gap := range proven.Gaps(s) {
			parts = append(parts, slices.Concat(doubted.Gaps(gap), doubted.Intersect(window.Spans{gap}))...)
		}
		slices.SortFunc(parts, func(a, b window.Span) int { return cmp.Compare(a.From, b.From) })
		for _, part := range parts {
			leaves, err := db.Leaves(ctx, t, part)
			if err != nil {
				return err
			}
			digest, n := window.DigestOf(leaves)
			w := exportWindow{From: part.From, To: part.To, Count: n}
			if proven.Contains(part) {
				w.Digest = &digest
			}
			if head.Count += n; !doubted.Contains(part) {
				head.Windows = append(head.Windows, w)
			}
		}
	}
	if err := a.out.json(head); err != nil {
		return err
	}
	for _, s := range held {
		err := db.Each(ctx, []event.Topic{t}, s, func(ev *event.Event) error { return a.out.line(ev.Line()) })
		if err != nil {
			return err
		}
	}
	return nil
}

// provenOf returns where what is held of t is proven: all of it in a log's own file.
func provenOf(ctx context.Context, db *cache.DB, t event.Topic) (proven window.Spans, err error) {
	windows, err := db.Windows(ctx)
	if err != nil {
		return nil, err
	}
	for i := range windows {
		if w := &windows[i]; (w.Proven || db.Role() != cache.Client) && w.Topic.Contains(t) {
			proven = append(proven, w.Held())
		}
	}
	return window.Union(proven...), nil
}
