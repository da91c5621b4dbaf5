//go:build !race

package server

import (
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/rstream-dev/rstream/event"
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
		limit, took := bare.memoryOf(query, readers), ours.memoryOf(query, readers)
		t.Logf("%s: an idle reader takes %+v bytes, a bare one %+v", query, took, limit)
		if took.stack > limit.stack+mostStack || took.heap > limit.heap+mostHeap {
			t.Errorf("%s: an idle reader takes %+v bytes, a bare one %+v", query, took, limit)
		}
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

// memoryOf returns the memory in bytes of each of n idle streams.
func (s *listened) memoryOf(query string, n int) memory {
	s.t.Helper()
	var taps []*tap
	gather := func(n int) {
		for range n {
			tp := s.tap(query)
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
