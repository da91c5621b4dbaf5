package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/mattn/go-runewidth"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/server"
	"golang.org/x/sys/unix"
)

// onScreen runs the program on a terminal of some columns, and returns what it shows
// there and its exit status.
func onScreen(t *testing.T, columns int, cmd *exec.Cmd) (shown string, status int) {
	t.Helper()
	shown = readScreen(t, columns, func(program *os.File) {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}, func() { waitWithin(t, cmd) })
	return shown, cmd.ProcessState.ExitCode()
}

// onScreen is as the function of that name, without a process of its own.
func (w *worker) onScreen(t *testing.T, columns int, cmd *exec.Cmd) (shown string, status int) {
	t.Helper()
	shown = readScreen(t, columns, func(program *os.File) {
		if err := w.send(workerTask{cmd.Args[1:], cmd.Env, cmp.Or(cmd.Dir, ".")}, program, program, program); err != nil {
			t.Fatal(err)
		}
	}, func() {
		var err error
		if status, err = w.receive(); err != nil {
			t.Fatalf("%v ended its process: %v", cmd.Args, err)
		}
	})
	return shown, status
}

// readScreen returns what a terminal of some columns shows of a program from its start to its end.
func readScreen(t *testing.T, columns int, start func(program *os.File), wait func()) string {
	t.Helper()
	person, program := openTerminal(t)
	if err := unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(columns)}); err != nil {
		t.Fatal(err)
	}
	start(program)
	program.Close()
	var b bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(&b, person) // until the program's end is closed
	}()
	wait()
	<-read
	return erased.ReplaceAllString(strings.ReplaceAll(b.String(), "\r\n", "\n"), "")
}

// erased matches what a status line has shown, and its end.
var erased = regexp.MustCompile(`[^\n]*` + regexp.QuoteMeta(eraseLine))

// screenLog is a log of which every line is hard to show.
const screenLog = `{"user":"alice","path":"posts/1","value":{"n":1,"text":"short"},"key":"1"}
{"user":"alice","path":"posts/2","value":{"text":"a value that is longer than the widest screen of these tests, which has one hundred and forty columns, so that it is cut at every width"},"key":"2"}
{"user":"alice","path":"posts/1","type":"DEL","key":"3"}
{"user":"zoë","path":"写真/夏","value":{"title":"写真写真写真写真写真写真写真写真写真写真写真写真写真写真写真写真","flag":"🇫🇷🇩🇪👩‍👩‍👧"},"key":"4"}
` + "{\"user\":\"mallory\",\"path\":\"x\",\"value\":\"\u009b2J\u202e raw and \\u001b[2J escaped\",\"key\":\"5\"}\n" + `{"user":"bob","path":"a/very/long/path/that/alone/is/wider/than/a/small/screen/and/goes/on/for/a/while","value":1,"key":"6"}
{"user":"bob","path":"n","value":[1.50,12345678901234567890,"x"],"key":"7"}
`

// Events on a screen: one a line that fits it, at three widths, with colours and
// without. The times are replaced, since a log gives its own.
func TestScreens(t *testing.T) {
	t.Parallel()
	url, dir := logServer(t), t.TempDir()
	events := filepath.Join(dir, "events.jsonl")
	if err := os.WriteFile(events, []byte(screenLog), 0o600); err != nil {
		t.Fatal(err)
	}
	copyFile := filepath.Join(dir, "copy.db")
	rstream := func(args ...string) *exec.Cmd {
		cmd := rstreamCommand(t, append(args, "-s", url, "--cache", copyFile)...)
		cmd.Env = append(cmd.Env, "TERM=xterm", "NO_COLOR=")
		return cmd
	}
	if out, err := rstream("put", "-q", "--from", events).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := rstream("sync", "-q", "--all").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	onScreen := onScreen
	if !longtest.Enabled() {
		w, err := startWorker("UTC")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.end() })
		onScreen = w.onScreen
	}
	var got strings.Builder
	show := func(columns int, args ...string) string {
		t.Helper()
		shown, status := onScreen(t, columns, rstream(args...))
		if status != 0 {
			t.Fatalf("%v ended with %d: %s", args, status, shown)
		}
		shown = screenTimes.ReplaceAllStringFunc(shown, sampleTime)
		got.WriteString("== " + strings.Join(args, " ") + "\n" + strings.ReplaceAll(shown, "\x1b", "^"))
		return shown
	}
	for _, columns := range []int{140, 80, 40} {
		got.WriteString("\n" + strings.Repeat("=", columns) + "\n")
		for _, args := range [][]string{{"log", "--all"}, {"log", "--all", "--color", "never"}, {"tail", "--all", "-n", "2", "--count", "2"}, {"state", "--all"}, {"state", "--all", "--diff", "beginning"}, {"ls"}, {"ls", "bob/a"}, {"ls", "-R", "--sort", "count"}, {"windows"}} {
			for line := range strings.Lines(show(columns, args...)) {
				plain := colours().ReplaceAllString(strings.TrimSuffix(line, "\n"), "")
				if width := runewidth.StringWidth(plain); width > columns {
					t.Errorf("at %d columns, %v shows a line of %d: %s", columns, args, width, plain)
				}
				if strings.ContainsFunc(plain, steersTerminal) {
					t.Errorf("%v shows %q", args, plain)
				}
			}
		}
	}
	got.WriteString("\n" + strings.Repeat("=", 40) + "\n")
	show(40, "log", "--all", "--full")
	show(40, "get", "bob/n")
	show(40, "get", "zoë/写真/夏")
	const golden = "../../testdata/screens.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || string(want) != got.String() {
		t.Errorf("%v; the screens are not those of %s:\n%s", err, golden, got.String())
	}

	// Values on a screen are those of the log.
	out, err := rstream("get", "bob/n").Output()
	if err != nil {
		t.Fatal(err)
	}
	shown, _ := onScreen(t, 40, rstream("get", "bob/n"))
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(shown)); err != nil || compact.String() != strings.TrimSpace(string(out)) {
		t.Errorf("a screen shows %s, %v; a pipe gets %s", shown, err, out)
	}
	for _, c := range []struct {
		env    string
		args   []string
		colour bool
	}{
		{"TERM=xterm", nil, true},
		{"TERM=dumb", nil, false},
		{"NO_COLOR=1", nil, false},
		{"NO_COLOR=1", []string{"--color", "always"}, true},
		{"TERM=xterm", []string{"--color", "never"}, false},
	} {
		cmd := rstream(append([]string{"log", "bob/n"}, c.args...)...)
		cmd.Env = append(cmd.Env, c.env)
		if shown, _ := onScreen(t, 80, cmd); strings.Contains(shown, "\x1b") != c.colour {
			t.Errorf("%s %v shows %q, want colours: %v", c.env, c.args, shown, c.colour)
		}
	}
}

