//go:build unix

package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// fronts are what a server in front of another one does instead of its work.
var fronts = map[string]func(w http.ResponseWriter, r *http.Request, next http.Handler){
	"hung":        func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() },
	"lying":       serveLies,
	"inventing":   serveInventions,
	"slow":        serveSlowly,
	"misdirected": serveOthersOnly,
}

// cmdFront sets a variable to a URL that forwards to another, but does something else on the
// way.
func cmdFront(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, "front VAR URL HOW")
	target, err := url.Parse(args[1])
	ts.Check(err)
	how, ok := fronts[args[2]]
	if !ok {
		ts.Fatalf("front %v: there is none of this kind", args)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		FlushInterval: -1,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { how(w, r, proxy) }))
	ts.Defer(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	ts.Setenv(args[0], srv.URL)
}

// isPull reports whether a request is for events that are pulled.
func isPull(r *http.Request) bool {
	return r.URL.Path == "/events" && r.Header.Get("Accept") == wire.NDJSON && r.URL.Query().Get("limit") != "0"
}

// serveLies changes a byte of each page.
func serveLies(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if !isPull(r) {
		next.ServeHTTP(w, r)
		return
	}
	answer := httptest.NewRecorder()
	next.ServeHTTP(answer, r)
	body := bytes.Replace(answer.Body.Bytes(), []byte(`"mag"`), []byte(`"nag"`), 1)
	copyAnswer(w, answer, body, len(body))
}

// serveInventions sends another event in place of every hundredth one, with a hash that is right.
func serveInventions(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if !isPull(r) {
		next.ServeHTTP(w, r)
		return
	}
	answer := httptest.NewRecorder()
	next.ServeHTTP(answer, r)
	var body []byte
	n := 0
	for line := range bytes.Lines(answer.Body.Bytes()) {
		ev, err := event.ParseLine(bytes.TrimSpace(line))
		if err == nil && ev.ID%100 == 0 {
			d := event.Draft{User: ev.User, Path: ev.Path, Type: event.Put, Key: ev.Key, Value: []byte(`"invented"`)}
			ev = event.New(ev.ID, ev.Time, d, d.Hash())
			line = append(bytes.Clone(ev.Line()), '\n')
		}
		body = append(body, line...)
		n++
	}
	wire.SetEvents(answer.Header(), n)
	copyAnswer(w, answer, body, len(body))
}

// serveSlowly sends 40 kB a second.
func serveSlowly(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(slowAnswer{w, r.Context()}, r)
}

// A slowAnswer is written slowly.
type slowAnswer struct {
	http.ResponseWriter
	ctx context.Context
}

func (s slowAnswer) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		var some int
		some, err = s.ResponseWriter.Write(b[:min(len(b), 4<<10)])
		_ = http.NewResponseController(s.ResponseWriter).Flush()
		n, b = n+some, b[some:]
		select {
		case <-time.After(100 * time.Millisecond):
		case <-s.ctx.Done():
			err = s.ctx.Err()
		}
	}
	return n, err
}

// serveOthersOnly follows no topic but bob's.
func serveOthersOnly(w http.ResponseWriter, r *http.Request, next http.Handler) {
	topic := r.URL.Query().Get("topic")
	if topic == "" || strings.HasPrefix(topic, "bob") {
		next.ServeHTTP(w, r)
		return
	}
	answer := httptest.NewRecorder()
	next.ServeHTTP(answer, r)
	w.Header().Set(wire.HeaderLog, answer.Header().Get(wire.HeaderLog))
	wire.Errorf(http.StatusMisdirectedRequest, "this server does not follow %s", topic).Write(w)
}
