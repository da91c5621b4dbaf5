package sourcetest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// A Hostile is a server whose stream must harm nothing.
type Hostile struct {
	Name   string
	Serve  http.HandlerFunc
	Events int    // that are stored
	Err    string // what the error contains; "" if there is none
}

// HostileStreams returns hostile servers. The history of those that send a whole one ends with
// EndBlock.
func HostileStreams() []Hostile {
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s+EndBlock) }
	}
	return []Hostile{
		{"an endless line", func(w http.ResponseWriter, _ *http.Request) { WriteEndless(w, "id: 1\ndata: 1\n\ndata: ", "xxxx") }, 1, "larger than 1048576 bytes"},
		{"an endless event", func(w http.ResponseWriter, _ *http.Request) { WriteEndless(w, "", "data: x\n") }, 0, "larger than 1048576 bytes"},
		{"an endless id", func(w http.ResponseWriter, _ *http.Request) { WriteEndless(w, "id: ", "xxxx") }, 0, "larger than 1048576 bytes"},
		{"10 GB that are no stream", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Content-Length", fmt.Sprint(10<<30))
			WriteEndless(w, "", "x")
		}, 0, `its content type is "application/octet-stream"`},
		{"a bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			var part bytes.Buffer // a thousandth of what it becomes
			zip := gzip.NewWriter(&part)
			io.WriteString(zip, "data: "+strings.Repeat("x", 1<<20))
			zip.Close()
			WriteEndless(w, "", part.String())
		}, 0, `is compressed with "gzip"`},
		{"a redirect loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", http.StatusFound) }, 0, "10 redirects"},
		{"ids with control characters", text("id: a\x01b\ndata: 1\n\nid: a\x00b\ndata: 2\n\nid: \x7f\ndata: 3\n\n"), 3, ""},
		{"types that are no names", text("event: ../../x\ndata: 1\n\nevent: //\ndata: 2\n\nevent: \x1b[2J\ndata: 3\n\nevent: *$,\ndata: 4\n\n"), 4, ""},
		{"JSON that is none", text("data: {\n\ndata: NaN\n\ndata: \"\\ud800\"\n\ndata: 1 2\n\ndata: \xff\xfe\n\ndata: \x01\n\ndata: 1e999999\n\ndata:\n\n"), 8, ""},
	}
}

// WriteEndless writes a body without an end, until nobody takes more of it.
func WriteEndless(w io.Writer, first, again string) {
	io.WriteString(w, first)
	chunk := strings.Repeat(again, 1<<10)
	for {
		if _, err := io.WriteString(w, chunk); err != nil {
			return
		}
	}
}
