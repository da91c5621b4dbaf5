//go:build unix

package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// A gate forwards to a server and holds the first request to a path until it is opened.
type gate struct {
	held, open      chan struct{}
	hold, openedNow sync.Once
}

type gatesKey struct{}

// gates are the gates of a script, by the variable of their URL.
type gates map[string]*gate

func gateOf(ts *testscript.TestScript, name string) *gate {
	g := ts.Value(gatesKey{}).(gates)[name]
	if g == nil {
		ts.Fatalf("there is no gate %s", name)
	}
	return g
}

func cmdGate(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, "gate VAR URL PATH")
	target, err := url.Parse(args[1])
	ts.Check(err)
	g := &gate{held: make(chan struct{}), open: make(chan struct{})}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, FlushInterval: -1}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, args[2]) {
			g.hold.Do(func() { close(g.held); <-g.open })
		}
		proxy.ServeHTTP(w, r)
	}))
	ts.Defer(func() { g.pass(); srv.CloseClientConnections(); srv.Close() })
	ts.Value(gatesKey{}).(gates)[args[0]] = g
	ts.Setenv(args[0], srv.URL)
}

// pass releases the held request and lets all later ones pass.
func (g *gate) pass() { g.openedNow.Do(func() { close(g.open) }) }

func cmdAtGate(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, "atgate VAR")
	select {
	case <-gateOf(ts, args[0]).held:
	case <-time.After(patience):
		ts.Fatalf("nothing has come to the gate %s", args[0])
	}
}

func cmdOpenGate(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, "opengate VAR")
	gateOf(ts, args[0]).pass()
}
