//go:build unix

package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/server"
)

var tailRounds = flag.Int("tail.rounds", 0, "how often a named tail is ended in each test; if 0, 2, 8 with -long, and 50 with -full")

func roundsOfTail() int {
	if *tailRounds > 0 {
		return *tailRounds
	}
	return longtest.Scale(2, 8, 50)
}

// A rig is a server with a log and a program that tails it by name. The test itself is
// the reader, so it knows exactly what was read.
type rig struct {
	*testing.T
	program string
	url     string
	copy    string
	lines   []string // the lines of the log: id n is at n-1
	rand    *rand.Rand

	r, w    *os.File // the pipe
	cmd     *exec.Cmd
	errs    *bytes.Buffer
	behind  int // bytes between the cursor and the reader after the last tail
	done    chan error
	read    int  // lines of the log read completely, without a hole
	exact   bool // the next line read must be the next of the log
	unknown bool // a killed tail may have written lines to the pipe that its cursor does not know of
	repeats int
}

func newRig(t *testing.T, seed uint64, drafts []event.Draft) *rig {
	t.Helper()
	t.Logf("seed %d", seed)
	dir := t.TempDir()
	log, err := cache.Open(t.Context(), filepath.Join(dir, "server.db"), cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	receipts, err := log.Append(t.Context(), drafts)
	if err != nil {
		t.Fatal(err)
	}
	handler := server.New(log, server.Config{})
	srv := httptest.NewServer(handler)
	t.Cleanup(func() {
		handler.Stop()
		srv.Close()
		log.Close()
	})
	g := &rig{T: t, program: filepath.Join(dir, "rstream"), url: srv.URL, copy: filepath.Join(dir, "copy.db"),
		rand: rand.New(rand.NewPCG(seed, 0))}
	for i := range receipts {
		g.lines = append(g.lines, string(receipts[i].Line()))
	}
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, g.program) // under this name, the test binary is the program
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.closePipe)
	return g
}

// smallDrafts returns events of which a pipe holds about three hundred; every largeth
// of them is larger than a piece.
func smallDrafts(n, large int) (ds []event.Draft) {
	for i := range n {
		value := fmt.Sprint(i)
		if large > 0 && i%large == large-1 {
			value = `"` + strings.Repeat("x", 9000+i) + `"`
		}
		ds = append(ds, event.Draft{User: "alice", Path: "n", Type: event.Put, Key: fmt.Sprint("k", i), Value: []byte(value)})
	}
	return ds
}

func (g *rig) openPipe() {
	g.Helper()
	if g.r != nil {
		return
	}
	var err error
	if g.r, g.w, err = os.Pipe(); err != nil {
		g.Fatal(err)
	}
}

// closePipe closes the reader and drops the unread bytes.
func (g *rig) closePipe() {
	if g.r != nil {
		g.r.Close()
		g.w.Close()
	}
	g.r, g.w, g.unknown = nil, nil, false
}

// start starts the tail into a file, or into the pipe.
func (g *rig) start(to *os.File, args ...string) {
	g.Helper()
	if to == nil {
		g.openPipe()
		to = g.w
	}
	g.errs = new(bytes.Buffer)
	g.cmd = exec.Command(g.program, append([]string{"tail", "alice", "--name", "mine", "-s", g.url, "--cache", g.copy, "-o", "json"}, args...)...)
	g.cmd.Env = append(os.Environ(), "HOME="+filepath.Dir(g.copy), "XDG_CONFIG_HOME=", "XDG_DATA_HOME=")
	g.cmd.Stdout, g.cmd.Stderr = to, g.errs
	if err := g.cmd.Start(); err != nil {
		g.Fatal(err)
	}
	g.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(g.cmd, g.done)
	g.Cleanup(func() { g.cmd.Process.Kill() })
}

// ended waits until the tail ends.
func (g *rig) ended() int {
	g.Helper()
	select {
	case err := <-g.done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			g.Fatal(err)
		}
		return g.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		g.Fatalf("the tail has not ended after %s: %s", patience, g.errs)
	}
	return 0
}

