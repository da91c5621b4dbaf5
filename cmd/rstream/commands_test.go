//go:build unix

package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/demo"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/internal/testfile"
)

// commands are the commands of scripts, in addition to testscript's own.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	// run PROGRAM ARG...: as exec; a worker runs rstream, unless this is the long form.
	"run": cmdRun,
	// exits STATUS PROGRAM ARG...: run a program that must exit with a status.
	"exits": cmdExits,
	// nobody STATUS PROGRAM ARG...: run a program as a user who owns nothing, if root
	// runs the script; it must exit with a status.
	"nobody": cmdNobody,
	// start NAME PROGRAM ARG...: run a program in the background, as run does. It writes to NAME.out
	// and NAME.err.
	"start": cmdStart,
	// signal SIGNAL NAME: send TERM, INT, HUP, KILL, STOP or CONT.
	"signal": cmdSignal,
	// ended NAME STATUS: wait until it ends. STATUS may be a signal such as KILL.
	"ended": cmdEnded,
	// waitfile FILE [N]: wait until a file exists and has N lines, or any content.
	"waitfile": cmdWaitFile,
	// waitgrep PATTERN FILE: wait until a file matches.
	"waitgrep": cmdWaitGrep,
	// waitout PATTERN PROGRAM ARG...: run a program again after each change of a file in
	// the working folder, until its output matches.
	"waitout": cmdWaitOut,
	// setenvfile VAR FILE: wait for a file and set a variable to its content.
	"setenvfile": cmdSetenvFile,
	// address VAR URL: set a variable to the host and port of a URL.
	"address": cmdAddress,
	// deadport VAR: set a variable to an address that refuses connections.
	"deadport": cmdDeadPort,
	// badwire VAR URL N [hold]: set a variable to a URL that forwards to another, but cuts
	// each connection after N bytes of responses. With hold, nothing passes after a cut until
	// resume VAR.
	"badwire": cmdFlakyProxy,
	"resume":  cmdResume,
	// wire VAR URL [VAR2]: set a variable to a URL that forwards to another and counts
	// the events that cross it, together with those of the wire VAR2.
	"wire": cmdWire,
	// gate VAR URL PATH: set a variable to a URL that forwards to another and holds the
	// first request to PATH. atgate VAR: wait for that request. opengate VAR: release
	// it.
	"gate":     cmdGate,
	"atgate":   cmdAtGate,
	"opengate": cmdOpenGate,
	// shorten VAR URL HOW N: set a variable to a URL that forwards to another and
	// changes the first N responses with events: empty, cut, compressed or uncounted.
	"shorten": cmdShorten,
	// front VAR URL HOW: set a variable to a URL that forwards to another, but is hung, lying,
	// slow (40 kB a second) or misdirected (it follows no topic but bob's).
	"front": cmdFront,
	// held VAR FILE TOPIC...: events of the topics that a copy holds now must not cross
	// the wire again.
	"held": cmdHeld,
	// crossed VAR EVENTS [AGAIN]: EVENTS events have crossed the wire, at most AGAIN
	// crossings were repeats, and no held event crossed.
	"crossed": cmdCrossed,
	// stub VAR STATUS TYPE BODY [HEADER VALUE]...: set a variable to the URL of a
	// server that is not rstream.
	"stub": cmdStub,
	// foreign VAR FILE [CUT]: set a variable to the URL of an event stream with the blocks
	// of a file, which ends after CUT blocks of each connection.
	"foreign": cmdForeign,
	// hub VAR KIND FILE: set a variable to the URL of a Mercure hub (mercure) or an ntfy
	// topic (ntfy) with the lines of a file.
	"hub": cmdHub,
	// page VAR URL N: set a variable to the URL of a web page that follows a server with an
	// EventSource, and appends the ids of the first N events that it has seen to seen/page.
	"page": cmdPage,
	// raw ADDRESS FILE: send a file over a connection and print the response.
	"raw": cmdRaw,
	// quakes FILE [N]: write the earthquakes, or the first N of them.
	"quakes": cmdQuakes,
	// sql FILE STATEMENT: change or query a file with SQL, without the program.
	"sql": cmdSQL, "edit": cmdEdit, "setlog": cmdSetLog, "queue": cmdQueue,
	// ago VAR DURATION LAYOUT: set a variable to a time in the past, in the zone TZ.
	"ago": cmdAgo,
	// plain FILE: print a file with everything that differs between runs replaced.
	"plain": cmdPlain,
	// jsonl FILE MEMBER...: print these members of each line, as JSON.
	"jsonl": cmdJSONL,
	// lines N FILE: check that a file has N lines.
	"lines": cmdLines,
	// ordered FILE: check that the events in a file are in order, each once.
	"ordered": cmdOrdered,
	// fold FILE [ID]: print the state after the events in a file, up to ID.
	"fold": cmdFold,
}