var screenTimes = regexp.MustCompile(`(\d{4}-)?\d\d-\d\d \d\d:\d\d(:\d\d(\.\d{3})?)?|\b\d\d[:-]\d\d\b`)

// sampleTime replaces a time by one of the same form. ls shows the clock or the day.
func sampleTime(s string) string {
	if len(s) == len("15:04") {
		return "00:00"
	}
	return strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return '0'
		}
		return r
	}, s)
}

// serveAt serves h at an address.
func serveAt(t *testing.T, address string, h http.Handler) *httptest.Server {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

// A tail on a terminal says in its last line whom it follows. A lost connection changes
// that line, and one line that stays says that the connection is back. Nothing of this is
// written if the output is piped.
func TestTailOnScreen(t *testing.T) {
	t.Parallel()
	db := openLogFile(t)
	handler := server.New(db, server.Config{})
	address, release, err := holdPort() // others must not get it while the tail is without its server
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	srv := serveAt(t, address, handler)
	person, program := openTerminal(t)
	cmd := rstreamCommand(t, "tail", "--all", "-s", srv.URL)
	cmd.Env = append(cmd.Env, "TERM=xterm", "NO_COLOR=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	program.Close()
	shown := &screen{more: make(chan struct{}, 1)}
	go io.Copy(shown, person) // until the program's end is closed
	waiting := eraseLine + "following * on http://" + address + "; waiting for events, ^C ends"
	shown.waitFor(t, waiting)
	put := func(value string) {
		t.Helper()
		if _, err := db.Append(t.Context(), []event.Draft{{User: "a", Path: "x", Type: event.Put, Value: []byte(value), Key: value}}); err != nil {
			t.Fatal(err)
		}
	}
	put("1")
	shown.waitFor(t, "a/x  PUT  1\r\n"+waiting)
	srv.Listener.Close() // first, since the tail may be back at once
	srv.CloseClientConnections()
	shown.waitFor(t, "; trying again in ")
	put("2")
	put("3")
	serveAt(t, address, handler)
	shown.waitFor(t, "rstream: connected to http://"+address+" again, 2 events behind\r\n"+waiting)
	shown.waitFor(t, "a/x  PUT  3\r\n")
	put("4")
	shown.waitFor(t, "a/x  PUT  4\r\n"+waiting+"\r") // the echo of ^C may come before the return
	if _, err := io.WriteString(person, interruptKey); err != nil {
		t.Fatal(err)
	}
	waitWithin(t, cmd)
	if status := cmd.ProcessState.ExitCode(); status != 130 {
		t.Errorf("it ended with %d", status)
	}
	shown.waitForAny(t, waiting+"\r^C"+eraseLine, waiting+"\r"+eraseLine+"^C")
	for line := range strings.Lines(shown.String()) {
		last := line[strings.LastIndex(line, eraseLine)+1:]
		if strings.Contains(last, "following") && strings.HasSuffix(line, "\n") {
			t.Errorf("the line of what it waits for stays on the screen: %q", line)
		}
	}
}