// take reads n more lines of the log, or fewer if the writers are gone. It reads no
// byte beyond them.
func (g *rig) take(n int) {
	g.Helper()
	for goal := min(g.read+n, len(g.lines)); g.read < goal; {
		line, err := g.readLine()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			g.Fatalf("read line %d: %v; the tail says %s", g.read+1, err, g.errs)
		}
		g.check(line)
	}
}

// check checks a line that was read. A partial line does not count, whatever follows
// it.
func (g *rig) check(line string) {
	g.Helper()
	const id = `{"id":"0000000000001"`
	var at event.ID
	if len(line) > len(id) {
		at, _ = event.ParseID(line[7:20])
	}
	switch n := int(at); {
	case n == 0 || n > len(g.lines) || g.lines[n-1] != line:
		return
	case n > g.read+1:
		g.Fatalf("after line %d comes line %d", g.read, n)
	case n <= g.read && g.exact:
		g.Fatalf("line %d comes again after an orderly end; %d were read", n, g.read)
	case n <= g.read:
		g.repeats++
	default:
		g.read = n
	}
}

// readLine reads one byte at a time, as a shell does.
func (g *rig) readLine() (string, error) {
	if err := g.r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(g.r, b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
}

// position returns the position of the cursor.
func (g *rig) position() int {
	g.Helper()
	return int(g.cursor().Position)
}

func (g *rig) cursor() (c cache.CursorInfo) {
	g.Helper()
	db, err := cache.Open(context.Background(), g.copy, cache.Config{})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, cache.ErrNoLog) {
		return c // the tail has not created the copy yet
	}
	if err != nil {
		g.Fatal(err)
	}
	defer db.Close()
	cursors, err := db.Cursors(context.Background())
	if err != nil {
		g.Fatal(err)
	}
	if len(cursors) > 0 {
		c = cursors[0]
	}
	return c
}

// until waits until the cursor satisfies a condition.
func (g *rig) until(what string, done func(cache.CursorInfo) bool) {
	g.Helper()
	look := time.NewTicker(20 * time.Millisecond) // each look opens the file
	defer look.Stop()
	for deadline := time.After(patience); !done(g.cursor()); {
		select {
		case <-look.C:
		case <-deadline:
			g.Fatalf("waited %s in vain: %s; the cursor is %+v, %d lines were read: %s", patience, what, g.cursor(), g.read, g.errs)
		}
	}
}

// isRecorded reports whether the cursor knows all bytes in the pipe, and the pipe is
// too full for more: unrecorded bytes make the next tail cautious.
func (g *rig) isRecorded() bool {
	g.Helper()
	db, err := sql.Open("sqlite", "file:"+g.copy+"?_pragma=busy_timeout(10000)")
	if err != nil {
		g.Fatal(err)
	}
	defer db.Close()
	var state []byte
	if err := db.QueryRow(`SELECT state FROM cursor WHERE name = 'mine'`).Scan(&state); err != nil {
		g.Fatal(err)
	}
	o := newOutlet(g.w)
	queued, ok := o.queued()
	pipe := decodeState(state).Pipe
	if !ok || pipe == nil || queued < 15*(pipePiece-2*int64(len(g.lines[0]))) {
		return false
	}
	written := -pipe.Taken
	for i := 0; i < len(pipe.Lines); i += 2 {
		written += pipe.Lines[i]
	}
	return written == queued
}

// bytesBetween returns the length of the lines after one position, up to another.
func (g *rig) bytesBetween(from, to int) (n int) {
	for _, line := range g.lines[from:to] {
		n += len(line) + 1
	}
	return n
}

// An ending is a way to end a tail, and what must hold then.
type ending struct {
	name   string
	signal syscall.Signal // if 0, the reader leaves
	status int
}

var endings = []ending{{"KILL", syscall.SIGKILL, -1}, {"TERM", syscall.SIGTERM, 0}, {"INT", syscall.SIGINT, 130},
	{"HUP", syscall.SIGHUP, 129}, {"the reader leaves", 0, 0}}

