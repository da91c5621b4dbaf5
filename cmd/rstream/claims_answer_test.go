//go:build unix

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/wire"
)

// An answerFault is a fault on the other side of a command that fills, checks or reads
// a copy.
type answerFault struct {
	name string
	what string // a key of badAnswers; "" is none
	at   int    // the first request with the fault, from 1; if 0, no server listens at all
	n    int    // the number of requests with the fault; if 0, all
	gone bool   // no server listens afterwards
	disk int    // the maximum size of a file; if 0, no limit
}

// badAnswers are the responses sent instead of the right one.
var badAnswers = map[string]func(w http.ResponseWriter, right *httptest.ResponseRecorder){
	"killed": func(w http.ResponseWriter, right *httptest.ResponseRecorder) {
		copyAnswer(w, right, right.Body.Bytes()[:right.Body.Len()/2], right.Body.Len())
		_ = http.NewResponseController(w).Flush() // the connection is cut next
		panic(http.ErrAbortHandler)
	},
	"shortened": func(w http.ResponseWriter, right *httptest.ResponseRecorder) {
		lines := bytes.SplitAfter(right.Body.Bytes(), []byte("\n"))
		b := bytes.Join(lines[:len(lines)*3/5], nil)
		copyAnswer(w, right, b, len(b))
	},
	"emptied": func(w http.ResponseWriter, right *httptest.ResponseRecorder) { copyAnswer(w, right, nil, 0) },
	"503 of the log": func(w http.ResponseWriter, right *httptest.ResponseRecorder) {
		refuseAs(w, right.Header().Get(wire.HeaderLog), 503)
	},
	"507 of the log": func(w http.ResponseWriter, right *httptest.ResponseRecorder) {
		refuseAs(w, right.Header().Get(wire.HeaderLog), 507)
	},
	"404 of the log": func(w http.ResponseWriter, right *httptest.ResponseRecorder) {
		refuseAs(w, right.Header().Get(wire.HeaderLog), 404)
	},
	"503": func(w http.ResponseWriter, _ *httptest.ResponseRecorder) { refuseAs(w, "", 503) },
	"404": func(w http.ResponseWriter, _ *httptest.ResponseRecorder) { refuseAs(w, "", 404) },
	"502 in HTML": func(w http.ResponseWriter, _ *httptest.ResponseRecorder) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(502)
		fmt.Fprint(w, "<html><body><h1>502 Bad Gateway</h1></body></html>")
	},
	"200 in HTML": func(w http.ResponseWriter, _ *httptest.ResponseRecorder) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html><body>Please log in.</body></html>")
	},
}

func copyAnswer(w http.ResponseWriter, right *httptest.ResponseRecorder, body []byte, length int) {
	for name, values := range right.Header() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(length))
	w.WriteHeader(right.Code)
	_, _ = w.Write(body) // the client may have disconnected
}

func refuseAs(w http.ResponseWriter, log string, status int) {
	if log != "" {
		w.Header().Set(wire.HeaderLog, log)
	}
	wire.Errorf(status, "refused").Write(w)
}

// answerFaults is one side of the table.
func answerFaults() (all []answerFault) {
	all = append(all, answerFault{name: "none", at: 1, n: 1}, answerFault{name: "no server"},
		answerFault{name: "small files", at: 1, disk: 40 << 10}, answerFault{name: "files less small", at: 1, disk: 320 << 10})
	for _, what := range slices.Sorted(mapsKeys(badAnswers)) {
		for _, at := range []int{1, 2, 3} {
			all = append(all,
				answerFault{name: fmt.Sprintf("%s at %d", what, at), what: what, at: at, n: 1},
				answerFault{name: fmt.Sprintf("%s from %d on", what, at), what: what, at: at},
				answerFault{name: fmt.Sprintf("%s at %d, then no server", what, at), what: what, at: at, n: 1, gone: true})
		}
	}
	return all
}

func mapsKeys[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for key := range m {
			if !yield(key) {
				return
			}
		}
	}
}

// A copyReader is a command that fills, checks or reads a copy.
type copyReader struct {
	name  string
	copy  string // the copy at the start: none, half, whole, damaged or imported
	args  []string
	want  func(l *truthLog) string // its output if it succeeds; nil if that is a summary
	fails string                   // its error although the server works
}

