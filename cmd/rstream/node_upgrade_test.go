//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// nextName is the name under which the test binary is the program of a later version.
const nextName, nextRelease = "rstream-next", "v99.0.0"

func runNext() {
	release = nextRelease
	main()
}

// twoVersions returns a program, and one of a later version: the test binary under two names,
// or, in the long form, another binary.
func twoVersions(t *testing.T) (program, next string) {
	t.Helper()
	program = programLink(t)
	next = filepath.Join(t.TempDir(), nextName)
	if !longtest.Enabled() {
		if err := os.Symlink(executable(t), next); err != nil {
			t.Fatal(err)
		}
		return program, next
	}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X main.release="+nextRelease, "-o", next, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program, next
}

// upgrade replaces a server by one of another program, as a service manager does.
func (k *serverProcess) upgrade(program string) {
	k.t.Helper()
	_ = k.cmd.Process.Signal(syscall.SIGTERM)
	if err := k.cmd.Wait(); err != nil {
		log, _ := os.ReadFile(filepath.Join(k.dir, "log"))
		k.t.Errorf("the server ends with %v\n%s", err, log)
	}
	k.program = program
	k.start(strings.TrimPrefix(k.url, "http://"))
	awaitReadiness(k.t, k.url)
}

// A nodeLoad is several writers that append through three servers.
type nodeLoad struct {
	urls  [3]string
	acked atomic.Int64

	mu      sync.Mutex
	ids     map[string]event.ID // of the keys whose append was acknowledged
	last    time.Time           // the last acknowledgement
	longest time.Duration       // without one
}

// write appends until stop is set, and returns once each of its events is acknowledged. It sends
// an event again through another server, with the same key, until one has taken it.
func (l *nodeLoad) write(ctx context.Context, writer int, stop *atomic.Bool) error {
	on := writer
	for i := 0; !stop.Load(); i++ {
		key := fmt.Sprintf("w%d-%d", writer, i)
		for {
			id, err := l.post(ctx, l.urls[on%len(l.urls)], writer, key)
			if err != nil {
				return err
			}
			if id != 0 {
				l.note(key, id)
				break
			}
			on = rand.IntN(len(l.urls))
			if err := pauseLoad(ctx); err != nil {
				return fmt.Errorf("append %s: %w", key, err)
			}
		}
		if err := pauseLoad(ctx); err != nil {
			return err
		}
	}
	return nil
}

// post appends one event, and returns its id, 0 if the outcome is not known.
func (l *nodeLoad) post(ctx context.Context, url string, writer int, key string) (event.ID, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("%s/set/alice/w%d", url, writer), strings.NewReader(fmt.Sprintf(`{"key":%q,"value":%q}`, key, key)))
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil || resp.StatusCode == http.StatusServiceUnavailable:
		return 0, nil
	case resp.StatusCode >= 300:
		return 0, fmt.Errorf("append %s: %s: %s", key, resp.Status, b)
	}
	ev, err := event.ParseLine(bytes.TrimSpace(b))
	return ev.ID, err
}

func (l *nodeLoad) note(key string, id event.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.last.IsZero() {
		l.longest = max(l.longest, now.Sub(l.last))
	}
	l.ids[key], l.last = id, now
	l.acked.Add(1)
}

func pauseLoad(ctx context.Context) error {
	select {
	case <-time.After(2 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Three nodes are replaced by those of another version, one after the other, the committer first,
// while events are appended through all of them, and readers follow. Nothing that was
// acknowledged is lost, each reader gets each event once, in order, and all nodes have the same.
func TestNodesUpgraded(t *testing.T) {
	t.Parallel()
	program, next := twoVersions(t)
	nats := startNATS(t)
	l := &nodeLoad{ids: map[string]event.ID{}}
	var nodes [3]*serverProcess
	for i := range nodes {
		name := string(rune('a' + i))
		nodes[i] = startProcess(t, program, name, "--nats", nats, "--stream", "log", "--init", "--replicas", "1", "--node", name)
		l.urls[i] = nodes[i].url
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	var stop atomic.Bool
	var running sync.WaitGroup
	for w := range 4 {
		running.Go(func() {
			if err := l.write(ctx, w, &stop); err != nil {
				t.Error(err)
			}
		})
	}
	var total atomic.Int64 // of the log, once it is known
	var readers [3]*numberReader
	var read [3]map[string]event.ID
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	var ended sync.WaitGroup
	for i := range readers {
		read[i] = map[string]event.ID{}
		readers[i] = &numberReader{ctx: reading, urls: l.urls, on: i, took: func(ev event.Event) { read[i][ev.Key] = ev.ID }}
		ended.Go(func() {
			for r := readers[i]; total.Load() == 0 || int64(r.n) < total.Load(); {
				if err := r.next(); err != nil {
					if total.Load() == 0 || int64(r.n) < total.Load() {
						t.Errorf("reader %d, after %d events: %v", i, r.n, err)
					}
					return
				}
			}
		})
	}
	more := func(n int64) {
		t.Helper()
		for want := l.acked.Load() + n; l.acked.Load() < want; {
			if err := pauseLoad(ctx); err != nil {
				t.Fatalf("%d events are acknowledged, and no more: %v", l.acked.Load(), err)
			}
		}
	}
	each := int64(longtest.Size(40, 200))
	for _, n := range nodes {
		more(each)
		if info := getText(t, n.url); strings.Contains(info, nextRelease) {
			t.Errorf("the node is of the next version before it is replaced: %s", info)
		}
		n.upgrade(next)
	}
	more(each)
	stop.Store(true)
	running.Wait()
	for i, url := range l.urls {
		if info := getText(t, url); !strings.Contains(info, `"version":"`+nextRelease+`"`) {
			t.Errorf("node %d was not replaced: %s", i, info)
		}
	}
	count := len(l.ids)
	query := "/windows?topic=*&since=0&until=" + event.ID(count).String() + "&sum=1"
	want := ""
	for _, url := range l.urls {
		awaitReadiness(t, url)
		got := getText(t, url+query)
		if want == "" {
			want = got
		}
		if got != want || !strings.Contains(got, fmt.Sprintf(`"count":%d,`, count)) {
			t.Errorf("%d events were acknowledged: %s, and %s", count, want, got)
		}
	}
	total.Store(int64(count))
	// A reader that has everything waits for the next event.
	const key = "the last one"
	for {
		id, err := l.post(ctx, l.urls[0], 0, key)
		if err != nil || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
		if id != 0 {
			break
		}
	}
	ended.Wait()
	for i, r := range readers {
		delete(read[i], key)
		if !maps.Equal(read[i], l.ids) {
			t.Errorf("reader %d has %d of %d events", i, len(read[i]), count)
		}
		t.Logf("reader %d: %d connections, %d refused", i, r.connections, r.refused)
	}
	t.Logf("%d events; no append was acknowledged for %s at most", count, l.longest.Round(time.Millisecond))
}
