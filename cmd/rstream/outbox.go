package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

func newOutboxCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "outbox [COMMAND]",
		GroupID: groupWrite,
		Short:   "List appends that wait to be sent",
		Long: `List the appends that "put --offline" and "put --queue" stored in the local copy, in the
order in which the next sync sends them. An append that a server refused stays listed, with
the reason, and does not hold up the others.`,
		Example: `  rstream outbox
  rstream outbox drop 3
  rstream outbox retry --refused`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runOutbox(cmd.Context(), a) },
	}
	addFull(a, cmd)
	cmd.AddCommand(newOutboxDropCommand(a), newOutboxRetryCommand(a))
	return cmd
}

func runOutbox(ctx context.Context, a *app) error {
	some := false
	err := a.eachInOutbox(ctx, func(q *cache.Queued) error {
		some = true
		return a.out.writeQueued(q)
	})
	if err == nil && !some && a.out.isForPerson() {
		return a.out.printf(nothingYet)
	}
	return err
}

// eachInOutbox calls fn with each draft in the outbox of the copy, if there is one.
func (a *app) eachInOutbox(ctx context.Context, fn func(*cache.Queued) error) error {
	path, _, err := a.copyPath()
	if err != nil || path == "" {
		return err
	}
	db, err := a.openDB(ctx, path, cache.Config{})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer db.Close()
	return eachQueued(ctx, db, fn)
}

// outboxPicks say which drafts of the outbox a command is about.
type outboxPicks struct{ all, refused bool }

func newOutboxDropCommand(a *app) *cobra.Command {
	var o outboxPicks
	cmd := &cobra.Command{
		Use:   "drop NUMBER...",
		Short: "Drop appends from the outbox",
		Long: `Drop appends from the outbox, by the numbers that "rstream outbox" lists, and print
them. They exist nowhere else.`,
		Example: `  rstream outbox drop 3 4
  rstream outbox drop --refused`,
		RunE: func(cmd *cobra.Command, args []string) error { return runOutboxDrop(cmd.Context(), a, o, args) },
	}
	cmd.Flags().BoolVar(&o.refused, "refused", false, "all appends that a server refused")
	cmd.Flags().BoolVar(&o.all, "all", false, "everything")
	excludeFlags(cmd, "all", "NUMBER", "refused")
	excludeFlags(cmd, "refused", "NUMBER")
	forLineOnly(cmd.Flags(), "all") // in other commands, all is a topic
	return cmd
}

func newOutboxRetryCommand(a *app) *cobra.Command {
	var o outboxPicks
	cmd := &cobra.Command{
		Use:   "retry NUMBER...",
		Short: "Send refused appends again",
		Long: `Let the next sync send appends again that a server has refused, by the numbers that
"rstream outbox" lists, and print them. If a token did not cover them, first get one that
does.`,
		Example: `  rstream outbox retry 3 4
  rstream outbox retry --refused`,
		RunE: func(cmd *cobra.Command, args []string) error { return runOutboxRetry(cmd.Context(), a, o, args) },
	}
	cmd.Flags().BoolVar(&o.refused, "refused", false, "all appends that a server refused")
	excludeFlags(cmd, "refused", "NUMBER")
	return cmd
}

// parsePicks returns a function that reports whether a draft is picked, and the numbers that
// must exist.
func (o outboxPicks) parsePicks(args []string, flags string) (pick func(*cache.Queued) bool, numbers []int64, err error) {
	if len(args) == 0 && !o.all && !o.refused {
		return nil, nil, usagef("want numbers as \"rstream outbox\" lists them, or %s", flags)
	}
	for _, arg := range args {
		n, err := strconv.ParseInt(arg, 10, 64)
		if err != nil || n <= 0 {
			return nil, nil, usagef("%.40q: want a number as \"rstream outbox\" lists it", arg)
		}
		numbers = append(numbers, n)
	}
	return func(q *cache.Queued) bool {
		return o.all || o.refused && q.Refused != "" || slices.Contains(numbers, q.Number)
	}, numbers, nil
}

// openPicked opens the copy offline, and returns it with the drafts of its outbox that o and
// the numbers in args pick. flags says which flags may take the place of numbers. It returns an
// error if a number is not in the outbox. The caller closes the copy.
func (o outboxPicks) openPicked(ctx context.Context, a *app, verb, flags string, args []string) (db *cache.DB, picked []cache.Queued, err error) {
	pick, numbers, err := o.parsePicks(args, flags)
	if err != nil {
		return nil, nil, err
	}
	db, err = a.openOffline(ctx)
	if err != nil {
		return nil, nil, err
	}
	picked, err = pickQueued(ctx, db, verb, pick, numbers)
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	return db, picked, nil
}

// pickQueued returns the drafts of an outbox that pick chooses. It returns an error if one of
// numbers is not among them.
func pickQueued(ctx context.Context, db *cache.DB, verb string, pick func(*cache.Queued) bool, numbers []int64) (picked []cache.Queued, err error) {
	err = eachQueued(ctx, db, func(q *cache.Queued) error {
		if pick(q) {
			picked = append(picked, *q)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		if !slices.ContainsFunc(picked, func(q cache.Queued) bool { return q.Number == n }) {
			return nil, fmt.Errorf("%s %d: there is no such number in the outbox; nothing was changed", verb, n)
		}
	}
	return picked, nil
}

func runOutboxDrop(ctx context.Context, a *app, o outboxPicks, args []string) error {
	db, picked, err := o.openPicked(ctx, a, "drop", "--refused, or --all", args)
	if err != nil {
		return err
	}
	defer db.Close()
	// Print them first: they exist nowhere else.
	a.out.outlive()
	if err := a.printQueued(picked); err != nil {
		return fmt.Errorf("%w; nothing was dropped", err)
	}
	drop := make([]int64, len(picked))
	for i := range picked {
		drop[i] = picked[i].Number
	}
	dropped, err := db.Outbox().Discard(ctx, drop)
	if err != nil {
		return err
	}
	return keptError(drop, dropped)
}

// keptError returns an error if some drafts had left the outbox before they were dropped.
func keptError(drop, dropped []int64) error {
	gone := slices.DeleteFunc(drop, func(n int64) bool { return slices.Contains(dropped, n) })
	if len(gone) == 0 {
		return nil
	}
	var names []string
	for _, n := range gone[:min(maxRanges, len(gone))] {
		names = append(names, strconv.FormatInt(n, 10))
	}
	return fmt.Errorf("drop %s%s: no longer in the outbox, since another process has sent or dropped %s",
		strings.Join(names, ", "), andMore(len(gone)), itOrThem(len(gone)))
}

func itOrThem(n int) string {
	if n == 1 {
		return "it"
	}
	return "them"
}

func runOutboxRetry(ctx context.Context, a *app, o outboxPicks, args []string) error {
	db, picked, err := o.openPicked(ctx, a, "retry", "--refused", args)
	if err != nil {
		return err
	}
	defer db.Close()
	drafts := make([]event.Draft, len(picked))
	for i := range picked {
		drafts[i] = picked[i].Draft
	}
	a.out.outlive()
	queued, err := db.Outbox().Queue(ctx, drafts)
	if err != nil {
		return err
	}
	a.recordDone("the appends were queued again")
	return a.printQueued(queued)
}
