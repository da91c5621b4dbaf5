//go:build unix

package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// holdEvents makes a range of a topic held, with an event each at some positions. The time of
// event id is start plus id minutes.
func holdEvents(t *testing.T, db *cache.DB, topic string, span window.Span, start time.Time, ids ...event.ID) {
	t.Helper()
	at, err := event.ParseTopic(topic)
	if err != nil {
		t.Fatal(err)
	}
	l, _, err := db.Leases().Claim(t.Context(), []event.Topic{at}, span)
	if err != nil {
		t.Fatal(err)
	}
	var evs []event.Event
	for _, id := range ids {
		d := event.Draft{User: topic, Path: "x", Type: event.Put, Key: id.String(), Value: []byte("1")}
		evs = append(evs, event.New(id, event.TimeOf(start.Add(time.Duration(id)*time.Minute)), d, d.Hash()))
	}
	if _, err := l.Apply(t.Context(), evs, span.To); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A range between two times is complete only if the copy holds all events that may be in it. What
// is after the newest event that the copy has, nobody can tell.
func TestTimesOfRangeNotHeld(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, dir)
	}
	path, start := filepath.Join(dir, "copy.db"), time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	db, err := cache.Open(t.Context(), path, cache.Config{Role: cache.Client, Log: "0123456789ABCDEF"})
	if err != nil {
		t.Fatal(err)
	}
	holdEvents(t, db, "alice", window.Span{To: 100}, start, 10, 60, 90)
	holdEvents(t, db, "alice", window.Span{From: 200, To: 300}, start, 210, 290)
	holdEvents(t, db, "bob", window.Span{From: 300, To: 900}, start, 310, 890)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	at := func(id int) string {
		return start.Add(time.Duration(id)*time.Minute + time.Second).Format(time.RFC3339)
	}
	for _, c := range []struct {
		since, until string
		count        int
		gaps         string // in standard error
	}{
		{at(5), at(60), 2, ""},
		{at(5), at(75), 2, ""},
		{at(5), at(150), 3, "not held: events between 0000000000034 and 0000000000068"},
		{at(120), at(150), 0, "not held: events between 0000000000034 and 0000000000068"},
		{at(250), at(260), 0, ""},
		{at(205), at(295), 2, "not held: events between 0000000000034 and 0000000000068"},
		{at(215), at(700), 1, "not held: events between 000000000009C and 00000000000VS"},
		{at(215), at(5000), 1, "not held: events between 000000000009C and 00000000000VT"},
		{at(400), at(700), 0, "not held: events between 000000000009P and 00000000000VS"},
		{at(215), "", 1, ""},
		{at(215), "now", 1, ""},
		{at(215), "3000-01-01", 1, ""},
		{"3000-01-01", "", 0, ""},
		{"1h", "", 0, "the copy holds alice only up to 000000000009C, before --since 1h0m0s"},
		{at(400), "", 0, "the copy holds alice only up to 000000000009C, before --since "},
		{at(400), "now", 0, "the copy holds alice only up to 000000000009C, before --since "},
		{at(400), "3000-01-01", 0, "the copy holds alice only up to 000000000009C, before --since "},
		{"1h", "5m", 0, "the copy holds alice only up to 000000000009C, before --since 1h0m0s"},
	} {
		args := []string{"alice", "--cache", path}
		if c.since != "" {
			args = append(args, "--since", c.since)
		}
		if c.until != "" {
			args = append(args, "--until", c.until)
		}
		for _, command := range []string{"log", "export"} {
			r := runCommand(t, append([]string{command}, args...)...)
			want := exitDone
			if c.gaps != "" {
				want = exitGap
			}
			if got := strings.Count(r.out, `"user":"alice"`); r.status != want || got != c.count || !strings.Contains(r.err, c.gaps) || c.gaps == "" && r.err != "" {
				t.Errorf("%s %q: %d events, want %d, and %q: %+v", command, args, got, c.count, c.gaps, r)
			}
		}
	}
	if r := runCommand(t, "log", "alice", "--cache", path, "--since", at(895), "--until", at(400)); r.status != exitUsage || !strings.Contains(r.err, "lies after --until") {
		t.Errorf("an end before the beginning: %+v", r)
	}
	// A topic that ends before the range is no reason to leave out another one.
	r := runCommand(t, "export", "alice", "bob", "--since", at(400), "--cache", path)
	if got := strings.Count(r.out, `"user":"bob"`); r.status != exitGap || got != 1 || !strings.Contains(r.err, "the copy holds alice only up to 000000000009C, before --since ") {
		t.Errorf("export of two topics: %+v", r)
	}
}