// patience limits how long a script waits for something that must happen.
const patience = 30 * time.Second

// waitFor waits until done, which it calls again after each change of a file in dir. What
// done looks at may change a little later than a file: it is also called now and then.
func waitFor(ts *testscript.TestScript, what, dir string, done func() bool) {
	changes, err := fsnotify.NewWatcher()
	ts.Check(err)
	defer changes.Close()
	ts.Check(changes.Add(dir))
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for deadline := time.After(patience); !done(); {
		select {
		case <-changes.Events:
		case <-again.C:
		case err := <-changes.Errors:
			ts.Check(err)
		case <-deadline:
			ts.Fatalf("waited %s in vain for %s", patience, what)
		}
	}
}

// waitForFile waits until the content of a file satisfies a condition.
func waitForFile(ts *testscript.TestScript, what, file string, done func(content []byte) bool) {
	path := ts.MkAbs(file)
	waitFor(ts, what, filepath.Dir(path), func() bool {
		b, err := os.ReadFile(path)
		return err == nil && done(b)
	})
}

func want(ts *testscript.TestScript, neg bool, args []string, n int, usage string) {
	if neg || len(args) < n {
		ts.Fatalf("usage: %s", usage)
	}
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "exits STATUS PROGRAM ARG...")
	if status := runProgram(ts, args[1], args[2:]...); strconv.Itoa(status) != args[0] {
		ts.Fatalf("ended with status %d, want %s", status, args[0])
	}
}

func cmdRun(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, false, args, 1, "run PROGRAM ARG...")
	if status := runProgram(ts, args[0], args[1:]...); (status != 0) != neg {
		ts.Fatalf("ended with status %d", status)
	}
}

func cmdWaitFile(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, "waitfile FILE [N]")
	n := -1
	if len(args) > 1 {
		var err error
		n, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	waitForFile(ts, strings.Join(args, " with lines: "), args[0], func(content []byte) bool {
		return len(content) > 0 && bytes.Count(content, []byte("\n")) >= n
	})
}

func cmdWaitOut(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "waitout PATTERN PROGRAM ARG...")
	re, err := regexp.Compile(args[0])
	ts.Check(err)
	waitFor(ts, args[0], ts.MkAbs("."), func() bool {
		// It may fail until what it needs is there, such as a file that is being created.
		return ts.Exec(args[1], args[2:]...) == nil && re.MatchString(ts.ReadFile("stdout"))
	})
}

func cmdWaitGrep(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "waitgrep PATTERN FILE")
	re, err := regexp.Compile(args[0])
	ts.Check(err)
	waitForFile(ts, args[0], args[1], re.Match)
}

func cmdSetenvFile(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "setenvfile VAR FILE")
	cmdWaitFile(ts, false, args[1:])
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

func cmdAddress(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "address VAR URL")
	_, address, _ := strings.Cut(args[1], "://")
	ts.Setenv(args[0], address)
}

func cmdDeadPort(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, "deadport VAR")
	address, release, err := holdPort()
	ts.Check(err)
	ts.Defer(release)
	ts.Setenv(args[0], address)
}

// holdPort binds a socket and never listens on it, so that no other process gets its port by
// chance. One that names the address can listen there, again and again.
func holdPort() (address string, release func(), err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", nil, err
	}
	unix.CloseOnExec(fd)
	release = func() { unix.Close(fd) }
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	var name unix.Sockaddr
	if err == nil {
		name, err = unix.Getsockname(fd)
	}
	if err != nil {
		release()
		return "", nil, err
	}
	return fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port), release, nil
}

func cmdFlakyProxy(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, "badwire VAR URL N [hold]")
	n, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	w, err := demo.NewFlakyProxy(context.Background(), strings.TrimPrefix(args[1], "http://"))
	ts.Check(err)
	ts.Defer(w.Close)
	w.CutAfter(n)
	if len(args) > 3 {
		w.HoldAfterCut()
	}
	ts.Value(flakyProxiesKey{}).(flakyProxies)[args[0]] = w
	ts.Setenv(args[0], "http://"+w.Addr())
}

