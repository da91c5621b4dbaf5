package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

func newWindowsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "windows [URL]",
		GroupID: groupInspect,
		Short:   "List the windows that the local copy holds",
		Long: `List the windows of the local copy: for each its topic, bounds, state and progress. Text
output draws them along the log, one row per topic. JSON output has the times of the
positions as from_time, reached_time and to_time, as far as the copy knows them.

A window is pending while a server is asked for its bounds; until then only a moment
inside it is known and shown. A copy has at most one pending window.`,
		Example: `  rstream windows
  rstream windows --cache rstream.db -o json`,
		Args: afterURL(noArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := a.chooseURL(cmd, args); err != nil {
				return err
			}
			return runWindows(cmd.Context(), a)
		},
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

	// The times of the positions, if they are known. If that of From is not, FromTime is
	// that of the first event.
	FromTime    *event.Time `json:"from_time,omitempty"`
	ToTime      *event.Time `json:"to_time,omitempty"`
	ReachedTime *event.Time `json:"reached_time,omitempty"`
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

// addTimes adds the times of the positions of w.
func (l *windowLine) addTimes(w *window.Window, times *positionTimes) (err error) {
	if l.From != nil {
		if l.FromTime, err = times.startTime(w); err != nil {
			return err
		}
	}
	if l.Reached != nil {
		if l.ReachedTime, err = times.timeAt(*l.Reached); err != nil {
			return err
		}
	}
	if l.To != nil {
		l.ToTime, err = times.timeAt(*l.To)
	}
	return err
}

// The forms of a line: on a screen that has no room for positions and times, or on one that
// has hardly room for anything.
const (
	windowForm       = "%-9s  %-13s  %-19s  %-13s  %-19s  %-13s  %s\n"
	windowScreenForm = "%-9s  %-13s  %-13s  %-13s  %s\n"
	windowNarrowForm = "%-9s  %-11s  %s\n"
)

// fullWindows is the width from which a screen has room for positions and times.
const fullWindows = 120

// windowHead returns the head of the table.
func (o *output) windowHead() string {
	switch width, limited := o.lineWidth(); {
	case !limited || width >= fullWindows:
		return fmt.Sprintf(windowForm, "STATE", "FROM", "TIME", "REACHED", "TIME", "TO", "TOPIC")
	case width >= narrow:
		return fmt.Sprintf(windowScreenForm, "STATE", "FROM", "REACHED", "TO", "TOPIC")
	}
	return fmt.Sprintf(windowNarrowForm, "STATE", "REACHED", "TOPIC")
}

// windowText returns a line of the table.
func (o *output) windowText(l *windowLine) string {
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
	switch width, limited := o.lineWidth(); {
	case !limited || width >= fullWindows:
		return fmt.Sprintf(windowForm, l.State, position(l.From), timeText(l.FromTime), position(l.Reached), timeText(l.ReachedTime), position(l.To), topic)
	case width >= narrow:
		return fmt.Sprintf(windowScreenForm, l.State, position(l.From), position(l.Reached), position(l.To), topic)
	}
	reached := "-"
	if l.ReachedTime != nil {
		reached = l.ReachedTime.Time().Local().Format("01-02 15:04")
	}
	return fmt.Sprintf(windowNarrowForm, l.State, reached, topic)
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
		a.out.printf("%s", a.out.windowHead())
	}
	times := newPositionTimes(ctx, db)
	for i := range windows {
		line := newWindowLine(&windows[i])
		line.Differs = isInDoubt(&windows[i], doubts)
		if err := line.addTimes(&windows[i], times); err != nil {
			return err
		}
		if a.out.isForPerson() {
			err = a.out.printf("%s", a.out.windowText(&line))
		} else {
			err = a.out.writeJSON(line)
		}
		if err != nil {
			return err
		}
	}
	if a.out.isForPerson() && len(windows) > 0 {
		a.out.printf("\n")
		if err := placePending(ctx, db, windows); err != nil {
			return err
		}
		t := newTimeline(windows, min(a.out.columns(), maxColumns), a.out.hasColour())
		if err := t.addTimes(times.timeAt); err != nil {
			return err
		}
		if err := t.printTimeline(a.out); err != nil {
			return err
		}
	}
	return a.out.flush()
}

// placePending gives pending windows the positions of their moments, so that the picture
// shows them.
func placePending(ctx context.Context, db *cache.DB, windows []window.Window) error {
	end := event.Beginning
	for i := range windows {
		end = max(end, windows[i].Held().To)
	}
	for i := range windows {
		w := &windows[i]
		if w.State != window.Pending {
			continue
		}
		at, err := offlinePosition(ctx, db, w.At, end)
		if errors.Is(err, cache.ErrCorrupt) {
			continue
		}
		if err != nil {
			return err
		}
		w.At = event.At(event.CursorOf(max(at, 1), db.Log())) // a position is at the end of its cell
	}
	return nil
}

// isInDoubt reports whether some of the range that w holds is in doubt.
func isInDoubt(w *window.Window, doubts []cache.Doubt) bool {
	return !w.Proven && slices.ContainsFunc(doubts, func(d cache.Doubt) bool {
		return w.Topic.Overlaps(d.Topic) && !w.Held().Intersect(d.Span).Empty()
	})
}
