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
	for _, err := range []error{errors.New("damaged"), &window.NotHeldError{After: 3}} {
		if _, ok := c.noteDropped(event.Storage{User: "u", Path: "x"}, err); ok || said.Len() > 0 {
			t.Errorf("%v: it goes on, and says %q", err, said.String())
		}
	}
	gone := &window.NotHeldError{After: 3, Oldest: 7, Some: true}
	oldest, ok := c.noteDropped(event.Storage{User: "u", Path: "x"}, fmt.Errorf("read: %w", gone))
	if want := "rstream: history of u/x from 0000000000003 to 0000000000007 is no longer in "; !ok || oldest != 7 || !strings.HasPrefix(said.String(), want) {
		t.Errorf("it goes on: %t, after %s, and says %q", ok, oldest, said.String())
	}
}
