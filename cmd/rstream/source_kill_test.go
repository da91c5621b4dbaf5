//go:build unix

package main

import (
	"bufio"
	"database/sql"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/sourcetest"
)

// A stream like that of Wikimedia's recent changes is cut ten times, and the tail of it that
// prints into jq is killed twice. jq gets each change, in order; a run may begin with lines of
// the one before, as after any SIGKILL. The file has each change once, for SQL, too.
func TestSourceTailKilled(t *testing.T) {
	t.Parallel()
	const changes, cuts = 330, 10
	var cut atomic.Int64
	hub := httptest.NewServer(&sourcetest.Stream{Kind: "wikimedia", N: changes, Begun: time.Now(), Every: 100 * time.Microsecond, Cut: func() (int, bool) {
		if n := cut.Add(1); n <= cuts {
			return 20 + int(n), n%2 == 0
		}
		return 0, false
	}})
	defer hub.Close()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "rstream")
	if err := os.Symlink(self, program); err != nil { // under this name, the test binary is the program
		t.Fatal(err)
	}
	const address = "http://stream.wikimedia.org/v2/stream/recentchange" // the stand-in is the proxy to it
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=", "RSTREAM_SERVER=", "http_proxy="+hub.URL, "HTTP_PROXY="+hub.URL, "no_proxy=", "NO_PROXY=")
		cmd.Stderr = os.Stderr
		return cmd
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	jq := command("jq", "--unbuffered", ".value.n")
	jq.Stdin = read
	out, err := jq.StdoutPipe()
	if err == nil {
		err = jq.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { write.Close(); _ = jq.Wait() }()
	start := func() *exec.Cmd {
		tail := command(program, "tail", address, "--name", "reader", "-q")
		tail.Stdout = write
		if err := tail.Start(); err != nil {
			t.Fatal(err)
		}
		return tail
	}
	tail := start()
	defer func() { _ = tail.Process.Kill(); _ = tail.Wait() }() // it may have ended
	var want []int
	for n := 1; n <= changes; n++ {
		if !sourcetest.IsCanary(n) {
			want = append(want, n)
		}
	}
	at := map[int]int{}
	for i, n := range want {
		at[n] = i
	}
	next, back, killed, begun := 0, 0, 0, 0
	last := -1
	lines := bufio.NewScanner(out)
	timer := time.AfterFunc(patience, func() { out.Close() })
	defer timer.Stop()
	for next < len(want) && lines.Scan() {
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
		last, next = i, max(next, i+1)
		if killed < 2 && next >= (killed+1)*len(want)/3 {
			killed++
			_ = tail.Process.Kill()
			_ = tail.Wait() // it was killed
			tail = start()
		}
	}
	if next < len(want) || killed != 2 || cut.Load() < cuts {
		t.Fatalf("%d of %d changes, %d kills, %d connections", next, len(want), killed, cut.Load())
	}
	if err := tail.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := tail.Wait(); err != nil {
		t.Errorf("the last tail: %v", err)
	}
	hub.CloseClientConnections()
	t.Logf("%d changes, %d printed again, %d connections", next, back, cut.Load())
	checkChanges(t, dir, len(want))
}

// checkChanges asks the file of the only source in dir with SQL.
func checkChanges(t *testing.T, dir string, changes int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, ".local", "share", "rstream", "sources", "*.db"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %q: %v", files, err)
	}
	db, err := sql.Open("sqlite", "file:"+files[0]+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var all, different int
	const question = "SELECT count(*), count(DISTINCT json_extract(value, '$.n')) FROM events WHERE user = 'en.wikipedia.org'"
	if err := db.QueryRowContext(t.Context(), question).Scan(&all, &different); err != nil {
		t.Fatal(err)
	}
	if all != changes || different != changes {
		t.Errorf("the file has %d events of %d changes, want %d", all, different, changes)
	}
}
