//go:build unix

package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/fsnotify/fsnotify"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdForeign serves the blocks of a file as an event stream that is not rstream's. A
// connection begins after the block with the id in Last-Event-ID. It ends after CUT blocks,
// if that is given; otherwise it stays open once the file is sent, and continues with what
// is added to the file. While the file is away, the answer is 503.
func cmdForeign(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "foreign VAR FILE [CUT]")
	path, cut := ts.MkAbs(args[1]), 0
	if len(args) > 2 {
		n, err := strconv.Atoi(args[2])
		ts.Check(err)
		cut = n
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Stat(path); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		http.NewResponseController(w).Flush()
		var changes *fsnotify.Watcher
		sent, left, after := 0, cut, r.Header.Get("Last-Event-ID")
		for r.Context().Err() == nil {
			b, err := os.ReadFile(path)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			blocks := bytes.SplitAfter(b, []byte("\n\n"))
			for _, block := range blocks[min(sent, len(blocks)):] {
				if !bytes.HasSuffix(block, []byte("\n\n")) {
					break
				}
				sent++
				if after != "" {
					if strings.Contains(string(block), "id: "+after+"\n") {
						after = ""
					}
					continue
				}
				w.Write(block)
				http.NewResponseController(w).Flush()
				if left--; left == 0 {
					return
				}
			}
			if changes == nil { // a connection that is cut needs none: to close one takes time
				if changes, err = fsnotify.NewWatcher(); err != nil {
					panic(http.ErrAbortHandler) // no end that could be taken for one of the file
				}
				defer changes.Close()
				if changes.Add(filepath.Dir(path)) != nil {
					panic(http.ErrAbortHandler)
				}
				continue // it may have changed before
			}
			select {
			case <-changes.Events:
			case <-r.Context().Done():
			}
		}
	}))
	ts.Defer(func() { srv.CloseClientConnections(); srv.Close() })
	ts.Setenv(args[0], srv.URL+"/events")
}
