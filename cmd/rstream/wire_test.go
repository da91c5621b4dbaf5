//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// A countedWire forwards to a server and counts the events that come back: whole lines,
// in every format, on all connections.
type countedWire struct {
	mu      sync.Mutex
	crossed int
	times   map[event.ID]int
	held    map[event.ID]bool // these must not cross again
	again   []event.ID        // those that did
}

type wiresKey struct{}

// wires are the counted wires of a script, by the variable of their URL.
type wires map[string]*countedWire

func wireOf(ts *testscript.TestScript, name string) *countedWire {
	w := ts.Value(wiresKey{}).(wires)[name]
	if w == nil {
		ts.Fatalf("there is no wire %s", name)
	}
	return w
}

func cmdWire(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "wire VAR URL [VAR2]")
	target, err := url.Parse(args[1])
	ts.Check(err)
	w := &countedWire{times: map[event.ID]int{}, held: map[event.ID]bool{}}
	if len(args) > 2 {
		w = wireOf(ts, args[2])
	}
	// One connection a request, so that a connection cut by the server is also cut for
	// the client.
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	srv := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:      transport,
		FlushInterval:  -1,
		ModifyResponse: w.watch,
		// Without a server, there must not be a proxy that responds.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	})
	ts.Defer(func() { srv.CloseClientConnections(); srv.Close() })
	ts.Value(wiresKey{}).(wires)[args[0]] = w
	ts.Setenv(args[0], srv.URL)
}

// watch counts the events in a response. The response to an append repeats what was
// sent, so it does not count.
func (w *countedWire) watch(resp *http.Response) error {
	if resp.Request.Method == http.MethodGet {
		resp.Body = &watchedBody{ReadCloser: resp.Body, w: w}
	}
	return nil
}

// A watchedBody counts the lines read through it. It shortens retry delays of a second,
// since a script waits for them.
type watchedBody struct {
	io.ReadCloser
	w    *countedWire
	line []byte // the incomplete last line
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	copy(p, bytes.Replace(p[:n], []byte("retry: 1000\n"), []byte("retry: 0001\n"), 1))
	for rest := p[:n]; ; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		b.line = append(b.line, line...)
		if !whole {
			return n, err
		}
		b.w.note(bytes.TrimPrefix(b.line, []byte("data: ")))
		b.line, rest = b.line[:0], after
	}
}

func (w *countedWire) note(line []byte) {
	ev, err := event.ParseLine(line)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.crossed++
	w.times[ev.ID]++
	if w.held[ev.ID] {
		w.again = append(w.again, ev.ID)
	}
}

func cmdHeld(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, "held VAR FILE TOPIC...")
	w := wireOf(ts, args[0])
	ids, err := heldIDs(ts.MkAbs(args[1]), args[2:])
	ts.Check(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		w.held[id] = true
	}
}

// heldIDs returns the ids of the events that a copy holds of topics.
func heldIDs(path string, topics []string) (ids []event.ID, err error) {
	ctx := context.Background()
	db, err := cache.Open(ctx, path, cache.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for _, name := range topics {
		topic, err := event.ParseTopic(name)
		if err != nil {
			return nil, err
		}
		held, err := db.Held(ctx, topic)
		if err != nil {
			return nil, err
		}
		for _, span := range held {
			for at := span.From; at < span.To; {
				evs, next, err := db.Read(ctx, []event.Topic{topic}, at, span.To, 1000)
				if err != nil {
					return nil, err
				}
				for i := range evs {
					ids = append(ids, evs[i].ID)
				}
				at = next
			}
		}
	}
	return ids, nil
}

func cmdCrossed(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "crossed VAR EVENTS [AGAIN]")
	w := wireOf(ts, args[0])
	w.mu.Lock()
	defer w.mu.Unlock()
	most := 0
	if len(args) > 2 {
		var err error
		most, err = strconv.Atoi(args[2])
		ts.Check(err)
	}
	fmt.Fprintf(ts.Stdout(), "crossed %d distinct %d\n", w.crossed, len(w.times))
	ts.Logf("%s: %d events crossed, %d of them again", args[0], w.crossed, w.crossed-len(w.times))
	switch again := w.crossed - len(w.times); {
	case len(w.again) > 0:
		ts.Fatalf("%d events crossed %s that were held, the first of them %s", len(w.again), args[0], w.again[0])
	case strconv.Itoa(len(w.times)) != args[1]:
		ts.Fatalf("%d events crossed %s, want %s", len(w.times), args[0], args[1])
	case again > most:
		ts.Fatalf("%d events crossed %s again, want at most %d", again, args[0], most)
	}
}
