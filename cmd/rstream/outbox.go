package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
)

func newOutboxCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "outbox [COMMAND]",
		GroupID: groupWrite,
		Short:   "List appends that wait to be sent",
		Long: `List the appends that "put --offline" and "put --queue" stored in the local copy, in the
order in which the next sync sends them. An append that a server refused for good stays
listed, with the reason.`,
		Example: `  rstream outbox
  rstream outbox drop 3
  rstream outbox drop --refused`,
		Args:                  noArgs,
		DisableFlagsInUseLine: true,
		RunE:                  func(cmd *cobra.Command, _ []string) error { return runOutbox(cmd.Context(), a) },
	}
	cmd.AddCommand(newOutboxDropCommand(a))
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
	path, _, err := a.cacheFile(ctx)
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

type outboxDropOptions struct{ all, refused bool }

func newOutboxDropCommand(a *app) *cobra.Command {
	var o outboxDropOptions
	cmd := &cobra.Command{
		Use:   "drop NUMBER...",
		Short: "Drop appends from the outbox",
		Long: `Drop appends from the outbox, by the numbers that "rstream outbox" lists, and print
them. They exist nowhere else.`,
		Example: `  rstream outbox drop 3 4
  rstream outbox drop --refused`,
		RunE: func(cmd *cobra.Command, args []string) error { return runOutboxDrop(cmd.Context(), a, o, args) },
	}
	cmd.Flags().BoolVar(&o.refused, "refused", false, "all appends that a server refused for good")
	cmd.Flags().BoolVar(&o.all, "all", false, "everything")
	excludeFlags(cmd, "all", "NUMBER", "refused")
	excludeFlags(cmd, "refused", "NUMBER")
	forLineOnly(cmd.Flags(), "all") // in other commands, all is a topic
	return cmd
}

// parsePicks returns a function that reports whether to drop a draft, and the numbers that
// must exist.
func (o outboxDropOptions) parsePicks(args []string) (pick func(*cache.Queued) bool, numbers []int64, err error) {
	if len(args) == 0 && !o.all && !o.refused {
		return nil, nil, usagef("want numbers as \"rstream outbox\" lists them, or --refused, or --all")
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

func runOutboxDrop(ctx context.Context, a *app, o outboxDropOptions, args []string) error {
	pick, numbers, err := o.parsePicks(args)
	if err != nil {
		return err
	}
	db, err := a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	var picked []cache.Queued
	err = eachQueued(ctx, db, func(q *cache.Queued) error {
		if pick(q) {
			picked = append(picked, *q)
		}
		return nil
	})
	if err != nil {
		return err
	}
	drop := make([]int64, len(picked))
	for i := range picked {
		drop[i] = picked[i].Number
	}
	for _, n := range numbers {
		if !slices.Contains(drop, n) {
			return fmt.Errorf("drop %d: there is no such number in the outbox; nothing was dropped", n)
		}
	}
	// Print them first: they exist nowhere else.
	a.out.outlive()
	if err := a.printQueued(picked); err != nil {
		return fmt.Errorf("%w; nothing was dropped", err)
	}
	_, err = db.Outbox().Discard(ctx, drop)
	return err
}