type flakyProxiesKey struct{}

// flakyProxies are the flaky proxies of a script, by the variable of their URL.
type flakyProxies map[string]*demo.FlakyProxy

func cmdResume(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, "resume VAR")
	w := ts.Value(flakyProxiesKey{}).(flakyProxies)[args[0]]
	if w == nil {
		ts.Fatalf("there is no flaky proxy %s", args[0])
	}
	w.Resume()
}

func cmdStub(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 4, "stub VAR STATUS TYPE BODY [HEADER VALUE]...")
	status, err := strconv.Atoi(args[1])
	ts.Check(err)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", args[2])
		for i := 4; i+1 < len(args); i += 2 {
			w.Header().Set(args[i], args[i+1])
		}
		w.WriteHeader(status)
		fmt.Fprintln(w, args[3])
	}))
	ts.Defer(srv.Close)
	ts.Setenv(args[0], srv.URL)
}

func cmdRaw(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "raw ADDRESS FILE")
	conn, err := net.Dial("tcp", args[0])
	ts.Check(err)
	defer conn.Close()
	ts.Check(conn.SetDeadline(time.Now().Add(patience)))
	text := strings.ReplaceAll(strings.TrimRight(ts.ReadFile(args[1]), "\n"), "\n", "\r\n") + "\r\n\r\n"
	_, err = conn.Write([]byte(text))
	ts.Check(err)
	var answer bytes.Buffer
	_, err = answer.ReadFrom(conn)
	ts.Check(err)
	fmt.Fprint(ts.Stdout(), strings.ReplaceAll(answer.String(), "\r\n", "\n"))
}

func cmdQuakes(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, "quakes FILE [N]")
	b, err := demo.Quakes()
	ts.Check(err)
	if len(args) > 1 {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		b = bytes.Join(bytes.SplitAfterN(b, []byte("\n"), n+1)[:n], nil)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

func cmdSQL(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "sql FILE STATEMENT")
	db, err := sql.Open("sqlite", "file:"+ts.MkAbs(args[0])+"?_pragma=busy_timeout(10000)")
	ts.Check(err)
	defer db.Close()
	rows, err := db.Query(args[1])
	ts.Check(err)
	defer rows.Close()
	for rows.Next() {
		var v any
		ts.Check(rows.Scan(&v))
		fmt.Fprintln(ts.Stdout(), v)
	}
	ts.Check(rows.Err())
}

// cmdSetLog changes the row of the log of a file as if the program had written it.
func cmdSetLog(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "setlog FILE ASSIGNMENTS")
	db, err := sql.Open("sqlite", "file:"+ts.MkAbs(args[0])+"?_pragma=busy_timeout(10000)")
	ts.Check(err)
	defer db.Close()
	_, err = db.Exec(`UPDATE log SET ` + args[1])
	ts.Check(err)
	ts.Check(testfile.SumLog(db))
}

// cmdQueue puts a value of many bytes into the outbox of a copy, as a program with other limits.
func cmdQueue(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, "queue FILE STORAGE BYTES")
	storage, err := event.ParseStorage(args[1])
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	db, err := cache.Open(context.Background(), ts.MkAbs(args[0]), cache.Config{Role: cache.Client})
	ts.Check(err)
	defer db.Close()
	value := `"` + strings.Repeat("0", n-2) + `"`
	_, err = db.Outbox().Queue(context.Background(), []event.Draft{{User: storage.User, Path: storage.Path, Type: event.Put, Key: "large", Value: []byte(value)}})
	ts.Check(err)
}

