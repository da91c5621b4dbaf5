//go:build !race

package server

import (
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
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
		limit, took := bare.memoryOf(query, readers, nil), ours.memoryOf(query, readers, nil)
		t.Logf("%s: an idle reader takes %+v bytes, a bare one %+v", query, took, limit)
		if took.stack > limit.stack+mostStack || took.heap > limit.heap+mostHeap {
			t.Errorf("%s: an idle reader takes %+v bytes, a bare one %+v", query, took, limit)
		}
	}
}

// TestIdleReaderWithToken: a stream with a token of its own takes at most 1 KiB more than one
// without, the token included.
func TestIdleReaderWithToken(t *testing.T) {
	const most = 1 << 10
	readers := longtest.Size(200, 9000) // a process may have 20,000 descriptors, and each takes two
	open := listenOnDisk(t, Config{})
	ring := newKeyring(t, auth.Config{})
	guarded := listenOnDisk(t, Config{Guard: ring.guard})
	// Pools are filled once, and goroutines begin with a stack as large as earlier ones had on average.
	open.memoryOf("topic=a", readers, nil)
	without := open.memoryOf("topic=a", readers, nil)
	with := guarded.memoryOf("topic=a", readers, func() string { return "Authorization: " + bearer(ring.grant([]string{"a"}, nil, nil)) })
	more := with.heap - without.heap
	if longtest.Enabled() { // stacks share spans, so those of a few streams say nothing of one
		more += with.stack - without.stack
	}
	t.Logf("of %d streams, each takes %+v bytes, and with a token %+v: %d more", readers, without, with, more)
	if more > most {
		t.Errorf("a token takes %d bytes, want at most %d", more, most)
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
// returns a header of the next stream.
func (s *listened) memoryOf(query string, n int, header func() string) memory {
	s.t.Helper()
	var headers []string // made before the memory is measured
	for range n + 10 {
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
	gather(10) // pools and connections of the log are there
	before := settled()
	gather(n)
	after := settled()
	for _, tp := range taps {
		_ = tp.conn.Close()
	}
	return memory{(after.stack - before.stack) / int64(n), (after.heap - before.heap) / int64(n)}
}

// settled returns the memory in use after all stacks have shrunk.
func settled() memory {
	for range 5 { // each halves a stack that was deep once
		debug.FreeOSMemory()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return memory{int64(m.StackInuse), int64(m.HeapAlloc)}
}
