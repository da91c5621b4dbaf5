package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/demo"
	"github.com/rstream-dev/rstream/internal/server"
)

// TestDocs types the commands of the documents into a shell on a terminal of 80 columns, one
// shell for each document, and compares the screen with what the document shows. With -update
// it writes it instead.
func TestDocs(t *testing.T) {
	inParallel(t)
	for _, c := range []struct {
		path     string
		commands int // at least
		prepare  map[string]func(sh *docShell)
	}{
		{"docs/tutorial.md", 10, nil},
		{"docs/recipes.md", 10, nil},
		{"README.md", 6, map[string]func(sh *docShell){"rstream windows": (*docShell).copyWeek}},
	} {
		t.Run(c.path, func(t *testing.T) {
			t.Parallel()
			sh := newDocShell(t)
			sh.prepare, sh.elsewhere = c.prepare, readmeSync
			compareDocument(t, c.path, func(text string) string { return runDocument(sh, text) })
			if sh.typed < c.commands {
				t.Errorf("%s has %d commands", c.path, sh.typed)
			}
		})
	}
}

// compareDocument compares a document with the one that draw makes of it.
func compareDocument(t *testing.T, path string, draw func(text string) string) {
	t.Helper()
	file := filepath.Join("..", "..", path)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := draw(string(b))
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, have := strings.SplitAfter(steady(string(b)), "\n"), strings.SplitAfter(steady(got), "\n")
	for i := range want {
		if i >= len(have) || want[i] != have[i] {
			t.Fatalf("%s:%d: the document shows\n%sthe screen\n%s", path, i+1,
				strings.Join(want[i:min(i+8, len(want))], ""), strings.Join(have[min(i, len(have)):min(i+8, len(have))], ""))
		}
	}
}

// runDocument returns the document with what its commands show. Screens are blocks of the kind
// console and, in the README, indented blocks that begin with a command. A ^C in one stays: a
// person types it. Files are blocks after a line such as "<!-- file NAME -->".
func runDocument(sh *docShell, text string) string {
	const indented = "    "
	var out, content strings.Builder
	fenced, screen, indent, file := false, false, "", ""
	empty := "" // lines that are a part of an indented screen if another line of it follows
	for line := range strings.Lines(text) {
		fence := strings.HasPrefix(line, "```")
		if screen && indent != "" && line == "\n" {
			empty += line
			continue
		}
		if !screen || indent == "" || !strings.HasPrefix(line, indent) {
			out.WriteString(empty)
		}
		empty = ""
		switch {
		case fence:
			fenced = !fenced
			screen, indent = fenced && strings.HasPrefix(line, "```console"), ""
		case !fenced && strings.HasPrefix(line, indented+"$ "):
			screen, indent = true, indented
		case !strings.HasPrefix(line, indent):
			screen, indent = false, ""
		}
		switch name, marked := strings.CutPrefix(line, "<!-- file "); {
		case marked:
			file = strings.TrimSuffix(strings.TrimSpace(name), " -->")
		case fence && file != "" && content.Len() > 0:
			sh.write(file, strings.TrimPrefix(content.String(), "\n"))
			file = ""
			content.Reset()
		case fence && file != "":
			content.WriteByte('\n')
		case file != "" && content.Len() > 0:
			content.WriteString(line)
		}
		command, typed := strings.CutPrefix(strings.TrimPrefix(line, indent), "$ ")
		typed = typed && screen
		if typed && strings.TrimSpace(command) == sh.elsewhere {
			typed, screen = false, false
		}
		if !screen || fence || typed || strings.TrimSpace(line) == "^C" {
			out.WriteString(line)
		}
		if typed {
			for shown := range strings.Lines(sh.run(strings.TrimSpace(command))) {
				if shown != "\n" {
					shown = indent + shown
				}
				out.WriteString(shown)
			}
		}
	}
	return out.String() + empty
}

