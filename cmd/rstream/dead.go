package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// deadOptions are the flags of the commands about dead letters.
type deadOptions struct {
	name string
	all  bool
}

func newDeadCommand(a *app) *cobra.Command {
	var o deadOptions
	cmd := &cobra.Command{
		Use:     "dead [COMMAND]",
		GroupID: groupInspect,
		Short:   "List, retry and drop events that consumers gave up",
		Long: `List the events that keep the consumers ("tail --name NAME" with --exec, --pipe or
--webhook) waiting, or that they gave up: first, for each storage that waits, its first unfinished event, the number of
tries, the last error and the time of the next try; then the dead letters, which failed
as often as --tries allows. With --name, list those of one consumer.`,
		Example: `  rstream dead
  rstream dead list --name mailer -o json | jq -r .error
  rstream dead retry --name mailer 3
  rstream dead drop --name mailer --all`,
		Args:                  knownCommand,
		DisableFlagsInUseLine: true,
		RunE:                  func(cmd *cobra.Command, _ []string) error { return runDeadList(cmd.Context(), a, o) },
	}
	o.addName(a, cmd)
	cmd.AddCommand(newDeadListCommand(a), newDeadChangeCommand(a, deadRetry), newDeadChangeCommand(a, deadDrop))
	return cmd
}

func (o *deadOptions) addName(a *app, cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.name, "name", "", "the consumer of this `CURSOR`")
	_ = cmd.RegisterFlagCompletionFunc("name", a.completeCursors) // fails only for an unknown flag
	forLineOnly(cmd.Flags(), "name")
}

func newDeadListCommand(a *app) *cobra.Command {
	var o deadOptions
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List events that wait for another try, and dead letters",
		Example: `  rstream dead list --name mailer`,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDeadList(cmd.Context(), a, o) },
	}
	o.addName(a, cmd)
	return cmd
}

// A failingLine is a storage that waits, as dead list prints it.
type failingLine struct {
	Type  string      `json:"type"`
	Name  string      `json:"name"`
	ID    event.ID    `json:"id"`
	User  string      `json:"user"`
	Path  string      `json:"path"`
	Tries int         `json:"tries"`
	Retry *event.Time `json:"retry"` // null: as soon as a worker is free
	Error string      `json:"error"`
}

// A deadLine is a dead letter, as dead list prints it.
type deadLine struct {
	Type   string          `json:"type"`
	Name   string          `json:"name"`
	Number int64           `json:"number"`
	Tries  int             `json:"tries"`
	Time   event.Time      `json:"time"` // of the last try
	Error  string          `json:"error"`
	Retry  bool            `json:"retry"` // it was asked for
	Event  json.RawMessage `json:"event"`
}

func runDeadList(ctx context.Context, a *app, o deadOptions) error {
	db, err := a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	cursors, err := o.consumers(ctx, db)
	if err != nil {
		return err
	}
	some := false
	for i := range cursors {
		blocked, err := db.Blocked(ctx, cursors[i].Name)
		if err == nil {
			err = a.out.writeAllFailing(&cursors[i], blocked)
		}
		if err != nil {
			return err
		}
		some = some || len(blocked) > 0
	}
	for _, c := range cursors {
		err := eachDead(ctx, db, c.Name, func(d *cache.DeadLetter) error {
			some = true
			return a.out.writeDead(c.Name, d)
		})
		if err != nil {
			return err
		}
	}
	if !some && a.out.isForPerson() {
		return a.out.printf(nothingYet)
	}
	return nil
}

// consumers returns the cursor of --name, or all cursors.
func (o *deadOptions) consumers(ctx context.Context, db *cache.DB) (cursors []cache.CursorInfo, err error) {
	all, err := db.Cursors(ctx)
	for _, c := range all {
		if o.name == "" || o.name == c.Name {
			cursors = append(cursors, c)
		}
	}
	if err == nil && o.name != "" && len(cursors) == 0 {
		err = fmt.Errorf("cursor %s: %w", o.name, cache.ErrNoCursor)
	}
	return cursors, err
}

// eachDead calls fn with the dead letters of a consumer.
func eachDead(ctx context.Context, db *cache.DB, name string, fn func(*cache.DeadLetter) error) error {
	for after := int64(0); ; {
		list, err := db.DeadLetters(ctx, name, false, after, 100)
		if err != nil || len(list) == 0 {
			return err
		}
		for i := range list {
			if err := fn(&list[i]); err != nil {
				return err
			}
		}
		after = list[len(list)-1].Number
	}
}

// writeAllFailing writes the storages of a consumer that wait. For a person, those that have not
// failed are only counted: behind a slow worker, there may be thousands.
func (o *output) writeAllFailing(c *cache.CursorInfo, blocked []cache.BlockedStorage) error {
	idle := 0
	for i := range blocked {
		if blocked[i].Tries == 0 && o.isForPerson() {
			idle++
			continue
		}
		if err := o.writeFailing(c, &blocked[i]); err != nil {
			return err
		}
	}
	if idle == 0 {
		return nil
	}
	return o.printf("%s: %s without a failure, waiting for a worker\n", visible(c.Name), count(idle, "storage"))
}

func (o *output) writeFailing(c *cache.CursorInfo, b *cache.BlockedStorage) error {
	line := failingLine{Type: "failing", Name: c.Name, ID: b.First, User: b.Storage.User, Path: b.Storage.Path, Tries: b.Tries, Error: b.Error}
	if b.Retry != 0 {
		line.Retry = &b.Retry
	}
	if !o.isForPerson() {
		return o.writeJSON(line)
	}
	when := "now"
	switch {
	case line.Retry != nil && line.Retry.Time().After(time.Now()):
		when = localTime(*line.Retry)
	case !c.Held:
		when = "when it runs"
	}
	return o.printf("%s: %s %s failed %s: %s; next try %s\n", visible(c.Name), b.First, visible(b.Storage.String()), count(b.Tries, "time"), visible(b.Error), when)
}

