package main

import (
	"context"
	"math"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

func newCursorCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "cursor [COMMAND]",
		GroupID: groupInspect,
		Short:   "List, set and remove named cursors",
		Long: `List the cursors that "tail --name" keeps in the local copy: for each its position,
with its time, and its topics, and whether a process is using it now. If it does something
for each event, also:
  done       events that succeeded
  under way  events that are being tried
  waiting    storages that wait for another try, or for their turn after one
  dead       events that were given up
  rate       events done per second, in the last minute
  oldest     the first event that is not done, and its time`,
		Example: `  rstream cursor
  rstream cursor set indexer 24h
  rstream cursor rm indexer`,
		Args:                  knownCommand,
		DisableFlagsInUseLine: true,
		RunE:                  func(cmd *cobra.Command, _ []string) error { return runCursorList(cmd.Context(), a) },
	}
	cmd.AddCommand(newCursorListCommand(a), newCursorSetCommand(a), newCursorRmCommand(a))
	return cmd
}

func newCursorListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List named cursors",
		Example: `  rstream cursor list -o json | jq -r .name`,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runCursorList(cmd.Context(), a) },
	}
}

func runCursorList(ctx context.Context, a *app) error {
	db, err := a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	cursors, err := db.Cursors(ctx)
	if err != nil {
		return err
	}
	if len(cursors) == 0 && a.out.isForPerson() {
		return a.out.printf(nothingYet)
	}
	return a.printCursors(ctx, db, cursors)
}

func (a *app) printCursors(ctx context.Context, db *cache.DB, cursors []cache.CursorInfo) error {
	times := newPositionTimes(ctx, db)
	for _, c := range cursors {
		if err := a.out.writeCursor(c, times); err != nil {
			return err
		}
	}
	return nil
}

type cursorLine struct {
	Type string `json:"type"`
	cursorReport
}

func (o *output) writeCursor(c cache.CursorInfo, times *positionTimes) error {
	r, err := newCursorReport(c, times)
	if err != nil {
		return err
	}
	if !o.isForPerson() {
		return o.writeJSON(cursorLine{"cursor", r})
	}
	return o.printf("%s\n", r)
}

// String formats the report for a person.
func (c cursorReport) String() string {
	held := ""
	if c.Held {
		held = ", in use"
	}
	if c.Damaged {
		held += ", damaged: set it again"
	}
	when := ""
	if c.Time != nil {
		when = " (" + localTime(*c.Time) + ")"
	}
	text := visible(c.Name) + " at " + c.Position.String() + when + " of " + visible(strings.Join(c.Topics, ", ")) + held
	if c.consumerReport != nil {
		text += "; " + c.consumerReport.String()
	}
	return text
}

func newCursorSetCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME MOMENT [TOPIC...]",
		Short: "Set a named cursor to a moment",
		Long: `Set a cursor to a moment: the next "tail --name NAME" prints the events after it. With
topics, the cursor is created if it does not exist. Events up to there are not tried
any more; dead letters stay. Times are resolved in the local
copy; "now" is the end of the held events of the topics.`,
		Example: `  rstream cursor set indexer beginning
  rstream cursor set indexer 24h
  rstream cursor set new-reader now alice/posts`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, s string) ([]cobra.Completion, cobra.ShellCompDirective) {
			switch len(args) {
			case 0:
				return a.completeCursors(cmd, args, s)
			case 1:
				return moments, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeTopics(cmd, args[2:], s)
		},
		Args: argCount(2, math.MaxInt, "the NAME of a cursor and a MOMENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.readMoment("MOMENT", args[1])
			if err != nil {
				return err
			}
			if m == nil {
				return usagef("want a moment such as 24h or an event's id")
			}
			topics, err := (&topicFlags{}).parseTopicArgs(args[2:])
			if err != nil {
				return err
			}
			return runCursorSet(cmd.Context(), a, args[0], *m, topics)
		},
	}
}

func runCursorSet(ctx context.Context, a *app, name string, m event.Moment, topics []event.Topic) error {
	db, err := a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	end := event.MaxID
	if m.IsNow() {
		if end, err = endOfHeld(ctx, db, name, topics); err != nil {
			return err
		}
	}
	at, err := offlinePosition(ctx, db, m, end)
	if err != nil {
		return err
	}
	c, err := db.SetCursor(ctx, name, topics, at)
	if err != nil {
		return err
	}
	if known, err := newestKnown(ctx, db); err == nil && at > known {
		a.note("%s is beyond %s, the newest position that is known here", at, known)
	}
	a.recordDone("the cursor was set")
	return a.out.writeCursor(c, newPositionTimes(ctx, db))
}

// newestKnown returns the newest position of the log that the file knows.
func newestKnown(ctx context.Context, db *cache.DB) (event.ID, error) {
	if db.Role() == cache.Server {
		return db.Head(), nil
	}
	n, err := db.Newest(ctx)
	return max(n.Held, n.Marked.ID), err
}

// endOfHeld returns the end of the range held for topics or, if there are none, for the
// topics of the cursor.
func endOfHeld(ctx context.Context, db *cache.DB, name string, topics []event.Topic) (event.ID, error) {
	if len(topics) == 0 {
		cursors, err := db.Cursors(ctx)
		if err != nil {
			return 0, err
		}
		for _, c := range cursors {
			if c.Name != name {
				continue
			}
			if topics, err = (&topicFlags{}).parseTopicArgs(c.Topics); err != nil {
				return 0, err
			}
		}
	}
	held, err := db.Held(ctx, topics...)
	if err != nil || len(held) == 0 {
		return event.Beginning, err
	}
	return held[len(held)-1].To, nil
}

func newCursorRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove named cursors",
		Long: `Remove cursors, all or none, and print them. A later "tail --name" with one of these
names starts at the beginning. Their dead letters are removed, too.`,
		Example:           `  rstream cursor rm indexer`,
		ValidArgsFunction: a.completeCursors,
		Args:              argCount(1, math.MaxInt, "the NAME of a cursor"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCursorRm(cmd.Context(), a, distinct(args))
		},
	}
}

func runCursorRm(ctx context.Context, a *app, names []string) error {
	db, err := a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	dropped, err := db.DropCursors(ctx, names)
	if err != nil {
		return err
	}
	a.recordDone("the cursors were removed")
	return a.printCursors(ctx, db, dropped)
}