// drawScreen returns the document with what a command showed, which is in an indented block.
func drawScreen(text, command, shown string) string {
	before, after, found := strings.Cut(text, "    $ "+command+"\n")
	if !found {
		return text + command + " is not in the document\n"
	}
	for strings.HasPrefix(after, "    ") {
		_, after, _ = strings.Cut(after, "\n")
	}
	var b strings.Builder
	b.WriteString(before + "    $ " + command + "\n")
	for line := range strings.Lines(shown) {
		b.WriteString("    " + line)
	}
	return b.String() + after
}

// A docShell is a shell on a terminal, in a folder of its own. A server in it listens on a
// port that no other program gets, always the same one.
type docShell struct {
	t         *testing.T
	dir       string
	in        io.Writer
	screen    *bufio.Reader
	typed     int                           // commands
	elsewhere string                        // a command whose screen another test draws
	prepare   map[string]func(sh *docShell) // called before some commands
}

func newDocShell(t *testing.T) *docShell {
	sh := &docShell{t: t, dir: t.TempDir()}
	listen, release, err := holdPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	cmd := exec.CommandContext(context.Background(), "sh") // it ends after the servers in it
	cmd.Dir = sh.dir
	home := filepath.Join(sh.dir, "home")
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !strings.HasPrefix(name, "RSTREAM_") && !strings.HasPrefix(name, "XDG_") && name != "NO_COLOR" {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+home, "XDG_DATA_HOME="+filepath.Join(home, "data"), "XDG_CONFIG_HOME="+filepath.Join(home, "config"), "TZ=UTC",
		"TERM=xterm", "RSTREAM_LISTEN="+listen)
	b, err := os.ReadFile(filepath.Join("..", "..", "internal", "demo", "quakes.jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	sh.write("quakes.jsonl.gz", string(b))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	person, program := openTerminal(t)
	if err := unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: helpWidth}); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = program, program
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sh.in, sh.screen = in, bufio.NewReader(person)
	t.Cleanup(func() {
		sh.run("kill %1")
		in.Close()
		_ = cmd.Wait()
	})
	return sh
}

func (sh *docShell) write(name, text string) {
	if err := os.WriteFile(filepath.Join(sh.dir, name), []byte(text), 0o700); err != nil {
		sh.t.Fatal(err)
	}
}

var (
	// servePattern is a command that starts a server in the background.
	servePattern = regexp.MustCompile(`^rstream serve\b(.*) &$`)
	// waitingPattern is a tail that waits for events until a person ends it with ^C.
	waitingPattern = regexp.MustCompile(`^rstream tail\b[^|#]*`)
	loopback       = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	// slowAppend is a message of a server on a busy machine.
	slowAppend = regexp.MustCompile(`time=\S* level=WARN msg="append was slow"[^\n]*\n`)
)

// run runs a command and returns what the screen then shows, without empty lines at the end.
func (sh *docShell) run(command string) string {
	const end = "== end of the command"
	if prepare := sh.prepare[command]; prepare != nil {
		prepare(sh)
	}
	sh.typed++
	if m := servePattern.FindStringSubmatch(command); m != nil {
		command = fmt.Sprintf(`rm -f url; rstream serve%s --url-file url & echo $! >serve.pid
until [ -s url ] || ! kill -0 $(cat serve.pid); do sleep 0.05; done
export RSTREAM_SERVER=$(cat url)`, m[1])
	}
	if m := waitingPattern.FindString(command); m != "" && !strings.Contains(m, "--until-live") {
		command = m + " --until-live " + command[len(m):]
	}
	if strings.HasPrefix(command, "kill %") { // job numbers need a terminal; a person types slowly
		command = "kill $(cat serve.pid); wait"
	}
	if _, err := fmt.Fprintf(sh.in, "%s\necho '%s'\n", command, end); err != nil {
		sh.t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { panic("the command does not end: " + command) })
	defer timer.Stop()
	var written strings.Builder
	for {
		line, err := sh.screen.ReadString('\n')
		if err != nil {
			sh.t.Fatalf("%s: %v after %s", command, err, &written)
		}
		before, ended := strings.CutSuffix(line, end+"\r\n")
		written.WriteString(before)
		if ended {
			break
		}
	}
	shown := &emulator{columns: 1000} // longer lines of a document are not wrapped
	fmt.Fprint(shown, slowAppend.ReplaceAllString(slowNote.ReplaceAllString(written.String(), ""), ""))
	text := strings.TrimPrefix(shown.String(), "\n")
	text = strings.ReplaceAll(text, filepath.Join(sh.dir, "home", "data"), "~/.local/share")
	return loopback.ReplaceAllString(text, "127.0.0.1:8420")
}

