//go:build unix

package main

import (
	"bufio"
	"database/sql"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/sourcetest"
)

// A stream like that of Wikimedia's recent changes is cut ten times, and the tail of it that
// prints into jq is killed twice, each time within a burst of changes. jq gets each change, in
// order, and after SIGTERM each once. After SIGKILL a run may begin with lines of the one before,
// but with none from before the burst, since their cursor was stored. The file has each change
// once, for SQL, too.
func TestSourceTailKilled(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			if back := killSourceTail(t, signal); back > 0 && signal == syscall.SIGTERM {
				t.Errorf("%d changes were printed again", back)
			}
		})
	}
}

// killSourceTail kills tails with a signal, and returns how many lines were printed again.
func killSourceTail(t *testing.T, signal syscall.Signal) (back int) {
	const bursts, burst, cuts = 3, 110, 10
	var released, cut atomic.Int64
	released.Store(burst)
	hub := httptest.NewServer(&sourcetest.Stream{Kind: "wikimedia", N: bursts * burst, Released: func() int { return int(released.Load()) }, Cut: func() (int, bool) {
		if n := cut.Add(1); n <= cuts {
			return 20 + int(n), n%2 == 0
		}
		return 0, false
	}})
	defer hub.Close()
	w := &changeReader{t: t, dir: t.TempDir(), hub: hub.URL}
	lines := w.startJQ()
	tail := w.startTail()
	defer func() { _ = tail.Process.Kill(); _ = tail.Wait() }() // it may have ended
	want, at := []int{}, map[int]int{}
	for n := 1; n <= bursts*burst; n++ {
		if !sourcetest.IsCanary(n) {
			at[n] = len(want)
			want = append(want, n)
		}
	}
	const perBurst = burst - burst/10
	next, killed, begun := 0, 0, 0 // begun are the runs after a kill of which there is a line
	for last := -1; next < len(want) && lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		i, known := at[n]
		switch {
		case err != nil || !known:
			t.Fatalf("jq prints %q", lines.Text())
		case i > next || i != last+1 && begun == killed:
			t.Fatalf("change %d follows %d, after %d kills", n, last, killed)
		case i != last+1: // a run began, with lines of the one before
			begun++
		}
		if i < next {
			back++
		}
		if i < killed*perBurst {
			t.Fatalf("change %d comes again after %d kills", n, killed)
		}
		last, next = i, max(next, i+1)
		switch {
		case next == (killed+1)*perBurst+40 && killed < bursts-1:
			killed++
			_ = tail.Process.Signal(signal)
			_ = tail.Wait() // it was killed
			tail = w.startTail()
		case next%perBurst == 0 && int64(next/perBurst*burst) == released.Load() && next < len(want):
			w.awaitCursor()
			released.Add(burst)
		}
	}
	if next < len(want) || killed != 2 || cut.Load() < cuts {
		t.Fatalf("%d of %d changes, %d kills, %d connections", next, len(want), killed, cut.Load())
	}
	w.awaitCursor() // jq may have got all from the one before
	if err := tail.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := tail.Wait(); err != nil {
		t.Errorf("the last tail: %v", err)
	}
	hub.CloseClientConnections()
	t.Logf("%d changes, %d printed again, %d connections", next, back, cut.Load())
	w.checkChanges(len(want))
	return back
}

// A changeReader runs tails of a stand-in of Wikimedia into jq.
type changeReader struct {
	t     *testing.T
	dir   string // the home
	hub   string
	write *os.File // into jq
}

func (w *changeReader) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "HOME="+w.dir, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=", "RSTREAM_SERVER=", "http_proxy="+w.hub, "HTTP_PROXY="+w.hub, "no_proxy=", "NO_PROXY=")
	cmd.Stderr = os.Stderr
	return cmd
}

// startJQ starts jq, and returns the numbers of the changes that it prints.
func (w *changeReader) startJQ() *bufio.Scanner {
	read, write, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	defer read.Close() // jq has it
	w.write = write
	jq := w.command("jq", "--unbuffered", ".value.n")
	jq.Stdin = read
	out, err := jq.StdoutPipe()
	if err == nil {
		err = jq.Start()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { out.Close() })
	w.t.Cleanup(func() {
		timer.Stop()
		write.Close()
		_ = jq.Wait()
	})
	return bufio.NewScanner(out)
}

func (w *changeReader) startTail() *exec.Cmd {
	const address = "http://stream.wikimedia.org/v2/stream/recentchange" // the stand-in is the proxy to it
	tail := w.command("rstream", "tail", address, "--name", "reader", "-q")
	tail.Stdout = w.write
	if err := tail.Start(); err != nil {
		w.t.Fatal(err)
	}
	return tail
}

// file returns the path of the file of the only source.
func (w *changeReader) file() string {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, ".local", "share", "rstream", "sources", "*.db"))
	if err != nil || len(files) != 1 {
		w.t.Fatalf("files %q: %v", files, err)
	}
	return files[0]
}

// awaitCursor waits until a tail has stored the cursor after the last change. It may have stored
// more since the file was opened here: the event that tells the end, if a connection is cut after it.
func (w *changeReader) awaitCursor() {
	w.t.Helper()
	db, err := cache.Open(w.t.Context(), w.file(), cache.Config{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	late := time.After(patience)
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		cursors, err := db.Cursors(w.t.Context())
		if err != nil || len(cursors) != 1 {
			w.t.Fatalf("cursors %v, %v", cursors, err)
		}
		if cursors[0].Held && cursors[0].Position >= db.Head() {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			w.t.Fatalf("cursor %v of %s", cursors, db.Head())
		}
	}
}

// checkChanges asks the file with SQL: with the SQLite of the program, and with another one,
// which must be there for CI.
func (w *changeReader) checkChanges(changes int) {
	w.t.Helper()
	const question = "SELECT count(*), count(DISTINCT json_extract(value, '$.n')) FROM events WHERE user = 'en.wikipedia.org'"
	db, err := sql.Open("sqlite", "file:"+w.file()+"?mode=ro")
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	var all, different int
	if err := db.QueryRowContext(w.t.Context(), question).Scan(&all, &different); err != nil {
		w.t.Fatal(err)
	}
	if all != changes || different != changes {
		w.t.Errorf("the file has %d events of %d changes, want %d", all, different, changes)
	}
	if _, err := exec.LookPath("sqlite3"); err != nil && os.Getenv("CI") == "" {
		w.t.Logf("the file was not read by another SQLite: %v", err)
		return
	}
	out, err := w.command("sqlite3", "-readonly", w.file(), question).Output()
	if want := fmt.Sprintf("%d|%d\n", changes, changes); err != nil || string(out) != want {
		w.t.Errorf("sqlite3: %q, %v, want %q", out, err, want)
	}
}
