//go:build unix

package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// newDoubted returns a copy whose first events are gone and in doubt, and its server.
func newDoubted(t *testing.T) (path, url string) {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, dir)
	}
	path, url = filepath.Join(dir, "copy.db"), serveEvents(t, filepath.Join(dir, "log.db"), 20)
	if r := runCommand(t, "sync", "--cache", path, "-s", url); r.status != exitDone {
		t.Fatal(r)
	}
	deleteEvents(t, path, 1, 2, 3)
	db := openCopy(t, path)
	if differs, err := db.Doubt(t.Context(), event.All, window.Span{To: 3}, window.Digest{}); err != nil || !differs {
		t.Fatalf("the digest of the gap differs: %v, %v", differs, err)
	}
	return path, url
}

func openCopy(t *testing.T, path string) *cache.DB {
	t.Helper()
	db, err := cache.Open(t.Context(), path, cache.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// A tail reports a doubt about its range that lies before the first event that is held.
func TestTailDoubtBeforeFirstEvent(t *testing.T) {
	path, url := newDoubted(t)
	for since, status := range map[string]int{"beginning": exitGap, "0000000000001": exitGap, "0000000000003": exitDone, "000000000000A": exitDone} {
		r := runCommand(t, "tail", "--all", "--since", since, "--until-live", "--cache", path, "-s", url)
		if r.status != status || strings.Contains(r.err, "differs from the server") != (status == exitGap) {
			t.Errorf("since %s: %+v", since, r)
		}
	}
}

// A batch without events is no reason to doubt what is before it.
func TestTailDoubtOfQuietTopic(t *testing.T) {
	path, _ := newDoubted(t)
	db := openCopy(t, path)
	p := tailPrinter{a: &app{quiet: true}, s: &session{db: db}, topics: []event.Topic{event.All}}
	for _, b := range []client.Batch{{From: 20, Position: 20}, {From: 20, Position: 21}} {
		if err := p.passDoubt(t.Context(), &b); err != nil || p.doubt != nil {
			t.Errorf("%+v: %v, %v", b, err, p.doubt)
		}
	}
	if err := p.passDoubt(t.Context(), &client.Batch{From: 2, Position: 4}); err != nil || p.doubt == nil {
		t.Errorf("no doubt is noted: %v", err)
	}
}

// A difference of two states is as doubtful as the older of them, also if the newer one is built
// from a fetched state.
func TestDiffDoubtOfOlderState(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, dir)
	}
	path, url := filepath.Join(dir, "copy.db"), serveEvents(t, filepath.Join(dir, "log.db"), 20)
	for _, span := range [][]string{{"--until", "0000000000008"}, {"--since", "000000000000C"}} {
		if r := runCommand(t, append([]string{"sync", "*", "--cache", path, "-s", url}, span...)...); r.status != exitDone {
			t.Fatal(r)
		}
	}
	deleteEvents(t, path, 1, 2)
	db := openCopy(t, path)
	if differs, err := db.Doubt(t.Context(), event.All, window.Span{To: 2}, window.Digest{}); err != nil || !differs {
		t.Fatalf("the digest of the gap differs: %v, %v", differs, err)
	}
	w, _, err := db.Snapshots().KeepSnapshot(t.Context(), event.All, 12)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]int{"--at 000000000000K": exitDone, "--at 0000000000006": exitGap, "--diff 0000000000006 --at 000000000000K": exitGap,
		"--diff 000000000000E --at 000000000000K": exitDone} {
		r := runCommand(t, append([]string{"state", "*", "--cache", path, "-s", url}, strings.Fields(args)...)...)
		if r.status != want || strings.Contains(r.err, "differs from the server") != (want == exitGap) {
			t.Errorf("%s: want status %d: %+v", args, want, r)
		}
	}
}
