package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
)

type getOptions struct {
	events bool
	origin bool
	raw    bool
	at     string
}

func newGetCommand(a *app) *cobra.Command {
	var o getOptions
	cmd := &cobra.Command{
		Use:     "get STORAGE",
		GroupID: groupRead,
		Short:   "Print the value of a storage",
		Long: `Print the current value of one storage and nothing else. With --at, print the value at
that moment; with --events, print the whole history. With --raw, print a string without
its quotes and escapes. The status is 1 if the storage has no value. With --origin, print
where the storage's last event came from: the source of a relay, and the event's id there.`,
		Example: `  rstream get alice/posts/1
  rstream get alice/posts/1 --at 14:05
  rstream get alice/posts/1 --events
  name=$(rstream get alice/name --raw)`,
		Args:              afterURL(oneStorage),
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := a.chooseURL(cmd, args)
			if err != nil {
				return err
			}
			return runGet(cmd.Context(), a, o, args[0])
		},
	}
	cmd.Flags().BoolVar(&o.events, "events", false, "print the history, one event a line")
	cmd.Flags().BoolVarP(&o.raw, "raw", "r", false, "print a string without quotes")
	cmd.Flags().BoolVar(&o.origin, "origin", false, "print where the value came from instead")
	addMoment(cmd, &o.at, "at", "print the value at `MOMENT` (default: now)")
	addFull(a, cmd)
	addFilter(a, cmd)
	excludeFlags(cmd, "events", "at")
	excludeFlags(cmd, "origin", "events", "where", "jq")
	excludeFlags(cmd, "raw", "events", "jq", "origin")
	forLineOnly(cmd.Flags(), "raw")
	forLineOnly(cmd.Flags(), "origin")
	forLineOnly(cmd.Flags(), "events") // in bench, events is a number
	return cmd
}

func runGet(ctx context.Context, a *app, o getOptions, name string) error {
	storage, err := event.ParseStorage(name)
	if err != nil {
		return &usageError{err}
	}
	at, err := a.readMoment("--at", o.at)
	if err != nil {
		return err
	}
	if a.source != nil {
		return getFromSource(ctx, a, o, storage, at)
	}
	s, err := a.openSession(ctx, false)
	if err != nil {
		return fmt.Errorf("get %s: %w", storage, err)
	}
	defer s.Close()
	topic, one := event.Exactly(storage), 1
	if at != nil {
		return s.explainOtherLog(ctx, o.getAt(ctx, a, s, topic, *at))
	}
	opts := client.SyncOptions{Unproven: true}
	if !o.events {
		opts.Last = &one
	}
	synced, err := s.Sync(ctx, topic, opts)
	if err != nil {
		return s.explainOtherLog(ctx, err)
	}
	doubted, err := doubtedRanges(ctx, s.db, []event.Topic{topic}, synced.Span)
	if err != nil {
		return err
	}
	var last *event.Event
	err = s.db.Each(ctx, []event.Topic{topic}, synced.Span, func(ev *event.Event) error {
		last = ev
		if o.events {
			return a.out.writeEvent(ev)
		}
		return nil
	})
	doubt := a.noteDoubted([]event.Topic{topic}, doubted)
	switch {
	case err != nil:
		return err
	case doubt != nil && (last == nil || last.Type == event.Del):
		return doubt // the value may be among the missing events
	case last == nil:
		return &exitError{status: exitFailed, text: storage.String() + ": has never been written"}
	case o.events:
		return doubt
	}
	return cmp.Or(o.printGot(ctx, a, last, s.Origin), doubt)
}

// getAt prints the value that a storage had at a moment.
func (o *getOptions) getAt(ctx context.Context, a *app, s *session, topic event.Topic, at event.Moment) error {
	id, err := s.StateAt(ctx, topic, at)
	if err != nil {
		return err
	}
	doubted, err := stateDoubted(ctx, s.db, topic, id)
	if err != nil {
		return err
	}
	for ev, err := range s.State(ctx, topic, event.At(event.CursorOf(id, s.db.Log()))) {
		if err != nil {
			return err
		}
		return cmp.Or(o.printGot(ctx, a, ev, s.Origin), a.noteDoubted([]event.Topic{topic}, doubted))
	}
	if len(doubted) > 0 {
		return a.noteDoubted([]event.Topic{topic}, doubted)
	}
	return &exitError{status: exitFailed, text: fmt.Sprintf("%s: had no value %s", strings.TrimSuffix(topic.String(), "$"), whenText(at, o.at))}
}

// An askOrigin returns where an event came from, if that is known.
type askOrigin func(context.Context, event.ID) (origin client.Origin, ok bool, err error)

// printGot prints the value of ev's storage after ev or, with --origin, where ev came from.
func (o *getOptions) printGot(ctx context.Context, a *app, ev *event.Event, ask askOrigin) error {
	if !o.origin {
		return a.printValue(ev, o.raw)
	}
	origin, ok, err := ask(ctx, ev.ID)
	switch {
	case err != nil:
		return err
	case !ok:
		return &exitError{status: exitFailed, text: "the server does not show where event " + ev.ID.String() + " came from"}
	}
	return a.out.printOrigin(ev, &origin)
}

// printOrigin prints where an event came from.
func (o *output) printOrigin(ev *event.Event, origin *client.Origin) error {
	if !o.isForPerson() {
		return o.writeJSON(struct {
			Type string `json:"type"`
			client.Origin
		}{"origin", *origin})
	}
	from := "appended to this log"
	switch {
	case origin.Source != "" && origin.Event == "":
		from = "made because of the source " + origin.Source
	case origin.Log != "":
		from = "event " + origin.Event + " of " + origin.Source + ", log " + origin.Log
	case origin.Source != "":
		from = "event " + origin.Event + " of " + origin.Source
	}
	return o.printf("%s\n", visible(fmt.Sprintf("%s %s: %s", ev.ID, ev.Storage(), from)))
}

// printValue prints the value of ev's storage after ev. A raw string has no quotes.
func (a *app) printValue(ev *event.Event, raw bool) error {
	out, err := a.out.filter.leavesOut(ev)
	switch {
	case err != nil:
		return err
	case out:
		return &exitError{status: exitFailed, text: ev.Storage().String() + ": its value is left out by --where"}
	case a.filter.selection != nil:
		return a.out.writeEvent(ev)
	case ev.Type == event.Del:
		return &exitError{status: exitFailed, text: ev.Storage().String() + ": has no value, it was deleted at " + ev.Time.String()}
	case raw:
		return a.out.writeLine(unquoted(ev.Value))
	case a.out.form == formJSON:
		return a.out.writeEvent(ev)
	}
	if a.out.terminal && a.out.isForPerson() {
		return a.out.printf("%s\n", pretty(ev.Value))
	}
	return a.out.writeLine(ev.Value)
}

// unquoted returns the text of a string, and any other value as it is.
func unquoted(value json.RawMessage) []byte {
	var text string
	if json.Unmarshal(value, &text) != nil || value[0] != '"' { // null is no error
		return value
	}
	return []byte(text)
}
