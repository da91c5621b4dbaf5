package cache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/seen"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// The environment of a child: its file and the prefix of its keys.
const (
	childFile = "RSTREAM_CACHE_FILE"
	childKeys = "RSTREAM_CACHE_KEYS"
)

// childWork maps names to the work that children do on a file.
var childWork = map[string]func(path string) error{"append": appendChild, "apply": applyChild, "retain": retainChild,
	"create": createChild, "serve": serveChild, "read": readChild, "hold": holdChild}

// runChild does the work of a child process until it is killed or done. Each line on its
// standard output acknowledges one step.
func runChild(name string) int {
	path := os.Getenv(childFile)
	work, ok := childWork[name]
	if !ok {
		work = func(path string) error { return systemChild(name, path) }
	}
	err := work(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// appendChild appends from several goroutines until it is killed, and prints the id and hash
// of each acknowledged event.
func appendChild(path string) error {
	ctx := context.Background()
	seen.HashSpan, seen.MergeBits = event.BlockSize, 1 // so that there is always something to merge
	db, err := Open(ctx, path, Config{Role: Server})
	if err != nil {
		return err
	}
	defer db.Close()
	errs := make(chan error)
	for g := range 4 {
		go func() {
			for i := 0; ; i++ {
				ds := drafts("alice", fmt.Sprintf("posts/%d", i%5), fmt.Sprint(os.Getenv(childKeys), g, i), 1+(i*7+g)%40)
				rs, err := db.Append(ctx, ds)
				if err != nil {
					errs <- err
					return
				}
				var b strings.Builder
				for i := range rs {
					fmt.Fprintf(&b, "%s %s\n", rs[i].ID, rs[i].Hash)
				}
				io.WriteString(os.Stdout, b.String()) // one write, or lines would mix
			}
		}()
	}
	return <-errs
}

// applyChild pulls the parts of the made-up log that no other process pulls into a client's
// file, and prints its progress.
func applyChild(path string) error {
	ctx := context.Background()
	db, err := Open(ctx, path, Config{Role: Client, Log: testLog})
	if err != nil {
		return err
	}
	defer db.Close()
	alice, err := event.ParseTopic("alice")
	if err != nil {
		return err
	}
	for from := event.Beginning; from < childLog; from += childPiece {
		lease, busy, err := db.Leases().Claim(ctx, []event.Topic{alice}, window.Span{From: from, To: from + childPiece})
		if err != nil {
			return err
		}
		if busy || lease == nil {
			continue
		}
		if err := fill(ctx, lease); err != nil {
			return err
		}
	}
	return nil
}

const (
	childLog   event.ID = 6_000 // how long the made-up log is
	childPiece event.ID = 500   // how much of it a child claims at a time
	childPage  event.ID = 50    // and stores at a time
)

// childMark returns a server's mark of a position of the made-up log, which has more events
// than the topic.
func childMark(at event.ID) event.Point {
	return event.Point{ID: at, Mark: event.MarkOf(at, 0, event.Hash{byte(at)})}
}

func fill(ctx context.Context, lease *Lease) error {
	for !lease.Span().Empty() {
		from := lease.Reached()
		to := min(from+childPage, lease.Span().To)
		var evs []event.Event
		for id := from + 1; id <= to; id++ {
			evs = append(evs, madeEvent("alice", fmt.Sprintf("posts/%d", id%7), id))
		}
		lease.Marked(childMark(to))
		if _, err := lease.Apply(ctx, evs, to); err != nil {
			return err
		}
		fmt.Printf("%s %s\n", from, to)
	}
	return lease.Commit(ctx)
}

// A child is a process of the test binary.
type child struct {
	*exec.Cmd
	lines *bufio.Scanner
	errs  strings.Builder
}

func startChild(t testing.TB, name, path, keys string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(os.Args[0])}
	c.Env = append(os.Environ(), childEnv+"="+name, childFile+"="+path, childKeys+"="+keys)
	c.Stderr = &c.errs
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewScanner(out)
	return c
}

// killAfter kills the child after n acknowledgements, and passes all lines that it had
// printed by then to visit.
func (c *child) killAfter(t testing.TB, n int, visit func(string)) {
	t.Helper()
	killed := false
	for seen := 0; c.lines.Scan(); {
		visit(c.lines.Text())
		if seen++; seen == n {
			killed = true
			c.Process.Kill()
		}
	}
	if err := c.Wait(); !killed && err != nil {
		t.Fatalf("child: %v: %s", err, c.errs.String())
	}
}

func TestKilledServerLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	acked := map[string]string{} // id → hash
	for round := range *killRounds {
		c := startChild(t, "append", path, fmt.Sprint("round", round))
		c.killAfter(t, 1+rand.IntN(2000), func(line string) {
			id, hash, whole := strings.Cut(line, " ")
			if !whole || len(hash) != 64 {
				return // cut by the kill
			}
			if before, twice := acked[id]; twice && before != hash {
				t.Fatalf("id %s was given to %s and to %s", id, before, hash)
			}
			acked[id] = hash
		})
		checkKilledServer(t, path, acked)
	}
	t.Logf("%d events acknowledged", len(acked))
}

