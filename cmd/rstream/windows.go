package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

func newWindowsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "windows",
		GroupID: groupInspect,
		Short:   "List the stretches that are held, and how far",
		Long: `List the windows of the local copy: which stretch of which topic, its state and how
far it has come. As text, a picture shows them along the log, a row for each topic.`,
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
	From    event.ID     `json:"from"`
	To      *event.ID    `json:"to"` // null while live
	Reached event.ID     `json:"reached"`
	Proven  bool         `json:"proven"`
	Error   string       `json:"error,omitempty"`
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
	if a.out.text() {
		a.out.printf("%-9s  %-13s  %-13s  %-13s  %s\n", "STATE", "FROM", "REACHED", "TO", "TOPIC")
	}
	for i := range windows {
		w := &windows[i]
		line := windowLine{"window", w.Topic, w.State, w.From, &w.To, w.Reached, w.Proven, w.Err}
		to := w.To.String()
		if w.To == event.MaxID {
			line.To, to = nil, "-"
		}
		if !a.out.text() {
			if err := a.out.json(line); err != nil {
				return err
			}
			continue
		}
		if err := a.out.printf("%-9s  %s  %s  %-13s  %s\n", w.State, w.From, w.Reached, to, w.Topic); err != nil {
			return err
		}
	}
	if a.out.text() && len(windows) > 0 {
		a.out.printf("\n")
		t := newTimeline(windows, columns(), a.out.colour())
		if err := t.print(a.out); err != nil {
			return err
		}
	}
	return a.out.flush()
}