// finish ends the tail after the reader has stopped, and checks the cursor: it never
// passes unread lines.
func (g *rig) finish(e ending, before int) {
	g.Helper()
	if e.signal == 0 {
		g.closePipe()
	} else if err := g.cmd.Process.Signal(e.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		g.Fatal(err)
	}
	if got := g.ended(); got != e.status {
		g.Fatalf("%s: status %d, want %d: %s", e.name, got, e.status, g.errs)
	}
	at := g.position()
	if at > g.read {
		g.Fatalf("%s: the cursor is at %d, %d lines were read", e.name, at, g.read)
	}
	if runtime.GOOS != "linux" {
		return // the position of the reader can only be guessed
	}
	ordered := e.signal != 0 && e.signal != syscall.SIGKILL
	g.exact = ordered && !g.unknown
	if g.exact && at != g.read {
		g.Fatalf("%s: the cursor is at %d, %d lines were read", e.name, at, g.read)
	}
	line := len(g.lines[min(at, len(g.lines)-1)]) + 1 // the line that begins before the repeated bytes
	back, most := g.bytesBetween(min(at, before), before), 0
	if e.signal == 0 {
		most = readerBuffer + line
	}
	if back > most {
		g.Fatalf("%s: the cursor went back from %d to %d", e.name, before, at)
	}
	// The bound adds up the pipe's content, known and unknown; the bytes read before
	// the cursor first moved; the bytes a reader may not have processed; and those
	// read, but not recorded, when the previous tail was killed.
	behind := g.bytesBetween(at, g.read)
	if most = g.behind + 3*readerBuffer + line; (ordered || e.signal == 0) && behind > most {
		g.Fatalf("%s: the cursor is at %d, %d lines were read", e.name, at, g.read)
	}
	g.behind = behind
	g.unknown = g.unknown || e.signal == syscall.SIGKILL
}

// However a named tail ends, no line is lost; an orderly end repeats none.
func TestNamedTailLosesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		onePipe bool
		large   int
	}{
		"one pipe":                {true, 0},
		"a pipe each":             {false, 0},
		"one pipe, long lines":    {true, longtest.Size(25, 7)},
		"a pipe each, long lines": {false, longtest.Size(25, 7)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rounds := roundsOfTail()
			g := newRig(t, rand.Uint64(), smallDrafts(450+60*rounds, c.large))
			for range rounds {
				g.round(c.onePipe)
			}
			g.start(nil, "--until-live")
			g.take(len(g.lines))
			if got := g.ended(); got != 0 || g.read != len(g.lines) || g.position() != len(g.lines) {
				t.Fatalf("status %d, %d of %d lines, the cursor at %d: %s", got, g.read, len(g.lines), g.position(), g.errs)
			}
			t.Logf("%d lines, %d repeated", g.read, g.repeats)
		})
	}
}

// round starts a tail, reads some lines and ends it.
func (g *rig) round(onePipe bool) {
	g.Helper()
	before := g.position()
	if g.rand.IntN(8) == 0 {
		g.fullDisk(before)
		return
	}
	g.start(nil)
	e, n := endings[g.rand.IntN(len(endings))], g.rand.IntN(120)
	if e.signal != syscall.SIGKILL {
		n++ // so that the cursor reaches the reader
	}
	g.take(n)
	if e.status >= 0 { // it must have set up its signals
		g.until("the tail has begun", func(c cache.CursorInfo) bool { return c.Held })
	}
	g.finish(e, before)
	if !onePipe && g.r != nil {
		g.closePipe() // the unread bytes are gone
	}
}

// fullDisk lets the tail write to a full device.
func (g *rig) fullDisk(before int) {
	g.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return // only Linux has it
	}
	if err != nil {
		g.Fatal(err)
	}
	defer full.Close()
	g.start(full)
	if got := g.ended(); got != 1 || !strings.Contains(g.errs.String(), "write standard output: no space left on device") {
		g.Fatalf("status %d: %s", got, g.errs)
	}
	if at := g.position(); at != before {
		g.Fatalf("the cursor went from %d to %d, nothing could be written", before, at)
	}
	g.exact, g.unknown = false, true // the cursor now refers to another outlet
}