func checkKilledServer(t *testing.T, path string, acked map[string]string) {
	t.Helper()
	db := mustOpen(t, path, Config{Role: Server})
	defer db.Close()
	integrity(t, db)
	evs := readAll(t, db, topics(t, "*"), window.Span{To: event.MaxID}, 5000)
	missing := len(acked)
	hashes := map[event.Hash]bool{}
	for i := range evs {
		ev := &evs[i]
		if ev.ID != event.ID(i+1) || hashes[ev.Hash] {
			t.Fatalf("event %d has the id %s, or a hash that was there before", i+1, ev.ID)
		}
		hashes[ev.Hash] = true
		if want, was := acked[ev.ID.String()]; was {
			missing--
			if want != ev.Hash.String() {
				t.Fatalf("event %s has the hash %s, acknowledged was %s", ev.ID, ev.Hash, want)
			}
		}
	}
	if missing != 0 {
		t.Fatalf("%d acknowledged events are not there", missing)
	}
	checkLookUp(t, db, evs)
	byPath := 0
	for i := range 5 {
		byPath += len(readAll(t, db, topics(t, fmt.Sprintf("alice/posts/%d$", i)), window.Span{To: event.MaxID}, 5000))
	}
	if byPath != len(evs) {
		t.Fatalf("the storages have %d events together, the log has %d", byPath, len(evs))
	}
}

func TestKilledClientLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy.db")
	held := window.Spans{}
	for range *killRounds {
		c := startChild(t, "apply", path, "")
		c.killAfter(t, 1+rand.IntN(60), func(line string) {
			if s, ok := parseSpan(line); ok {
				held = held.Add(s)
			}
		})
		checkKilledClient(t, path, held)
	}
}

func parseSpan(line string) (s window.Span, ok bool) {
	from, to, _ := strings.Cut(line, " ")
	a, err := event.ParseID(from)
	b, err2 := event.ParseID(to)
	return window.Span{From: a, To: b}, errors.Join(err, err2) == nil
}

// checkKilledClient checks that all of acked is held, that all held events are stored and
// that the dead process blocks nobody.
func checkKilledClient(t *testing.T, path string, acked window.Spans) {
	t.Helper()
	db := mustOpen(t, path, Config{Role: Client, Log: testLog})
	defer db.Close()
	integrity(t, db)
	alice := topics(t, "alice")
	held := mustHeld(t, db, alice...)
	for _, s := range acked {
		if !held.Contains(s) {
			t.Fatalf("%s was acknowledged, held is %v", s, held)
		}
	}
	for _, s := range held {
		evs := readAll(t, db, alice, s, 5000)
		if len(evs) != int(s.To-s.From) {
			t.Fatalf("%s is held but has %d events", s, len(evs))
		}
	}
	var reached event.ID
	var seen event.Point
	var mark string
	err := db.file.Read.QueryRow(`SELECT (SELECT max(reached) FROM window), seen, seen_mark FROM log`).Scan(&reached, &seen.ID, &mark)
	if err == nil && mark != "" {
		seen.Mark, err = event.ParseMark(mark)
	}
	if err != nil || seen.ID != reached || reached > 0 && seen != childMark(reached) {
		t.Fatalf("held is up to %s, the newest mark is %v, %v", reached, seen, err)
	}
	if _, busy, err := db.Leases().Claim(context.Background(), alice, window.Span{To: 1}); busy || err != nil {
		t.Fatalf("Claim: busy %v, %v", busy, err)
	}
}

// Two processes fill one file: neither stores the events that the other stores.
func TestTwoProcessesFillOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy.db")
	spans := make([]window.Spans, 2)
	var wg sync.WaitGroup
	for i := range spans {
		c := startChild(t, "apply", path, "")
		wg.Go(func() {
			for c.lines.Scan() {
				s, ok := parseSpan(c.lines.Text())
				if !ok {
					t.Errorf("child says %q", c.lines.Text())
				}
				spans[i] = spans[i].Add(s)
			}
			if err := c.Wait(); err != nil {
				t.Errorf("child: %v: %s", err, c.errs.String())
			}
		})
	}
	wg.Wait()
	if both := spans[0].Intersect(spans[1]); len(both) > 0 {
		t.Errorf("both have stored %v", both)
	}
	db := mustOpen(t, path, Config{Role: Client, Log: testLog})
	defer db.Close()
	held := mustHeld(t, db, topics(t, "alice")...)
	whole := window.Span{To: childLog}
	if !window.Union(append(spans[0], spans[1]...)...).Contains(whole) || !held.Contains(whole) {
		t.Errorf("stored are %v and %v, held is %v", spans[0], spans[1], held)
	}
	ws, err := db.Windows(context.Background())
	if err != nil || len(ws) != 1 {
		t.Errorf("the windows are %v, %v, want one", ws, err)
	}
	checkIDs(t, "alice", readAll(t, db, topics(t, "alice"), whole, 5000), allIDs(childLog))
}

func allIDs(n event.ID) (out []event.ID) {
	for id := event.ID(1); id <= n; id++ {
		out = append(out, id)
	}
	return out
}
