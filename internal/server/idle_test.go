//go:build !race

package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
)

// An idle reader takes little more memory than that of a bare net/http handler: its goroutine
// has returned from all functions with large frames, and it has no buffer. The race detector
// makes frames larger.
func TestIdleReader(t *testing.T) {
	const readers, mostStack, mostHeap = 200, 6 << 10, 4 << 10
	ours, bare := listenOnDisk(t, Config{}), &listened{t: t, addr: listenBare(t)}
	ours.put("a", 1, 200)
	for _, query := range []string{"topic=a&since=now", "topic=a"} {
		for try := 1; ; try++ { // on a busy machine, some are not idle yet
			limit, took := bare.memoryOf(query, readers, nil, settled), ours.memoryOf(query, readers, nil, settled)
			t.Logf("%s: an idle reader takes %+v bytes, a bare one %+v", query, took, limit)
			if took.stack <= limit.stack+mostStack && took.heap <= limit.heap+mostHeap {
				break
			}
			if try == 3 {
				t.Errorf("%s: an idle reader takes %+v bytes, a bare one %+v", query, took, limit)
				break
			}
		}
	}
}

// TestIdleReaderWithToken: a stream with a token of its own, of another subject each, takes at most
// 1 KiB more than one without, with all that the server remembers of the two. The server is another process: a process may have 20,000
// descriptors, and a stream takes one at either end.
func TestIdleReaderWithToken(t *testing.T) {
	const most = 1 << 10
	readers := longtest.Size(200, 5_000)
	ring := newKeyring(t, auth.Config{})
	host := startIdleHost(t, filepath.Join(ring.dir, "keys"))
	// Pools are filled once, and goroutines begin with a stack as large as earlier ones had on average.
	host.open.memoryOf("topic=a", readers, nil, host.settled)
	without := host.open.memoryOf("topic=a", readers, nil, host.settled)
	n := 0
	token := func() string {
		n++
		return "Authorization: " + bearer(ring.grant([]string{"a"}, nil, func(c *auth.Claims) { c.Subject = fmt.Sprint("reader-", n) }))
	}
	with := host.guarded.memoryOf("topic=a", readers, token, host.settled)
	more := with.heap - without.heap
	if longtest.Enabled() { // stacks share spans, so those of a few streams say nothing of one
		more += with.stack - without.stack
	}
	t.Logf("of %d streams, each takes %+v bytes, and with a token %+v: %d more", readers, without, with, more)
	if more > most {
		t.Errorf("a token takes %d bytes, want at most %d", more, most)
	}
}

// An idleHost is another process with two servers, of which one asks for tokens.
type idleHost struct {
	t             *testing.T
	in            io.Writer
	out           io.Reader
	open, guarded *listened
}

// idleEnv has the key file of the servers of an idleHost.
const idleEnv = "RSTREAM_SERVER_IDLE"

func startIdleHost(t *testing.T, keys string) *idleHost {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestIdleHost$")
	cmd.Env, cmd.Stderr = append(os.Environ(), idleEnv+"="+keys), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	h := &idleHost{t: t, in: in, out: out, open: &listened{t: t}, guarded: &listened{t: t}}
	h.scanLine(&h.open.addr, &h.guarded.addr)
	return h
}

// settled returns the memory in use of the host once it has n readers.
func (h *idleHost) settled(n int) (m memory) {
	h.t.Helper()
	if _, err := fmt.Fprintln(h.in, n); err != nil {
		h.t.Fatal(err)
	}
	h.scanLine(&m.stack, &m.heap)
	return m
}

func (h *idleHost) scanLine(values ...any) {
	h.t.Helper()
	if _, err := fmt.Fscanln(h.out, values...); err != nil {
		h.t.Fatal(err)
	}
}

// TestIdleHost is the other process of TestIdleReaderWithToken. It prints the addresses of its
// servers, and then, for each number of readers in its input, the memory in use with them.
func TestIdleHost(t *testing.T) {
	keys := os.Getenv(idleEnv)
	if keys == "" {
		return
	}
	guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	open, guarded := listenOnDisk(t, Config{}), listenOnDisk(t, Config{Guard: guard, Rates: &wire.Rates{Requests: 1000, Events: 20_000, Bytes: 20e6, Streams: 1000}})
	fmt.Println(open.addr, guarded.addr)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		n, err := strconv.Atoi(in.Text())
		if err != nil {
			t.Fatal(err)
		}
		open.eventually("readers", func() bool { return open.hub.Stats().Readers+guarded.hub.Stats().Readers == n })
		m := settled(n)
		fmt.Println(m.stack, m.heap)
	}
}

// Memory in use, in bytes.
type memory struct{ stack, heap int64 }

// listenBare serves streams that only begin.
func listenBare(t *testing.T) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := &http.Server{ErrorLog: quiet, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := w.Write(wire.AppendLive(wire.AppendPreamble(nil, 0), event.Point{}, event.Point{}, "0000000000000000", nil)); err != nil {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		<-r.Context().Done()
	})}
	go func() { _ = hs.Serve(l) }()
	t.Cleanup(func() { _ = hs.Close() })
	return l.Addr().String()
}

// memoryOf returns the memory in bytes of each of n idle streams. If header is not nil, it
// returns a header of the next stream. settled returns the memory in use with a number of streams.
func (s *listened) memoryOf(query string, n int, header func() string, settled func(int) memory) memory {
	s.t.Helper()
	const first = 10     // which make pools and connections of the log
	var headers []string // made before the memory is measured
	for range n {
		if header != nil {
			headers = append(headers, header())
		}
	}
	var taps []*tap
	gather := func(n int) {
		for range n {
			tp := s.tap(query, headers[min(len(taps), len(headers)):min(len(taps)+1, len(headers))]...)
			for line := ""; line != "event: live\n"; {
				var err error
				if line, err = tp.br.ReadString('\n'); err != nil {
					s.t.Fatal(err)
				}
			}
			tp.br = nil
			taps = append(taps, tp)
		}
	}
	gather(first)
	before := settled(first)
	gather(n - first)
	after := settled(n)
	for _, tp := range taps {
		_ = tp.conn.Close()
	}
	of := int64(n - first)
	return memory{(after.stack - before.stack) / of, (after.heap - before.heap) / of}
}

// settled returns the memory in use of this process after all stacks have shrunk.
func settled(int) memory {
	for range 5 { // each halves a stack that was deep once
		debug.FreeOSMemory()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return memory{int64(m.StackInuse), int64(m.HeapAlloc)}
}
