//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// A serverProcess is a server process that is killed and started again at the same address.
type serverProcess struct {
	t       *testing.T
	program string
	args    []string
	dir     string
	url     string
	cmd     *exec.Cmd
}

// startProcess starts a server and waits until it accepts requests.
func startProcess(t *testing.T, program, name string, args ...string) *serverProcess {
	t.Helper()
	k := &serverProcess{t: t, program: program, dir: t.TempDir(), args: append([]string{"serve", "--db", name + ".db", "--url-file", "url"}, args...)}
	k.start("127.0.0.1:0")
	t.Cleanup(k.kill)
	return k
}

func (k *serverProcess) start(address string) {
	k.t.Helper()
	_ = os.Remove(filepath.Join(k.dir, "url"))
	log, err := os.OpenFile(filepath.Join(k.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		k.t.Fatal(err)
	}
	defer log.Close()
	k.cmd = exec.Command(k.program, append(k.args, "--listen", address)...)
	k.cmd.Dir, k.cmd.Stderr = k.dir, log
	k.cmd.Env = append(os.Environ(), "HOME="+k.dir, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=", "RSTREAM_SERVER=", "RSTREAM_TOKEN=")
	if err := k.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		b, err := os.ReadFile(filepath.Join(k.dir, "url"))
		if err == nil {
			k.url = strings.TrimSpace(string(b))
			return
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(filepath.Join(k.dir, "log"))
			k.t.Fatalf("%s did not start:\n%s", k.args, b)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (k *serverProcess) kill() {
	_ = k.cmd.Process.Kill() // it may have ended
	_ = k.cmd.Wait()
}

func (k *serverProcess) restart() {
	k.kill()
	k.start(strings.TrimPrefix(k.url, "http://"))
}

// A reader moves between a server and its two mirrors with its Last-Event-ID, as an
// EventSource does, while each of them is killed and comes back, and appends go through all
// of them. It gets each event once, in order. So does "tail --name" of all three, which is ended
// and started again.
func TestMirrorsKilled(t *testing.T) {
	t.Parallel()
	program := programLink(t)
	origin := startProcess(t, program, "origin")
	near := startProcess(t, program, "near", "--mirror", origin.url)
	far := startProcess(t, program, "far", "--mirror", near.url)
	servers := []*serverProcess{origin, near, far}

	rounds := longtest.Scale(1, 3, 6)
	each := 15 // events between two kills
	total := (rounds*len(servers) + 1) * each
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var urls [3]string
	for i, s := range servers {
		urls[i] = s.url
	}
	var read atomic.Int64
	written := make(chan error, 1)
	go func() { written <- writeNumbers(ctx, urls, total, &read) }()

	tail := startNamedTail(t, program, urls[:]...)
	r := numberReader{ctx: ctx, urls: urls}
	for i := range rounds * len(servers) {
		for range each {
			if err := r.next(); err != nil {
				t.Fatal(err)
			}
			read.Store(int64(r.n))
		}
		servers[r.on].restart() // the reader is connected to it
		if i%2 == 1 {
			tail.stop()
			tail.start()
		}
	}
	for r.n < total {
		if err := r.next(); err != nil {
			t.Fatal(err)
		}
		read.Store(int64(r.n))
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	tail.checkNumbers(total)
	t.Logf("%d events over %d connections, %d refused", r.n, r.connections, r.refused)
	var digests [3]string
	for i, url := range urls {
		digests[i] = getText(t, url+"/windows?topic=*&since=0&until="+event.ID(total).String()+"&sum=1")
	}
	if digests[0] != digests[1] || digests[0] != digests[2] || !strings.Contains(digests[0], fmt.Sprintf(`"count":%d,`, total)) {
		t.Errorf("the digests differ: %q", digests)
	}
}

// getText returns the body of a response that must be 200.
func getText(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %s %v", url, resp.Status, b, err)
	}
	return b
}

// writeNumbers appends 1 to total, one after the other, each through the next server, and again
// with the same key until one of them has taken it. It is at most some numbers ahead of the
// reader.
func writeNumbers(ctx context.Context, urls [3]string, total int, read *atomic.Int64) error {
	for n := 1; n <= total; n++ {
		for read.Load() < int64(n-20) && ctx.Err() == nil {
			<-time.After(time.Millisecond)
		}
		for try := n; ; try++ {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, urls[try%len(urls)]+"/set/alice/n", strings.NewReader(fmt.Sprintf(`{"key":"k%d","value":%d}`, n, n)))
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusOK {
					break
				}
				err = errors.New(resp.Status)
				if resp.StatusCode != http.StatusServiceUnavailable {
					return fmt.Errorf("append %d: %w", n, err)
				}
			}
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("append %d: %w, after %w", n, ctx.Err(), err)
			}
		}
	}
	return nil
}

// A numberReader reads what writeNumbers writes. When a server leaves, it goes on with the next
// one, from the last event that it has.
type numberReader struct {
	ctx    context.Context
	urls   [3]string
	on     int // the server
	n      int // the last number
	cursor string
	took   func(ev event.Event) // called with each event; if nil, its value must be its number

	lines       *bufio.Scanner
	close       func()
	connections int
	refused     int
}

func (r *numberReader) next() error {
	for {
		if r.lines == nil {
			if err := r.connect(); err != nil {
				return err
			}
		}
		id := ""
		for r.lines.Scan() {
			line := r.lines.Text()
			switch {
			case strings.HasPrefix(line, "id: "):
				id = line[len("id: "):]
			case line == "" && id != "":
				r.cursor, id = id, "" // the block is whole
			case strings.HasPrefix(line, "data: {\"id\""):
				ev, err := event.ParseLine([]byte(line[len("data: "):]))
				if err != nil {
					return err
				}
				if r.n++; ev.ID != event.ID(r.n) || r.took == nil && string(ev.Value) != fmt.Sprint(r.n) {
					return fmt.Errorf("server %d sends event %s, %s, as number %d", r.on, ev.ID, ev.Value, r.n)
				}
				r.cursor = id
				if r.took != nil {
					r.took(ev)
				}
				return nil
			}
		}
		r.close()
		r.lines = nil
		r.on = (r.on + 1) % len(r.urls)
	}
}

// connect connects to the next server that takes the cursor.
func (r *numberReader) connect() error {
	for ; ; r.on = (r.on + 1) % len(r.urls) {
		ctx, cancel := context.WithCancel(r.ctx)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.urls[r.on]+"/events?topic=alice", nil)
		if err != nil {
			cancel()
			return err
		}
		req.Header.Set("Accept", "text/event-stream")
		if r.cursor != "" {
			req.Header.Set("Last-Event-ID", r.cursor)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil && resp.StatusCode == http.StatusOK {
			r.connections++
			r.lines = bufio.NewScanner(resp.Body)
			r.close = func() { cancel(); resp.Body.Close() }
			return nil
		}
		cancel()
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable {
				return fmt.Errorf("server %d refuses %s: %s", r.on, r.cursor, resp.Status)
			}
		}
		r.refused++
		select {
		case <-time.After(2 * time.Millisecond):
		case <-r.ctx.Done():
			return r.ctx.Err()
		}
	}
}