// copyReaders is the other side of the table.
var copyReaders = []copyReader{
	{name: "sync", args: []string{"sync", "a"}},
	{name: "sync the rest", copy: "half", args: []string{"sync", "a"}},
	{name: "sync nothing", copy: "whole", args: []string{"sync", "a"}},
	{name: "sync what differs", copy: "damaged", args: []string{"sync", "a"}},
	{name: "sync after import", copy: "imported", args: []string{"sync", "a"}},
	{name: "sync --print", copy: "half", args: []string{"sync", "a", "--print"},
		want: func(l *truthLog) string { return l.lines(l.half, l.head, ofA) }},
	{name: "sync --at", args: []string{"sync", "a", "--at", "MIDDLE"}},
	{name: "import", args: []string{"import", "FILE"}},
	{name: "import more", copy: "half", args: []string{"import", "FILE"}},
	{name: "verify", copy: "whole", args: []string{"verify"}},
	{name: "verify what differs", copy: "damaged", args: []string{"verify"}, fails: "1 window differs from the server"},
	{name: "verify --repair", copy: "damaged", args: []string{"verify", "--repair"}},
	{name: "state", copy: "half", args: []string{"state", "a"}, want: func(l *truthLog) string { return l.state(l.head) }},
	{name: "state without a copy", args: []string{"state", "a"}, want: func(l *truthLog) string { return l.state(l.head) }},
	{name: "state --at", args: []string{"state", "a", "--at", "MIDDLE"}, want: func(l *truthLog) string { return l.state(l.half) }},
	{name: "get", copy: "half", args: []string{"get", "a/x1", "-o", "text"}, want: func(l *truthLog) string { return l.value("x1", l.head) }},
	{name: "get of a deleted value", args: []string{"get", "a/x0"}, fails: "a/x0: has no value, it was deleted at "},
	{name: "get what never was", copy: "half", args: []string{"get", "a/never"}, fails: "a/never: has never been written"},
	{name: "get --at", copy: "half", args: []string{"get", "a/x1", "--at", "MIDDLE", "-o", "text"}, want: func(l *truthLog) string { return l.value("x1", l.half) }},
	{name: "get --at before all", args: []string{"get", "a/x1", "--at", "FIRST"}, fails: "a/x1: had no value at 0000000000001"},
	{name: "get --events", args: []string{"get", "a/x2", "--events"},
		want: func(l *truthLog) string {
			return l.lines(0, l.head, func(ev *event.Event) bool { return ofA(ev) && ev.Path == "x2" })
		}},
	{name: "tail", args: []string{"tail", "a", "--since", "beginning", "--until-live"},
		want: func(l *truthLog) string { return l.lines(0, l.head, ofA) }},
	{name: "tail --name", copy: "half", args: []string{"tail", "a", "--name", "c", "--until-live"},
		want: func(l *truthLog) string { return l.lines(0, l.head, ofA) }},
	{name: "status", copy: "half", args: []string{"status"}},
	{name: "status as text", copy: "whole", args: []string{"status", "-o", "text"}},
}

func ofA(ev *event.Event) bool { return ev.User == "a" }

// A truthLog is the log for all cells of the table, and copies of it.
type truthLog struct {
	db   *cache.DB
	srv  *server.Server
	dir  string
	evs  []event.Event
	half event.ID
	head event.ID
}

// answerEvents is less than a block, so there are no block digests of the events in a
// damaged copy.
const answerEvents = 400

func newTruthLog(t *testing.T) *truthLog {
	l := &truthLog{dir: t.TempDir()}
	var err error
	if l.db, err = cache.Open(t.Context(), filepath.Join(l.dir, "log.db"), cache.Config{Role: cache.Server}); err != nil {
		t.Fatal(err)
	}
	l.srv = server.New(l.db, server.Config{})
	url := httptest.NewServer(l.srv)
	t.Cleanup(func() {
		l.srv.Stop()
		url.CloseClientConnections()
		url.Close()
		if err := l.db.Close(); err != nil {
			t.Error(err)
		}
	})
	var drafts []event.Draft
	for i := range answerEvents {
		d := event.Draft{User: []string{"b", "a", "a", "a"}[i%4], Path: fmt.Sprint("x", i%7), Type: event.Put, Key: fmt.Sprint(i), Value: fmt.Appendf(nil, `{"n":%d}`, i)}
		if d.Path == "x0" && d.User == "a" && i%5 > 0 {
			d.Type, d.Value = event.Del, nil
		}
		drafts = append(drafts, d)
	}
	drafts = append(drafts, event.Draft{User: "a", Path: "x0", Type: event.Del, Key: "last"})
	if _, err := l.db.Append(t.Context(), drafts); err != nil {
		t.Fatal(err)
	}
	l.head = l.db.Head()
	l.half = l.head / 2
	for after := event.Beginning; after < l.head; {
		evs, next, err := l.db.Read(t.Context(), []event.Topic{event.All}, after, l.head, 1000)
		if err != nil {
			t.Fatal(err)
		}
		l.evs, after = append(l.evs, evs...), next
	}
	l.makeCopies(t, url.URL)
	return l
}

