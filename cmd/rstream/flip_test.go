//go:build unix

package main

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/internal/server"
)

// flips is how many bits are flipped, one at a time: half of them in a server's file. By
// default, the tables take turns from run to run.
func flips() int { return longtest.Scale(2, 24, 100) }

// flippedTables are the tables and indexes in which bits are flipped.
var flippedTables = []string{"page", "page_posting", "page_stretch", "window", "log", "cursor"}

// A flipTrial flips bits of a log's file and of a copy, and runs the program on them.
type flipTrial struct {
	t           *testing.T
	dir         string
	log, copied []byte
	spots       map[string]map[string][]pagetest.Spot // of "log" and "copied", by table, once asked for
	url         string                                // of a server with a sound file
	truth       []string                              // the lines of all events
	where       string                                // the bit that is flipped
	column      bool                                  // it is in a column, not in SQLite's structure
	checked     bool                                  // a checksum covers it
	counts      map[string]int
}

// Whatever bit of a page, a posting, an index, a window, a cursor or the row of the log is
// flipped, no command prints a wrong line, none leaves out a line and exits with status 0,
// and the server takes appends. Where SQLite's own structure is hit, a line that is left out
// is found by verify --offline.
func TestFlippedBitsOfTheProgram(t *testing.T) {
	f := newFlipTrial(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	first := random.IntN(len(flippedTables))
	for i := range flips() {
		of, file, try := "log", f.log, f.tryLog
		if i%2 == 1 {
			of, file, try = "copied", f.copied, f.tryCopy
		}
		table := flippedTables[(first+i/2)%len(flippedTables)]
		spots := f.spotsOf(of, file, table)
		if len(spots) == 0 {
			table = "page"
			spots = f.spotsOf(of, file, table)
		}
		s, bit := spots[random.IntN(len(spots))], random.IntN(8)
		f.where = fmt.Sprintf("%s, bit %d of byte %d of %s (in a column: %v)", of, bit, s.At, table, s.Column)
		f.column, f.checked = s.Column, s.Column && table != "page_stretch"
		b := bytes.Clone(file)
		b[s.At] ^= 1 << bit
		end := f.expectEnd()
		try(b)
		end()
	}
	t.Log(f.counts)
}

// expectEnd ends the test program, with the places of all goroutines, unless end is called
// soon: a loop over a damaged file may never end, and nothing else would say which bit it was.
func (f *flipTrial) expectEnd() (end func()) {
	debug.SetTraceback("all")
	dog := time.AfterFunc(2*time.Minute, func() { panic(f.where + ": it does not end") })
	return func() { dog.Stop() }
}

func newFlipTrial(t *testing.T) *flipTrial {
	f := &flipTrial{t: t, dir: t.TempDir(), spots: map[string]map[string][]pagetest.Spot{}, counts: map[string]int{}}
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, f.dir)
	}
	path := filepath.Join(f.dir, "log.db")
	db := openNewLog(t, path)
	for from := 0; from < 4800; from += 600 {
		var drafts []event.Draft
		for i := from; i < from+600; i++ {
			drafts = append(drafts, event.Draft{User: []string{"alice", "bob"}[i%2], Path: fmt.Sprint("x/", i%7), Type: event.Put,
				Key: fmt.Sprint(i), Value: fmt.Appendf(nil, `{"n":%d}`, i)})
		}
		receipts, err := db.Append(t.Context(), drafts)
		if err != nil {
			t.Fatal(err)
		}
		for i := range receipts {
			f.truth = append(f.truth, string(receipts[i].Event.Line()))
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f.log = f.read(path)
	f.url = f.serve(path)
	copied := filepath.Join(f.dir, "copy.db")
	for _, args := range [][]string{{"sync", "bob"}, {"sync", "alice/x/1", "--since", "24h"}, {"sync", "alice"}, {"cursor", "set", "mine", "beginning", "alice"}} {
		if r := runCommand(t, append(args, "--cache", copied, "-s", f.url)...); r.status != exitDone {
			t.Fatalf("%s: %+v", args, r)
		}
	}
	f.copied = f.read(copied)
	f.spots["log"], f.spots["copied"] = map[string][]pagetest.Spot{}, map[string][]pagetest.Spot{}
	return f
}

// spotsOf returns the spots of a table in a sound file, which take a while to find.
func (f *flipTrial) spotsOf(of string, file []byte, table string) []pagetest.Spot {
	f.t.Helper()
	if spots, found := f.spots[of][table]; found {
		return spots
	}
	pool, err := sql.Open("sqlite", "file:"+f.write("spots.db", file)+"?immutable=1")
	if err != nil {
		f.t.Fatal(err)
	}
	defer pool.Close()
	spots, err := pagetest.Spots(pool, file, table)
	if err != nil {
		f.t.Fatal(err)
	}
	f.spots[of][table] = spots
	return spots
}

func (f *flipTrial) read(path string) []byte {
	f.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

// write writes a file of the trial, and removes SQLite's files next to it.
func (f *flipTrial) write(name string, b []byte) (path string) {
	f.t.Helper()
	path = filepath.Join(f.dir, name)
	for _, suffix := range []string{"-wal", "-shm", "-journal", ".owners", ".lock"} {
		_ = os.Remove(path + suffix) // usually there is none
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// serve serves a log until the test ends.
func (f *flipTrial) serve(path string) (url string) {
	f.t.Helper()
	url, stop, err := f.tryServe(path)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(stop)
	return url
}

func (f *flipTrial) tryServe(path string) (url string, stop func(), err error) {
	db, err := cache.Open(f.t.Context(), path, cache.Config{Role: cache.Server})
	if err != nil {
		return "", nil, err
	}
	srv := server.New(db, server.Config{})
	http := httptest.NewServer(srv)
	return http.URL, func() {
		srv.Stop()
		http.CloseClientConnections()
		http.Close()
		db.Close()
	}, nil
}

// linesOf returns the lines of the events of a topic.
func (f *flipTrial) linesOf(name string) (lines []string) {
	topic, err := event.ParseTopic(name)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, line := range f.truth {
		if s, err := event.Skim([]byte(line)); err != nil || topic.Matches(string(s.User), string(s.Path)) {
			lines = append(lines, line)
		}
	}
	return lines
}

// stateOf returns the lines of the state of a topic.
func (f *flipTrial) stateOf(name string) (lines []string) {
	last := map[event.Storage]string{}
	for _, line := range f.linesOf(name) {
		s, err := event.Skim([]byte(line))
		if err != nil {
			f.t.Fatal(err)
		}
		last[event.Storage{User: string(s.User), Path: string(s.Path)}] = line
	}
	for _, line := range last {
		lines = append(lines, line)
	}
	return lines
}

// check checks what was printed: all lines are events of the log, and if it was not said
// that something is missing, want is among them. It reports whether a line was left out in
// silence.
func (f *flipTrial) check(what, out string, said bool, want []string) (silent bool) {
	f.t.Helper()
	printed := map[string]bool{}
	for line := range strings.Lines(out) {
		line, whole := strings.CutSuffix(line, "\n")
		if !whole && said || !strings.HasPrefix(line, `{"id":`) {
			continue // an answer was cut short
		}
		if _, found := slices.BinarySearch(f.truth, line); !found {
			f.t.Errorf("%s: %s: a wrong line: %s", f.where, what, line)
		}
		printed[line] = true
	}
	left := 0
	for _, line := range want {
		if !printed[line] {
			left++
		}
	}
	if said {
		f.counts["said"]++
	}
	if left == 0 || said {
		return false
	}
	if f.checked {
		f.t.Errorf("%s: %s: %d of %d lines are left out in silence", f.where, what, left, len(want))
	}
	return true
}

// run runs a command, and checks its output and its status.
func (f *flipTrial) run(want []string, args ...string) (r ran, silent bool) {
	f.t.Helper()
	r = runCommand(f.t, args...)
	if r.status != exitDone && r.status != exitGap && !strings.Contains(r.err, "rstream: error: ") {
		f.t.Errorf("%s: %s: status %d: %s", f.where, strings.Join(args, " "), r.status, r.err)
	}
	return r, f.check(strings.Join(args, " "), r.out, r.status != exitDone, want)
}

// get asks a server, and checks its answer.
func (f *flipTrial) get(url string, want []string) (silent bool) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Accept", "application/x-ndjson")
	resp, err := http.DefaultClient.Do(req)
	if err != nil { // the answer ended before its header
		return f.check(url, "", true, want)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	said := err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Rstream-Next") != resp.Header.Get("Rstream-To")
	return f.check(url, string(b), said, want)
}

// tryLog tries a log's file in which a bit is flipped.
func (f *flipTrial) tryLog(b []byte) {
	path := f.write("flipped.db", b)
	silent := false
	note := func(s bool) { silent = silent || s }
	backup := filepath.Join(f.dir, "backup.db")
	r, _ := f.run(nil, "backup", backup, "--db", path)
	f.counts["backed up"] += 1 - r.status
	_ = os.Remove(backup)
	checked, _ := f.run(nil, "verify", "--offline", "--db", path)
	url, stop, err := f.tryServe(path)
	if err != nil {
		if f.counts["not served"]++; f.column {
			f.t.Errorf("%s: it is not served: %v", f.where, err)
		}
		return
	}
	defer stop()
	note(f.get(url+"/events?topic=*", f.linesOf("*")))
	note(f.get(url+"/snapshot?topic=*", f.stateOf("*")))
	fresh := f.write("fresh.db", nil)
	if err := os.Remove(fresh); err != nil {
		f.t.Fatal(err)
	}
	// A client would wait for the server to be repaired.
	at := []string{"--cache", fresh, "-s", url, "--timeout", "300ms"}
	run := func(want []string, args ...string) {
		f.t.Helper()
		_, s := f.run(want, append(args, at...)...)
		note(s)
	}
	run(f.linesOf("*"), "sync", "*", "--print")
	run(f.linesOf("bob/x/3$"), "tail", "bob/x/3$", "--since", "beginning", "--until-live")
	run(nil, "get", "alice/x/2", "--events")
	run(f.stateOf("alice"), "state", "alice")
	run(nil, "status")
	run(nil, "windows")
	if silent && checked.status == exitDone {
		f.t.Errorf("%s: verify --offline says that it is sound", f.where)
	}
	if r := runCommand(f.t, "put", "alice/x/1", `{"n":"appended"}`, "-s", url, "--timeout", "5s"); r.status != exitDone {
		if f.counts["append refused"]++; f.column {
			f.t.Errorf("%s: append: %+v", f.where, r)
		}
	}
}

// tryCopy tries a copy in which a bit is flipped.
func (f *flipTrial) tryCopy(b []byte) {
	silent := false
	for _, c := range []struct {
		want []string
		args []string
	}{
		{f.linesOf("*"), []string{"log", "alice", "bob"}},
		{f.linesOf("*"), []string{"export", "alice", "bob"}},
		{f.linesOf("bob/x/3$"), []string{"log", "bob/x/3$"}},
		{f.stateOf("alice"), []string{"state", "alice"}},
		{f.linesOf("alice/x/1$"), []string{"get", "alice/x/1", "--events"}},
		{f.linesOf("alice"), []string{"tail", "alice", "--name", "mine", "--until-live"}},
		{nil, []string{"cursor"}},
		{nil, []string{"windows"}},
		{nil, []string{"status"}},
		{nil, []string{"verify"}},
		{f.linesOf("bob"), []string{"tail", "bob", "--since", "beginning", "--until-live"}},
	} {
		path := f.write("flipped.db", b) // a command may repair it
		_, s := f.run(c.want, append(c.args, "--cache", path, "-s", f.url)...)
		silent = silent || s
	}
	if silent {
		if r, _ := f.run(nil, "verify", "--offline", "--cache", f.write("flipped.db", b)); r.status == exitDone {
			f.t.Errorf("%s: verify --offline says that it is sound", f.where)
		}
		f.counts["found by a check alone"]++
	}
	f.sync(f.write("flipped.db", b))
}

// sync syncs a copy in which a bit is flipped. If that succeeds, all events are held.
func (f *flipTrial) sync(path string) {
	r, _ := f.run(nil, "sync", "alice", "bob", "--cache", path, "-s", f.url)
	if r.status != exitDone {
		return
	}
	f.run(f.linesOf("*"), "log", "alice", "bob", "--cache", path)
}