func (o *output) writeDead(name string, d *cache.DeadLetter) error {
	if !o.isForPerson() {
		return o.writeJSON(deadLine{"dead", name, d.Number, d.Tries, d.Time, d.Error, d.Retry, d.Event.Line()})
	}
	again := ""
	if d.Retry {
		again = "; to be tried again"
	}
	return o.printf("%s: %d  %s %s failed %s, last at %s: %s%s\n", visible(name), d.Number, d.Event.ID, visible(d.Event.Storage().String()),
		count(d.Tries, "time"), localTime(d.Time), visible(d.Error), again)
}

// A deadChange is a command that changes dead letters.
type deadChange struct {
	verb, short, long string
	apply             func(db *cache.DB, ctx context.Context, name string, numbers []int64) error
}

var (
	deadRetry = deadChange{"retry", "Try dead letters again",
		`Ask the consumer to try dead letters again, by the numbers that "rstream dead" lists, and
print them. It does so once for each within a second, or when it next runs. Since later
events of the storage may be done by then, --exec finds RSTREAM_DEAD=1 in the
environment, --pipe "dead":true in the line, and --webhook sends Rstream-Dead: 1. An event that fails again stays a dead letter.`, (*cache.DB).RetryDead}
	deadDrop = deadChange{"drop", "Drop dead letters",
		`Drop dead letters, by the numbers that "rstream dead" lists, and print them.`, (*cache.DB).DropDead}
)

func newDeadChangeCommand(a *app, change deadChange) *cobra.Command {
	var o deadOptions
	cmd := &cobra.Command{
		Use:   change.verb + " NUMBER...",
		Short: change.short,
		Long:  change.long,
		Example: fmt.Sprintf(`  rstream dead %[1]s --name mailer 3 4
  rstream dead %[1]s --name mailer --all`, change.verb),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDeadChange(cmd.Context(), a, o, change, args)
		},
	}
	o.addName(a, cmd)
	cmd.Flags().BoolVar(&o.all, "all", false, "all dead letters of the consumer")
	excludeFlags(cmd, "all", "NUMBER")
	forLineOnly(cmd.Flags(), "all") // in other commands, all is a topic
	return cmd
}

func runDeadChange(ctx context.Context, a *app, o deadOptions, change deadChange, args []string) error {
	if o.name == "" {
		return usagef("want --name, the consumer whose dead letters to %s", change.verb)
	}
	if len(args) == 0 && !o.all {
		return usagef("want numbers as \"rstream dead\" lists them, or --all")
	}
	var numbers []int64
	for _, arg := range args {
		n, err := strconv.ParseInt(arg, 10, 64)
		if err != nil || n <= 0 {
			return usagef("%.40q: want a number as \"rstream dead\" lists it", arg)
		}
		numbers = append(numbers, n)
	}
	numbers = distinct(numbers)
	db, err := a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := o.consumers(ctx, db); err != nil {
		return err
	}
	if err := checkDead(ctx, db, o.name, numbers); err != nil { // before anything is printed
		return err
	}
	// Print them first: the lines of dropped ones may exist nowhere else.
	a.out.outlive()
	var picked []int64
	err = eachDead(ctx, db, o.name, func(d *cache.DeadLetter) error {
		if !o.all && !slices.Contains(numbers, d.Number) {
			return nil
		}
		picked = append(picked, d.Number)
		d.Retry = d.Retry || change.verb == deadRetry.verb
		return a.out.writeDead(o.name, d)
	})
	if err == nil {
		err = a.out.flush()
	}
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	if o.all {
		return change.applyAll(ctx, a, db, o.name, picked)
	}
	return change.apply(db, ctx, o.name, numbers) // one that does not exist is an error
}

// applyAll changes those of numbers that still are dead letters: the consumer may have done some
// since they were picked.
func (change *deadChange) applyAll(ctx context.Context, a *app, db *cache.DB, name string, numbers []int64) error {
	picked := len(numbers)
	for {
		err := change.apply(db, ctx, name, numbers)
		if !errors.Is(err, cache.ErrNoDeadLetter) {
			if gone := picked - len(numbers); err == nil && gone > 0 {
				a.note("left out: %s, done or dropped meanwhile", count(gone, "dead letter"))
			}
			return err
		}
		known, err := deadNumbers(ctx, db, name)
		if err != nil {
			return err
		}
		numbers = slices.DeleteFunc(numbers, func(n int64) bool { return !known[n] })
	}
}

// checkDead returns an error for the first of the numbers of which a consumer has no dead letter.
func checkDead(ctx context.Context, db *cache.DB, name string, numbers []int64) error {
	known, err := deadNumbers(ctx, db, name)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if !known[n] {
			return &exitError{exitFailed, fmt.Sprintf("cursor %s: %d: no such dead letter", name, n), "nothing was changed"}
		}
	}
	return nil
}

// deadNumbers returns the numbers of the dead letters of a consumer.
func deadNumbers(ctx context.Context, db *cache.DB, name string) (known map[int64]bool, err error) {
	known = map[int64]bool{}
	err = eachDead(ctx, db, name, func(d *cache.DeadLetter) error {
		known[d.Number] = true
		return nil
	})
	return known, err
}