// makeCopies creates the copies that commands start with.
func (l *truthLog) makeCopies(t *testing.T, url string) {
	must := func(name string, args ...string) ran {
		t.Helper()
		r := runCommand(t, append(args, "--cache", l.copyOf(name), "-s", url)...)
		if r.status != exitDone {
			t.Fatalf("%q: %+v", args, r)
		}
		return r
	}
	must("half", "sync", "a", "--until", l.half.String())
	must("whole", "sync", "a")
	must("damaged", "sync", "a")
	file := must("whole", "export", "a").out
	if err := os.WriteFile(l.exported(), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	deleteEvents(t, l.copyOf("damaged"), 30, 31)
	must("imported", "import", l.exported())
}

func (l *truthLog) copyOf(name string) string { return filepath.Join(l.dir, name+".db") }
func (l *truthLog) exported() string          { return filepath.Join(l.dir, "exported.jsonl") }

// lines returns the lines of the events in (from, to] that of accepts.
func (l *truthLog) lines(from, to event.ID, of func(*event.Event) bool) string {
	var b strings.Builder
	for i := range l.evs {
		if ev := &l.evs[i]; from < ev.ID && ev.ID <= to && of(ev) {
			b.Write(ev.Line())
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func (l *truthLog) latest(at event.ID) map[string]*event.Event {
	now := map[string]*event.Event{}
	for i := range l.evs {
		if ev := &l.evs[i]; ev.ID <= at && ofA(ev) {
			now[ev.Path] = ev
		}
	}
	return now
}

func (l *truthLog) state(at event.ID) string {
	var b strings.Builder
	now := l.latest(at)
	for _, path := range slices.Sorted(mapsKeys(now)) {
		if ev := now[path]; ev.Type == event.Put {
			fmt.Fprintf(&b, "%s\n", ev.Line())
		}
	}
	return b.String()
}

func (l *truthLog) value(path string, at event.ID) string {
	return string(l.latest(at)[path].Value) + "\n"
}

// An answerTrial is one cell of the table.
type answerTrial struct {
	t *testing.T
	l *truthLog
	f answerFault
	c copyReader

	cache string
	bad   *httptest.Server

	took     time.Duration
	mu       sync.Mutex
	requests int
	failed   []*httptest.ResponseRecorder // the right responses that were replaced by bad ones
}

// Whatever a server responds, or does not, to a command that fills, checks or reads a
// copy: each message of the command is true of the log, the copy and the responses.
func TestAnswerClaims(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, dir)
	}
	l := newTruthLog(t)
	for i, f := range answerFaults() {
		for j, c := range copyReaders {
			if (7*i+j)%longtest.Size(59, 5) != 0 {
				continue
			}
			t.Run(f.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				(&answerTrial{t: t, l: l, f: f, c: c}).run()
			})
		}
	}
}

func (tr *answerTrial) serve(w http.ResponseWriter, r *http.Request) {
	tr.mu.Lock()
	tr.requests++
	n := tr.requests
	tr.mu.Unlock()
	if tr.f.what == "" || n < tr.f.at || tr.f.n > 0 && n >= tr.f.at+tr.f.n {
		tr.l.srv.ServeHTTP(w, r)
		return
	}
	if tr.f.gone {
		tr.bad.Listener.Close()
		w.Header().Set("Connection", "close")
	}
	right := httptest.NewRecorder()
	tr.l.srv.ServeHTTP(right, r)
	tr.mu.Lock()
	tr.failed = append(tr.failed, right)
	tr.mu.Unlock()
	badAnswers[tr.f.what](w, right)
}

func (tr *answerTrial) run() {
	dir := tr.t.TempDir()
	tr.cache = filepath.Join(dir, "copy.db")
	if tr.c.copy != "" {
		for _, beside := range []string{"", "-wal"} {
			b, err := os.ReadFile(tr.l.copyOf(tr.c.copy) + beside)
			if err == nil {
				err = os.WriteFile(tr.cache+beside, b, 0o600)
			}
			if err != nil && beside == "" {
				tr.t.Fatal(err)
			}
		}
	}
	tr.bad = httptest.NewServer(http.HandlerFunc(tr.serve))
	defer tr.bad.Close()
	defer tr.bad.CloseClientConnections()
	if tr.f.at == 0 {
		tr.bad.Listener.Close()
	}
	begun := time.Now()
	r := tr.command()
	tr.took = time.Since(begun)
	tr.t.Logf("%d in %s: %s%.300s", r.status, tr.took, r.err, r.out)
	tr.checkCopy(r)
	tr.checkOutput(r)
	tr.checkSentences(r)
}

// answerTimeout ends commands that would retry forever.
const answerTimeout = 700 * time.Millisecond

// command runs the command: in this process, unless the size of its files is limited.
func (tr *answerTrial) command() ran {
	args := append(slices.Clone(tr.c.args), "--cache", tr.cache, "-s", tr.bad.URL)
	if tr.f.gone || tr.f.n == 0 {
		args = append(args, "--timeout", answerTimeout.String())
	}
	for i, arg := range args {
		switch arg {
		case "MIDDLE":
			args[i] = tr.l.half.String()
		case "FIRST":
			args[i] = event.ID(1).String()
		case "FILE":
			args[i] = tr.l.exported()
		}
	}
	if tr.f.disk == 0 {
		return runCommand(tr.t, args...)
	}
	script := fmt.Sprintf(`trap '' XFSZ; ulimit -f %d; exec rstream "$@"`, tr.f.disk/512)
	cmd := exec.CommandContext(tr.t.Context(), "sh", append([]string{"-c", script, "sh"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Dir(tr.cache))
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // the exit status says more
	return ran{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}