// cmdEdit changes stored events of a file without its knowledge: it deletes one or all,
// replaces a text in the line of one, sets its time, or moves it to a storage of a user.
func cmdEdit(ts *testscript.TestScript, neg bool, args []string) {
	usage := "edit FILE delete all|ID, edit FILE replace ID OLD NEW, edit FILE time ID TIME or edit FILE move ID USER"
	if len(args) < 3 {
		want(ts, neg, args, 3, usage)
	}
	db, err := sql.Open("sqlite", "file:"+ts.MkAbs(args[0])+"?_pragma=busy_timeout(10000)")
	ts.Check(err)
	defer db.Close()
	if args[1] == "delete" && args[2] == "all" {
		ts.Check(pagetest.RemoveAll(db))
		return
	}
	n, err := strconv.ParseUint(args[2], 10, 63)
	ts.Check(err)
	id := event.ID(n)
	line := func(change func(line []byte) []byte) error {
		return pagetest.Edit(db, id, func(ev *pagetest.Event) { ev.Line = change(ev.Line) })
	}
	switch what, rest := args[1], args[3:]; {
	case what == "delete" && len(rest) == 0:
		err = pagetest.Delete(db, id)
	case what == "replace" && len(rest) == 2:
		err = line(func(l []byte) []byte { return bytes.ReplaceAll(l, []byte(rest[0]), []byte(rest[1])) })
	case what == "time" && len(rest) == 1:
		const at, length = 30, len("2020-01-02T08:35:00.000001Z")
		err = line(func(l []byte) []byte { return slices.Concat(l[:at], []byte(rest[0]), l[at+length:]) })
	case what == "move" && len(rest) == 1:
		var storage int64
		if err = db.QueryRow(`SELECT id FROM storage WHERE user = ?`, rest[0]).Scan(&storage); err == nil {
			err = pagetest.Edit(db, id, func(ev *pagetest.Event) { ev.Storage = storage })
		}
	default:
		ts.Fatalf("usage: %s", usage)
	}
	ts.Check(err)
}

func cmdAgo(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, "ago VAR DURATION LAYOUT")
	d, err := time.ParseDuration(args[1])
	ts.Check(err)
	zone, err := time.LoadLocation(ts.Getenv("TZ"))
	ts.Check(err)
	ts.Setenv(args[0], time.Now().Add(-d).In(zone).Format(args[2]))
}

// plainWords replace text that differs between runs in golden files.
var plainWords = []struct {
	re   func() *regexp.Regexp
	word string
}{
	{pattern(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?`), "TIME"},
	{pattern(`"key":"[A-Z2-7]{26}"`), `"key":"RANDOM"`},
	{pattern(`\b[0-9a-f]{64}\b`), "HASH"},
	{pattern(`\b[0-9A-HJKMNP-TV-Z]{16}\b`), "LOG"},
	{pattern(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{pattern(`"(bytes|received|saved)":\d+`), `"$1":N`},
	{pattern(`\d+(\.\d)? (B|kB|MB)\b`), "N $2"},
}

func cmdPlain(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, "plain FILE")
	text := strings.ReplaceAll(ts.ReadFile(args[0]), ts.Getenv("WORK"), "WORK")
	for _, p := range plainWords {
		text = p.re().ReplaceAllString(text, p.word)
	}
	fmt.Fprint(ts.Stdout(), text)
}

func cmdJSONL(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "jsonl FILE MEMBER...")
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		var object map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			ts.Fatalf("%q: %v", line, err)
		}
		var values []string
		for _, name := range args[1:] {
			values = append(values, string(object[name]))
		}
		fmt.Fprintln(ts.Stdout(), strings.Join(values, " "))
	}
}

func cmdLines(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "lines N FILE")
	if n := strings.Count(ts.ReadFile(args[1]), "\n"); strconv.Itoa(n) != args[0] {
		ts.Fatalf("%s has %d lines, want %s", args[1], n, args[0])
	}
}

func cmdOrdered(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, "ordered FILE")
	last := ""
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		var ev struct{ ID string }
		ts.Check(json.Unmarshal([]byte(line), &ev))
		if ev.ID <= last {
			ts.Fatalf("%s: event %s follows %s", args[0], ev.ID, last)
		}
		last = ev.ID
	}
}

// cmdFold folds events into a map, as any script would.
func cmdFold(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, "fold FILE [ID]")
	state := map[[2]string]string{}
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		var ev struct{ ID, User, Path, Type string }
		ts.Check(json.Unmarshal([]byte(line), &ev))
		switch name := [2]string{ev.User, ev.Path}; {
		case len(args) > 1 && ev.ID > args[1]:
		case ev.Type == "PUT":
			state[name] = strings.Replace(line, `,"snapshot":true`, "", 1)
		case ev.Type == "DEL":
			delete(state, name)
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(state), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		fmt.Fprint(ts.Stdout(), state[name])
	}
}