// copyWeek makes a copy of the earthquakes of a week, at the times when they happened, of
// which some are missing. The commands that follow read it.
func (sh *docShell) copyWeek() {
	now := time.Time{}
	db, err := cache.Open(sh.t.Context(), filepath.Join(sh.t.TempDir(), "week.db"), cache.Config{Role: cache.Server, Now: func() time.Time { return now }})
	if err != nil {
		sh.t.Fatal(err)
	}
	defer db.Close()
	quakes, err := demo.Quakes()
	if err != nil {
		sh.t.Fatal(err)
	}
	var drafts []event.Draft
	for line := range bytes.Lines(quakes) {
		var quake struct {
			User, Path string
			Value      struct{ Time int64 }
		}
		if err := json.Unmarshal(line, &quake); err != nil {
			sh.t.Fatal(err)
		}
		now = time.UnixMilli(quake.Value.Time)
		drafts = append(drafts, event.Draft{User: quake.User, Path: quake.Path, Type: event.Put, Value: []byte("1"), Key: quake.Path})
		if len(drafts) < 8 {
			continue // the screen shows no minutes
		}
		if _, err := db.Append(sh.t.Context(), drafts); err != nil {
			sh.t.Fatal(err)
		}
		drafts = nil
	}
	if _, err := db.Append(sh.t.Context(), drafts); err != nil {
		sh.t.Fatal(err)
	}
	srv := httptest.NewServer(server.New(db, server.Config{}))
	defer srv.Close()
	sh.run("export RSTREAM_CACHE=week.db RSTREAM_SERVER=" + srv.URL)
	sh.run("rstream sync -q ak --until 0000000000090")
	sh.run("rstream sync -q nc --since 0000000000080 --until 00000000000J0")
	sh.run("rstream tail -q ak/quakes -n 10 --until-live >/dev/null")
}

// changing matches what differs between two runs: names of logs, times, sizes.
var changing = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`\b([0-9A-Z]{13})\.[0-9A-Z]{5}(\.[0-9A-Z]{6})?\b`), "$1.MARK"},
	{regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{16}\b`), "LOG"},
	{regexp.MustCompile(`\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?`), "TIME"},
	{regexp.MustCompile(`\b(\d\d-\d\d )?\d\d:\d\d(:\d\d)?\b`), "TIME"},
	{regexp.MustCompile(`\b\d+(\.\d+)? (B|kB|MB)\b`), "SIZE"},
	{regexp.MustCompile(`"key":"[A-Z2-7]{26}"`), `"key":"KEY"`},
	{regexp.MustCompile(`"hash":"[0-9a-f]{64}"`), `"hash":"HASH"`},
	{regexp.MustCompile(`jti [a-z0-9]{16}|kid":"[a-z0-9]{12}`), "NAME"},
	{regexp.MustCompile(` +└|┘`), "└"},
	{regexp.MustCompile(`\b0{13} +[0-9A-Z]{13}\n`), "POSITIONS\n"},
	{regexp.MustCompile(`\b\d+/\d+ events  [0-9.]+/s  \S+ left`), "RATE"},
}

// steady replaces what differs between two runs.
func steady(text string) string {
	for _, c := range changing {
		text = c.pattern.ReplaceAllString(text, c.text)
	}
	return text
}
