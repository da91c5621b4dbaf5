package server

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

var update = flag.Bool("update", false, "write the responses of testdata/wire anew, and their quotations in docs/protocol.md")

const (
	examplesDir  = "../../testdata/wire"
	protocolFile = "../../docs/protocol.md"
)

// An example is a file of testdata/wire, in the form that the README there describes.
type example struct {
	name     string
	remarks  string // as they stand
	request  string // with LF in its head
	response string

	horizon event.ID
	parent  string        // what the log was restored from
	parted  event.ID      // and where the two parted
	source  string        // the name of a source,
	from    string        // and the id of the log that it is
	then    []event.Draft // appended a second later
	readers []string      // topics of readers that are there, and leave one after the other
	looks   bool          // somebody looks at the board
	open    bool          // the response goes on
}

func readExample(t *testing.T, file string) *example {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	ex, rest := &example{name: filepath.Base(file)}, string(b)
	for strings.HasPrefix(rest, "#") {
		line, after, _ := strings.Cut(rest, "\n")
		ex.remarks, rest = ex.remarks+line+"\n", after
		if err := ex.remark(line); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	ex.request, ex.response, _ = strings.Cut(rest, "--- response\n")
	return ex
}

// remark parses the remarks that configure the server.
func (ex *example) remark(line string) (err error) {
	name, value, _ := strings.Cut(strings.TrimPrefix(line, "# "), ": ")
	switch name {
	case "open":
		ex.open = true
	case "looks":
		ex.looks = true
	case "horizon":
		ex.horizon, err = event.ParseID(value)
	case "parent":
		var head string
		ex.parent, head, _ = strings.Cut(value, " ")
		ex.parted, err = event.ParseID(head)
	case "reader":
		ex.readers = append(ex.readers, value)
	case "source":
		ex.source, ex.from, _ = strings.Cut(value, " ")
	case "then":
		var d event.Draft
		d, err = event.ParseDraft([]byte(value))
		ex.then = append(ex.then, d)
	}
	return err
}

// wire returns the request as it is sent.
func (ex *example) wire(t *testing.T) string {
	t.Helper()
	head, rest, _ := strings.Cut(ex.request, "\n\n")
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(ex.request)))
	if err != nil {
		t.Fatalf("%s: %v", ex.name, err)
	}
	if int(r.ContentLength) > len(rest) {
		t.Fatalf("%s: the body has %d bytes, not %d", ex.name, len(rest), r.ContentLength)
	}
	return strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + rest[:r.ContentLength]
}

// exampleLog returns the log that the examples are of.
func exampleLog(t *testing.T) *memLog {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(examplesDir, "log.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	log := newLog()
	log.now = func() time.Time { return time.Date(2026, 11, 20, 10, 5, 0, 0, time.UTC) }
	for line := range bytes.Lines(b) {
		ev, err := event.ParseLine(bytes.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		log.evs = append(log.evs, ev)
	}
	return log
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(examplesDir, "*.http"))
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, file := range files {
		ex := readExample(t, file)
		t.Run(ex.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { replay(t, ex) })
		})
	}
}

// replay sends an example's request and compares the response.
func replay(t *testing.T, ex *example) {
	log := exampleLog(t)
	log.horizon, log.parent, log.parted = ex.horizon, ex.parent, ex.parted
	cfg := Config{Loopback: true, Origins: []string{"https://app.example"}, Version: "0.0.0", Now: log.now}
	if ex.source != "" {
		cfg.Sources = func() []wire.Source { return []wire.Source{exampleSource(log, ex)} }
		log.origins = map[event.ID]event.Origin{
			3: {Source: ex.source, Log: ex.from, ID: event.ID(40).String()},
			4: {Source: ex.source, Log: ex.from, ID: event.ID(42).String()},
		}
	}
	s, stop := serve(t, log, cfg)
	defer stop()
	for i, topic := range ex.readers {
		_, reading := s.stream("/events?since=now&topic=" + url.QueryEscape(topic))
		defer reading.Close()
		time.AfterFunc(time.Duration(2+2*i)*time.Second, func() { reading.Close() })
	}
	if ex.looks {
		_, looking := s.stream(wire.PathChanges)
		defer looking.Close()
	}
	conn := s.dial()
	defer conn.Close()
	if _, err := io.WriteString(conn, ex.wire(t)); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Second, func() {
		if len(ex.then) > 0 {
			if _, err := log.Append(t.Context(), ex.then); err != nil {
				t.Error(err)
			}
		}
	})
	defer timer.Stop()
	got, open := readResponse(t, conn, strings.HasPrefix(ex.request, "HEAD"))
	if open != ex.open {
		t.Errorf("the response goes on: %t, want %t", open, ex.open)
	}
	if *update {
		ex.response = generalize(got)
		content := ex.remarks + ex.request + "--- response\n" + ex.response
		if err := os.WriteFile(filepath.Join(examplesDir, ex.name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !like(ex.response, got) {
		t.Errorf("response:\n%s\nwant:\n%s", got, ex.response)
	}
}

// exampleSource returns the source of an example, which is connected.
func exampleSource(log *memLog, ex *example) wire.Source {
	at, behind := log.evs[3].Time, int64(0)
	return wire.Source{Name: ex.source, Kind: "rstream", URL: "https://lab.example", Connected: true, Since: &log.evs[2].Time,
		Cursor: event.CursorOf(42, ex.from).String(), Stored: &at, Behind: &behind, Events: 2, Bytes: 371}
}

// readResponse reads a response, with LF in its head and its body reassembled from chunks. It
// reads an endless stream up to the second heartbeat.
func readResponse(t *testing.T, conn net.Conn, headOnly bool) (text string, open bool) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(35 * time.Second))
	br := bufio.NewReader(conn)
	var head strings.Builder
	for !strings.HasSuffix(head.String(), "\n\n") {
		line, err := br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(line, "\r\n") {
			t.Fatalf("header line %q", line)
		}
		head.WriteString(strings.TrimSuffix(line, "\r\n") + "\n")
	}
	var r io.Reader = br
	length := regexp.MustCompile(`\nContent-Length: (\d+)\n`).FindStringSubmatch(head.String())
	switch {
	case headOnly || strings.HasPrefix(head.String(), "HTTP/1.1 204") || strings.HasPrefix(head.String(), "HTTP/1.1 304"):
		return head.String(), false
	case strings.Contains(head.String(), "\nTransfer-Encoding: chunked\n"):
		r = httputil.NewChunkedReader(br)
	case length != nil:
		var n int64
		_, _ = fmt.Sscan(length[1], &n)
		r = io.LimitReader(br, n)
	}
	b, err := io.ReadAll(r)
	open = errors.Is(err, os.ErrDeadlineExceeded)
	if err != nil && !open {
		t.Fatal(err)
	}
	return head.String() + string(b), open
}