// The cursor follows the reader line by line, and after a kill no line before the
// cursor is repeated. Into the same pipe, not even its unread lines are repeated.
func TestCursorFollowsReader(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Log("the system does not tell what waits in a pipe")
		return
	}
	for name, onePipe := range map[string]bool{"one pipe": true, "a pipe each": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t, 1, smallDrafts(800, 0))
			for _, n := range []int{1, 2, 120, 121, 350} {
				g.start(nil)
				g.take(n - g.read)
				g.until(fmt.Sprintf("the cursor is at %d", n), func(c cache.CursorInfo) bool { return int(c.Position) == n && (!onePipe || g.isRecorded()) })
				g.finish(endings[0], n)
				if !onePipe {
					g.closePipe()
				}
			}
			// There may be a write that was not yet recorded.
			most := 5 * (pipePiece / len(g.lines[0]))
			if !onePipe {
				most = 0
			}
			g.start(nil, "--until-live")
			g.take(len(g.lines))
			if got := g.ended(); got != 0 || g.read != len(g.lines) || g.repeats > most {
				t.Errorf("status %d, %d lines, %d repeated, want at most %d", got, g.read, g.repeats, most)
			}
		})
	}
}

// A tail that has printed everything waits for its reader, so the next one repeats
// nothing.
func TestNamedTailWaitsForReader(t *testing.T) {
	inParallel(t)
	g := newRig(t, 1, smallDrafts(200, 0))
	g.start(nil, "--until-live")
	g.take(199)
	if runtime.GOOS == "linux" {
		g.until("the cursor is at 199", func(c cache.CursorInfo) bool { return c.Position == 199 })
	}
	g.take(1)
	if got := g.ended(); got != 0 || g.position() != 200 {
		t.Fatalf("status %d, the cursor is at %d: %s", got, g.position(), g.errs)
	}
}

// Two tails with different names write to one pipe: each line arrives from both, and
// neither cursor passes unread lines.
func TestTwoTailsOnePipe(t *testing.T) {
	inParallel(t)
	g := newRig(t, 1, smallDrafts(1000, 0))
	g.start(nil, "--until-live")
	other := *g
	other.copy += "2" // otherwise identical: its lines count as repeated
	other.start(nil, "--until-live")
	g.w.Close()
	g.take(len(g.lines))
	for range len(g.lines) - g.repeats {
		line, err := g.readLine()
		if err != nil {
			t.Fatalf("after %d lines and %d repeated: %v", g.read, g.repeats, err)
		}
		g.check(line)
	}
	for _, tail := range []*rig{g, &other} {
		if got := tail.ended(); got != 0 || tail.position() != len(g.lines) {
			t.Errorf("status %d, the cursor is at %d: %s", got, tail.position(), tail.errs)
		}
	}
}

// A named pipe loses its content when it is closed: unread lines never count as read.
func TestNamedPipeForgets(t *testing.T) {
	inParallel(t)
	g := newRig(t, 1, smallDrafts(1000, 0))
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() {
		var err error
		if g.r, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil {
			g.w, err = os.OpenFile(path, os.O_WRONLY, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	open()
	g.start(nil)
	g.take(5)
	g.until("five lines are taken", func(c cache.CursorInfo) bool { return c.Position >= 5 || runtime.GOOS != "linux" })
	if err := g.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	g.ended()
	g.closePipe()
	open()
	g.start(nil, "--until-live")
	g.take(len(g.lines))
	if got := g.ended(); got != 0 || g.read != len(g.lines) {
		t.Fatalf("status %d, %d lines: %s", got, g.read, g.errs)
	}
}

// Half a line at the end of a file, left by a full disk, is not joined with the next
// line.
func TestHalfLineInFile(t *testing.T) {
	inParallel(t)
	g := newRig(t, 1, smallDrafts(3, 0))
	path := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(path, []byte(g.lines[0]+"\n"+g.lines[1][:20]), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second one adds nothing
		f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		g.start(f, "--until-live")
		f.Close()
		if got := g.ended(); got != 0 {
			t.Fatalf("status %d: %s", got, g.errs)
		}
	}
	got, err := os.ReadFile(path)
	want := g.lines[0] + "\n" + g.lines[1][:20] + "\n" + strings.Join(g.lines, "\n") + "\n"
	if err != nil || string(got) != want {
		t.Errorf("the file has\n%s\nwant\n%s", got, want)
	}
}
