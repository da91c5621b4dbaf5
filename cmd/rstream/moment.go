package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// readMoment parses a moment as a person writes it, and returns nil for "". name is the
// flag or argument it belongs to.
func (a *app) readMoment(name, s string) (*event.Moment, error) {
	return a.readMomentOf(name, s, false)
}

// readMomentOf is readMoment. If the clock showed a local time twice and isEnd is set,
// it returns the later moment, so that the range includes both.
func (a *app) readMomentOf(name, s string, isEnd bool) (*event.Moment, error) {
	if s == "" {
		return nil, nil
	}
	if err := checkNoMillis(s); err != nil {
		return nil, usagef("%s %s: %w", name, s, err)
	}
	local, err := event.ParseLocalMoment(s, time.Now())
	if err != nil {
		return nil, &usageError{err}
	}
	m := local.Moment
	if isEnd && !local.Last.IsZero() {
		m = event.AtTime(event.TimeOf(local.Last))
	}
	a.noteClockChange(name+" "+s, &local, m)
	return &m, nil
}

// checkNoMillis refuses milliseconds since 1970, such as those of date +%s%3N. They read as an id that
// no log reaches, and "forget --before" of such an id would remove everything.
func checkNoMillis(s string) error {
	if _, err := strconv.ParseUint(s, 10, 63); err != nil || len(s) != event.IDLen || s[0] == '0' {
		return nil
	}
	return fmt.Errorf("a time in milliseconds? want seconds: %s", s[:len(s)-len("000")])
}

// noteClockChange says which moment was chosen for a local time that the clock showed
// twice or never.
func (a *app) noteClockChange(what string, local *event.LocalMoment, taken event.Moment) {
	at := func(t time.Time) string { return t.Format(time.RFC3339Nano) }
	t, _ := taken.Time(time.Now())
	using := at(t.Time().In(time.Local))
	if !local.First.IsZero() {
		a.note("%s: clocks showed this time twice, at %s and %s; using %s", what, at(local.First), at(local.Last), using)
	}
	if jump := local.Skipped; !jump.IsZero() {
		_, offset := jump.Add(-1).Zone()
		a.note("%s: clocks skipped this time, from %s to %s; using %s", what, at(jump.In(time.FixedZone("", offset))), at(jump), using)
	}
}

// A momentRange is the range that a command reads. A nil bound was not given.
type momentRange struct{ since, until *event.Moment }

// readRange parses the values of --since and --until.
func (a *app) readRange(since, until string) (r momentRange, err error) {
	if r.since, err = a.readMoment("--since", since); err != nil {
		return r, err
	}
	if r.until, err = a.readMomentOf("--until", until, true); err != nil {
		return r, err
	}
	return r, checkRangeOrder(r.since, r.until)
}

// checkRangeOrder rejects an end before the beginning, if that shows without a server.
func checkRangeOrder(since, until *event.Moment) error {
	if since == nil || until == nil {
		return nil
	}
	now := time.Now()
	a, ok := since.Time(now)
	b, ok2 := until.Time(now)
	from, ok3 := since.Cursor()
	to, ok4 := until.Cursor()
	if ok && ok2 && a > b || ok3 && ok4 && from.ID > to.ID {
		return usagef("--since %s lies after --until %s", since, until)
	}
	return nil
}

// offlinePosition turns a moment into a position, using only the copy.
func offlinePosition(ctx context.Context, db *cache.DB, m event.Moment, end event.ID) (event.ID, error) {
	c, err := m.Resolve(time.Now(), event.Cursor{ID: end}, func(t event.Time) (event.ID, error) { return db.PositionAt(ctx, t) })
	if err != nil {
		return 0, err
	}
	if !c.Of(db.Log()) {
		return 0, usagef("%s is a position of another log; %s holds %s", c, db.Path(), db.Log())
	}
	return c.ID, nil
}

// whenText says when a moment is, which a person wrote as text: at a time or a position, or some
// time ago.
func whenText(m event.Moment, text string) string {
	_, fixed := m.FixedTime()
	if _, ok := m.Time(time.Now()); ok && !fixed {
		return text + " ago"
	}
	return "at " + m.String()
}

// localTime formats a time for a person.
func localTime(t event.Time) string { return t.Time().Local().Format("2006-01-02 15:04:05") }

func positionName(id event.ID) string {
	if id == event.Beginning {
		return "the beginning"
	}
	return id.String()
}

// momentText is a flag value that names a moment.
type momentText string

func (m *momentText) String() string { return string(*m) }

// Set rejects text that names no moment. Empty values are rejected elsewhere, for all
// flags.
func (m *momentText) Set(s string) error {
	if err := checkNoMillis(s); err != nil {
		return err
	}
	if _, err := event.ParseLocalMoment(s, time.Now()); err != nil && s != "" {
		return errors.Unwrap(err) // the flag's error already names the moment
	}
	*m = momentText(s)
	return nil
}

// Type names the flag's value.
func (m *momentText) Type() string { return "moment" }

// addMoment adds a flag that names a moment.
func addMoment(cmd *cobra.Command, at *string, name, usage string) {
	cmd.Flags().Var((*momentText)(at), name, usage)
	completeFlag(cmd, name, moments...)
}

var moments = []string{"beginning", "now", "1h", "24h", "7d", "today", "yesterday"}

// rangeFlags are the flags of commands that read a range of topics from the copy.
type rangeFlags struct {
	topicFlags
	since string
	until string
}

func (o *rangeFlags) addRangeFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	addMoment(cmd, &o.since, "since", "start at `MOMENT` (default: beginning)")
	addMoment(cmd, &o.until, "until", "end at `MOMENT` (default: the last held event)")
	o.topicFlags.addTopicFlags(cmd)
}
