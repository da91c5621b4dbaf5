//go:build unix

package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rstream-dev/rstream/internal/wire"
)

// shortenings are changes that a middlebox makes to a response with events.
var shortenings = map[string]func(h http.Header, body []byte) []byte{
	"empty": func(_ http.Header, _ []byte) []byte { return nil },
	"cut": func(_ http.Header, b []byte) []byte {
		lines := bytes.SplitAfter(b, []byte("\n"))
		return bytes.Join(lines[:len(lines)*3/5], nil)
	},
	"compressed": func(h http.Header, b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, _ = w.Write(b) // memory: it does not fail
		_ = w.Close()
		h.Set("Content-Encoding", "gzip")
		return out.Bytes()
	},
	"uncounted": func(h http.Header, _ []byte) []byte {
		h.Del(wire.HeaderEvents)
		return nil
	},
}

// cmdShorten sets a variable to a URL that forwards to another and changes the first
// responses with events, including their length.
func cmdShorten(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 4, "shorten VAR URL HOW N")
	target, err := url.Parse(args[1])
	ts.Check(err)
	how, ok := shortenings[args[2]]
	most, err := strconv.ParseInt(args[3], 10, 64)
	if !ok || err != nil {
		ts.Fatalf("shorten %v: %v", args, err)
	}
	var answers atomic.Int64
	srv := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		ModifyResponse: func(resp *http.Response) error {
			isPage := strings.HasPrefix(resp.Header.Get("Content-Type"), wire.NDJSON) && resp.Request.FormValue("limit") != "0"
			if !isPage || answers.Add(1) > most {
				return nil
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			body = how(resp.Header, body)
			resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			resp.Header.Set("Content-Length", fmt.Sprint(len(body)))
			return nil
		},
	})
	ts.Defer(srv.Close)
	ts.Setenv(args[0], srv.URL)
}