// any stands for one or more bytes in a line of a response that vary.
const anything = "{{*}}"

var changing = regexp.MustCompile(`(?m)(^Date: |"salt":"|"bloomFilter":"|"address":"|"board":")[^"\n]+`)

// boardCursor matches the random part of a cursor of the board.
var boardCursor = regexp.MustCompile(`(?m)^id: [A-Z2-7]{8}\.`)

// madeKey matches a key that the server made, and the hash and the mark of the head that depend
// on it.
var madeKey = regexp.MustCompile(`"key":"[A-Z2-7]{26}","hash":"[0-9a-f]+"`)

var headMark = regexp.MustCompile(`(?m)^(Rstream-Head: [0-9A-Z]+\.[0-9A-Z]+\.)[0-9A-Z]+`)

func generalize(response string) string {
	if madeKey.MatchString(response) {
		response = madeKey.ReplaceAllString(response, `"key":"`+anything+`","hash":"`+anything+`"`)
		response = headMark.ReplaceAllString(response, "${1}"+anything)
	}
	response = boardCursor.ReplaceAllString(response, "id: "+anything+".")
	return changing.ReplaceAllString(response, "${1}"+anything)
}

// like reports whether text matches pattern, in which {{*}} matches any text. Both may contain
// invalid UTF-8.
func like(pattern, text string) bool {
	parts := strings.Split(pattern, anything)
	text, ok := strings.CutPrefix(text, parts[0])
	for _, part := range parts[1:] {
		gap := len(text) // of an empty part at the end
		if part != "" {
			gap = strings.Index(text, part)
		}
		if !ok || gap < 1 || strings.Contains(text[:gap], "\n") {
			return false
		}
		text = text[gap+len(part):]
	}
	return ok && text == ""
}

// quotation is an example in the specification: its name, then its text.
var quotation = regexp.MustCompile("(?s)<!-- example (\\S+) -->\n```http\n(.*?)```\n")

// The specification names every example, and its quotations are the recorded examples.
func TestProtocolQuotesExamples(t *testing.T) {
	b, err := os.ReadFile(protocolFile)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if *update {
		text = quotation.ReplaceAllStringFunc(text, func(q string) string {
			name := quotation.FindStringSubmatch(q)[1]
			return "<!-- example " + name + " -->\n```http\n" + readAll(t, name) + "```\n"
		})
		if err := os.WriteFile(protocolFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	quoted := quotation.FindAllStringSubmatch(text, -1)
	if len(quoted) == 0 {
		t.Error("docs/protocol.md quotes no example")
	}
	for _, q := range quoted {
		if q[2] != readAll(t, q[1]) {
			t.Errorf("docs/protocol.md does not quote %s as it is; go test ./internal/server -run 'Examples|Quotes' -update", q[1])
		}
	}
	files, _ := filepath.Glob(filepath.Join(examplesDir, "*.http"))
	for _, file := range files {
		if !strings.Contains(text, filepath.Base(file)) {
			t.Errorf("docs/protocol.md does not name %s", filepath.Base(file))
		}
	}
}

// The digest computed by hand in the specification is that of its example.
func TestProtocolComputesDigest(t *testing.T) {
	b, err := os.ReadFile(protocolFile)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(readAll(t, "windows-sum.http"), `"digest":"`)
	if !ok || len(rest) < 64 || !strings.Contains(string(b), "    "+rest[:64]+"  -\n") {
		t.Errorf("docs/protocol.md does not come to the digest %.64s", rest)
	}
}

// readAll returns an example as it is quoted: it ends with exactly one line feed.
func readAll(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(examplesDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(b), "\n") + "\n"
}
