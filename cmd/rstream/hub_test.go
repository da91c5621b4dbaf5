//go:build unix

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/fsnotify/fsnotify"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdHub serves the lines of a file as the updates of a Mercure hub, whose ids are urn:1 and so
// on, or as the messages of an ntfy topic, whose ids are m1 and so on. A connection that waits
// for more gets what is added to the file.
func cmdHub(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, "hub VAR mercure|ntfy FILE")
	h := &hub{kind: args[1], path: ts.MkAbs(args[2])}
	srv := httptest.NewServer(h)
	ts.Defer(func() { srv.CloseClientConnections(); srv.Close() })
	path := "/.well-known/mercure?match=*"
	if h.kind == "ntfy" {
		path = "/topic/sse"
	}
	ts.Setenv(args[0], srv.URL+path)
}

// A hub is the server of cmdHub.
type hub struct{ kind, path string }

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	after, ends := r.Header.Get("Last-Event-ID"), false
	w.Header().Set("Content-Type", "text/event-stream")
	if h.kind == "mercure" {
		w.Header().Set("Mercure-Last-Event-ID", after)
	} else {
		after, ends = r.URL.Query().Get("since"), r.URL.Query().Get("poll") == "1"
	}
	_ = http.NewResponseController(w).Flush()
	changes, err := fsnotify.NewWatcher()
	if err != nil || changes.Add(filepath.Dir(h.path)) != nil {
		return
	}
	defer changes.Close()
	for sent := h.number(after); r.Context().Err() == nil; {
		b, err := os.ReadFile(h.path)
		if err != nil {
			return
		}
		lines := strings.SplitAfter(string(b), "\n")
		for ; sent < len(lines)-1; sent++ { // what follows the last line feed is not whole
			fmt.Fprint(w, h.block(sent+1, strings.TrimSpace(lines[sent])))
		}
		_ = http.NewResponseController(w).Flush()
		if ends {
			return
		}
		select {
		case <-changes.Events:
		case <-r.Context().Done():
		}
	}
}

// number returns how many updates precede those after an id: all come after one that is not
// known.
func (h *hub) number(id string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(strings.TrimPrefix(id, "urn:"), "m"))
	return n
}

func (h *hub) block(n int, text string) string {
	if h.kind == "mercure" {
		return fmt.Sprintf("id: urn:%d\ndata: %s\n\n", n, text)
	}
	return fmt.Sprintf("data: {\"id\":\"m%d\",\"event\":\"message\",\"topic\":\"topic\",\"message\":%s}\n\n", n, text)
}

// cmdPage serves a page for browsers. A stream that the browser gives up is reported, too.
func cmdPage(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, "page VAR URL N")
	page := fmt.Sprintf(`<!doctype html><script>
const seen = [], stream = new EventSource('%[1]s/events?topic=*')
const report = value => fetch('%[1]s/set/seen/page', {method: 'POST', body: JSON.stringify({value})})
stream.addEventListener('PUT', e => { seen.push(JSON.parse(e.data).id); if (seen.length === %[2]s) report(seen) })
stream.addEventListener('error', () => { if (stream.readyState === EventSource.CLOSED) report('closed after ' + seen.length) })
</script>`, args[1], args[2])
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, page)
	}))
	ts.Defer(srv.Close)
	ts.Setenv(args[0], srv.URL)
}
