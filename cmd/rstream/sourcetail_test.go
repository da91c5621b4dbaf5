package main

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/deliver"
	"github.com/rstream-dev/rstream/window"
)

// A sync that prints nothing is not ended by retention that has overtaken it: all events were
// stored, and count.
func TestSilentSourceOvertaken(t *testing.T) {
	p := &sourcePrinter{silent: true, asked: []event.Topic{event.All}, at: 5}
	if err := p.passDropped(t.Context(), nil, 12); err != nil || p.at != 12 || p.events != 7 || p.gaps != 0 {
		t.Errorf("it is at %s with %d events and %d gaps, %v", p.at, p.events, p.gaps, err)
	}
}

// A consumer reports what the file no longer has of a storage, and goes on with it. All other
// errors of reading it end the consumer.
func TestUnfinishedDropped(t *testing.T) {
	db, err := cache.Open(t.Context(), filepath.Join(t.TempDir(), "copy.db"), cache.Config{Role: cache.Client, Log: event.NewLogID([10]byte{1})})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var said bytes.Buffer
	c := &consumption{a: &app{err: &said}, db: db}
	dropped := deliver.Dropped{Storage: event.Storage{User: "u", Path: "x"}}
	for _, dropped.Err = range []error{errors.New("damaged"), &window.NotHeldError{After: 3}} {
		if _, ok := c.noteDropped(dropped); ok || said.Len() > 0 {
			t.Errorf("%v: it goes on, and says %q", dropped.Err, said.String())
		}
	}
	dropped.Err = fmt.Errorf("read: %w", &window.NotHeldError{After: 3, Oldest: 7, Some: true})
	for end, unfinished := range map[string]bool{"; its unfinished events are lost\n": true, "; its unfinished events may be lost\n": false} {
		said.Reset()
		dropped.Unfinished = unfinished
		oldest, ok := c.noteDropped(dropped)
		if want := "rstream: history of u/x from 0000000000003 to 0000000000007 is no longer in "; !ok || oldest != 7 || !strings.HasPrefix(said.String(), want) || !strings.HasSuffix(said.String(), end) {
			t.Errorf("it goes on: %t, after %s, and says %q", ok, oldest, said.String())
		}
	}
}

// A consumer that ends counts each event that it gave up once, and a gap has the greater status.
func TestEndStatus(t *testing.T) {
	dead := map[event.ID]bool{}
	fail := countDead(dead, func(deliver.Failure) {})
	c := &consumption{}
	for _, step := range []struct {
		id     event.ID
		gaps   bool
		status int
		text   string
	}{{0, false, exitDone, ""}, {0, true, exitGap, ""}, {5, false, exitFailed, "1 event was given up"}, {5, true, exitGap, "1 event was given up"}, {6, false, exitFailed, "2 events were given up"}} {
		fail(deliver.Failure{Event: &event.Event{ID: step.id}, Events: 1, Dead: step.id > 0})
		c.hasGaps = func() bool { return step.gaps }
		exit := &exitError{}
		if err := c.endStatus(len(dead)); err != nil && !errors.As(err, &exit) || exit.status != step.status || exit.text != step.text {
			t.Errorf("%+v: %+v", step, exit)
		}
	}
}
