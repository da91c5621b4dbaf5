package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

func newWindowsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "windows",
		GroupID: groupInspect,
		Short:   "List the windows that the local copy holds",
		Long: `List the windows of the local copy: for each its topic, bounds, state and progress. Text
output draws them along the log, one row per topic.

A window is pending while a server is asked for its bounds; until then only a moment
inside it is known and shown. A copy has at most one pending window.`,
		Example: `  rstream windows
  rstream windows --cache rstream.db -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runWindows(cmd.Context(), a) },
	}
}

// A windowLine is one window as JSON.
type windowLine struct {
	Type    string       `json:"type"`
	Topic   event.Topic  `json:"topic"`
	State   window.State `json:"state"`
	From    *event.ID    `json:"from"`    // null while pending
	To      *event.ID    `json:"to"`      // null while live or pending
	Reached *event.ID    `json:"reached"` // null while pending
	Proven  bool         `json:"proven"`
	At      string       `json:"at,omitempty"` // the moment, while pending
	Error   string       `json:"error,omitempty"`
	Differs bool         `json:"differs,omitempty"` // some of it was found to differ from the server
}

func newWindowLine(w *window.Window) windowLine {
	line := windowLine{Type: "window", Topic: w.Topic, State: w.State, Proven: w.Proven, Error: w.Err}
	if w.State == window.Pending {
		line.At = w.At.String()
		return line
	}
	line.From, line.Reached = &w.From, &w.Reached
	if w.To != event.MaxID {
		line.To = &w.To
	}
	return line
}

const windowForm = "%-9s  %-13s  %-13s  %-13s  %s\n"

// lineText returns the line for a person.
func (l *windowLine) lineText() string {
	position := func(id *event.ID) string {
		if id == nil {
			return "-"
		}
		return id.String()
	}
	topic := l.Topic.String()
	if l.At != "" {
		topic += " at " + l.At
	}
	if l.Differs {
		topic += "  (differs from the server)"
	}
	return fmt.Sprintf(windowForm, l.State, position(l.From), position(l.Reached), position(l.To), topic)
}

func runWindows(ctx context.Context, a *app) error {
	db, err := a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	windows, err := db.Windows(ctx)
	if err != nil {
		return err
	}
	doubts, err := db.Doubts(ctx)
	if err != nil {
		return err
	}
	if a.out.isForPerson() && len(windows) == 0 {
		return a.out.printf(nothingYet)
	}
	if a.out.isForPerson() {
		a.out.printf(windowForm, "STATE", "FROM", "REACHED", "TO", "TOPIC")
	}
	for i := range windows {
		line := newWindowLine(&windows[i])
		line.Differs = isInDoubt(&windows[i], doubts)
		if a.out.isForPerson() {
			err = a.out.printf("%s", line.lineText())
		} else {
			err = a.out.writeJSON(line)
		}
		if err != nil {
			return err
		}
	}
	if a.out.isForPerson() && len(windows) > 0 {
		a.out.printf("\n")
		t := newTimeline(windows, min(a.out.columns(), maxColumns), a.out.hasColour())
		if err := t.printTimeline(a.out); err != nil {
			return err
		}
	}
	return a.out.flush()
}

// isInDoubt reports whether some of the range that w holds is in doubt.
func isInDoubt(w *window.Window, doubts []cache.Doubt) bool {
	return !w.Proven && slices.ContainsFunc(doubts, func(d cache.Doubt) bool {
		return w.Topic.Overlaps(d.Topic) && !w.Held().Intersect(d.Span).Empty()
	})
}
