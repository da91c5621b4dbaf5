package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

func newExportCommand(a *app) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Annotations: map[string]string{silentAnnotation: silentIfFile},

		Use:     "export TOPIC...",
		GroupID: groupTools,
		Short:   "Write events in the form that import reads",
		Long: `Write the events that the local copy holds as JSON lines for "rstream import": for
each topic a line with its log, ranges and number of events, then the events. export
does not contact a server; --cache may name a server's own file. If events are missing
from the copy, or the copy differs from the server, standard error says where and the
status is 3. What has happened since the last sync is not known here.

--to writes to a file, compressed if its name ends in .gz or .zst. The file appears
under its name when it is complete, and replaces an older one; if export fails or is
interrupted, nothing changes. Without --to, events go to standard output.`,
		Example: `  rstream export alice --since 30d --to alice.jsonl.gz
  rstream export --all --cache rstream.db --to all.jsonl.zst
  rstream export alice | ssh host rstream import -`,
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
			return runExport(cmd.Context(), a, o, topics)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&o.to, "to", "", "write to `FILE`; - is standard output")
	forLineOnly(cmd.Flags(), "to")
	addProgress(a, cmd)
	o.rangeFlags.addRangeFlags(cmd)
	return cmd
}

type exportOptions struct {
	rangeFlags
	to string
}

// An exportLine precedes the events of a topic.
type exportLine struct {
	Type    string         `json:"type"`
	Log     string         `json:"log"`
	Topic   event.Topic    `json:"topic"`
	From    event.ID       `json:"from"` // the requested range
	To      event.ID       `json:"to"`
	Count   uint64         `json:"count"`          // events that follow
	Windows []exportWindow `json:"windows"`        // ranges in which they are all events of the log
	More    int            `json:"more,omitempty"` // topics that follow this one
}

// An exportWindow is a range in which an export is complete.
type exportWindow struct {
	From   event.ID       `json:"from"`
	To     event.ID       `json:"to"`
	Count  uint64         `json:"count"`
	Digest *window.Digest `json:"digest,omitempty"` // if it is proven
}

func runExport(ctx context.Context, a *app, o exportOptions, topics []event.Topic) error {
	r, err := a.readRange(o.since, o.until)
	if err != nil {
		return err
	}
	if err := checkSuffix(o.to); err != nil {
		return err
	}
	db, err := a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	defer a.progress.end()
	e := exporter{a: a, db: db, out: a.out}
	if o.to == "" || o.to == "-" {
		if err := e.writeTopics(ctx, topics, r); err != nil {
			return err
		}
		return e.missingError()
	}
	f, err := createOutFile(ctx, o.to)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return &exitError{exitFailed, err.Error(), "name another file with --to, or write to standard output"}
	}
	defer f.discardFile()
	e.out = &output{name: o.to, w: bufio.NewWriterSize(f, 64<<10), form: formJSON}
	if err := e.writeTopics(ctx, topics, r); err != nil {
		return err
	}
	if err := e.out.nameOutput(f.publishFile()); err != nil {
		return err
	}
	a.progress.end()
	a.note("%s exported to %s", count(e.events, "event"), o.to)
	return e.missingError()
}

// An exporter writes topics to an output.
type exporter struct {
	a   *app
	db  *cache.DB
	out *output

	events uint64
	gaps   window.Spans // ranges that are not held
	stale  error        // topics end before the requested range
	doubt  error        // the copy differs from the server
}

// missingError returns an error if events are missing from the output.
func (e *exporter) missingError() error { return cmp.Or(e.a.reportGaps(e.gaps), e.stale, e.doubt) }

func (e *exporter) writeTopics(ctx context.Context, topics []event.Topic, r momentRange) error {
	for i, t := range topics {
		held, span, err := r.heldOf(ctx, e.db, []event.Topic{t})
		if stale := (*staleError)(nil); errors.As(err, &stale) { // no reason to leave out the others
			e.a.note("%v; %s", stale, stale.exit.hint)
			e.stale, err = &exitError{status: exitGap}, nil
		}
		if err != nil {
			return err
		}
		doubted, err := doubtedRanges(ctx, e.db, []event.Topic{t}, span)
		if err != nil {
			return err
		}
		head := exportLine{Type: "export", Log: e.db.Log(), Topic: t, From: span.From, To: span.To, Windows: []exportWindow{}, More: len(topics) - 1 - i}
		if err := e.writeTopic(ctx, head, held.Intersect(window.Spans{span}), doubted); err != nil {
			return err
		}
		e.doubt = cmp.Or(e.doubt, e.a.noteDoubted([]event.Topic{t}, doubted))
		e.gaps = append(e.gaps, held.Gaps(span)...)
	}
	return e.out.flush()
}

// writeTopic writes the held events of a topic. Its header claims that they are
// complete, except in ranges that are in doubt.
func (e *exporter) writeTopic(ctx context.Context, head exportLine, held, doubted window.Spans) error {
	proven, err := provenOf(ctx, e.db, head.Topic)
	if err != nil {
		return err
	}
	topic := head.Topic.String()
	e.a.progress.report(stage{verb: "counting", object: topic, unit: inParts}, 0, 0)
	for _, s := range held {
		parts := proven.Intersect(window.Spans{s})
		for _, gap := range proven.Gaps(s) {
			parts = append(parts, slices.Concat(doubted.Gaps(gap), doubted.Intersect(window.Spans{gap}))...)
		}
		slices.SortFunc(parts, func(a, b window.Span) int { return cmp.Compare(a.From, b.From) })
		for _, part := range parts {
			leaves, err := e.db.Leaves(ctx, head.Topic, part)
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
	if err := e.out.writeJSON(head); err != nil {
		return err
	}
	e.events += head.Count
	e.a.progress.report(stage{verb: "exporting", object: topic}, 0, int64(head.Count))
	for _, s := range held {
		err := e.db.Each(ctx, []event.Topic{head.Topic}, s, func(ev *event.Event) error {
			e.a.progress.add(1)
			return e.out.writeLine(ev.Line())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// provenOf returns the held ranges of t that are proven: all of them in a log's own
// file.
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
