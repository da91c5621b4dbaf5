package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/window"
)

// A shownApp is an app on a terminal, whose screen an emulator shows.
type shownApp struct {
	*app
	emulator
	t      *testing.T
	person *os.File
}

func newShownApp(t *testing.T, columns, rows int) *shownApp {
	t.Helper()
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	person, program := openTerminal(t)
	s := &shownApp{app: &app{err: program, out: newOutput(context.Background(), program)}, emulator: emulator{columns: columns}, t: t, person: person}
	s.setSize(columns, rows)
	s.footer = newFooter(context.Background(), s.out, program)
	s.progress.a = s.app
	return s
}

func (s *shownApp) setSize(columns, rows int) {
	s.t.Helper()
	err := unix.IoctlSetWinsize(int(s.person.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(columns)})
	if err != nil {
		s.t.Fatal(err)
	}
}

// screen returns what is on the screen now. It does not wait for more.
func (s *shownApp) screen() string {
	s.t.Helper()
	b := make([]byte, 64<<10)
	for {
		fds := []unix.PollFd{{Fd: int32(s.person.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 0); err != nil || n == 0 {
			return s.String()
		}
		n, err := unix.Read(int(s.person.Fd()), b)
		if err != nil {
			s.t.Fatal(err)
		}
		s.Write(b[:n])
	}
}

// pass lets time pass, and reads what is written meanwhile: a terminal that nobody reads is
// full soon.
func (s *shownApp) pass(d time.Duration) {
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		if left <= 0 {
			break
		}
		<-time.After(min(left, redrawPause))
		synctest.Wait()
		s.screen()
	}
}

// shownStages are stages of work as they are shown, 2.5 s after they began.
var shownStages = []struct {
	stage       stage
	done, total int64
}{
	{stage{verb: "exporting"}, 123_456, 300_000},
	{stage{verb: "appending"}, 61_728, 0},
	{stage{verb: "checking", unit: inBytes}, 1_234_567_890, 12_000_000_000},
	{stage{verb: "reading", unit: inBytes}, 987_654, 0},
	{stage{verb: "checking pages", unit: inPages}, 10_000, 70_000},
	{stage{verb: "append batch", unit: inParts}, 3_300, partsOfWhole},
	{stage{verb: "rewriting the file", unit: inParts}, 0, 0},
	{stage{verb: "exporting"}, 3, 99_999_999},
}

// A sync and a verify draw the timeline of their topic, which fills up; other work is a bar.
// Both have counts, rates and times. At any width, the lines fit.
func TestProgressScreens(t *testing.T) {
	alice, posts := mustParseTopic(t, "alice"), mustParseTopic(t, "a-user-with-a-long-name/posts")
	fetching := func(a *shownApp, topic event.Topic, done event.ID) stage {
		windows := []window.Window{
			{Topic: topic, From: 0, Reached: 60_000, To: 60_000, State: window.Committed, Proven: true},
			{Topic: topic, From: 60_000, Reached: done, To: 300_000, State: window.Pulling},
			{Topic: mustParseTopic(t, "bob"), From: 0, Reached: 400_000, To: 400_000, State: window.Committed},
		}
		p := client.SyncProgress{Topic: topic, Span: window.Span{To: 400_000}}
		shown := syncPicture{a: a.app}
		return stage{verb: "fetching", picture: func(width int) []string { return shown.timelineLines(p, windows, nil, width) }}
	}
	comparing := func(a *shownApp, topic event.Topic, done event.ID) stage {
		windows := []window.Window{
			{Topic: topic, From: 0, Reached: 250_000, To: 250_000, State: window.Committed},
			{Topic: topic, From: 300_000, Reached: 400_000, To: 400_000, State: window.Committed},
		}
		p := client.SyncProgress{Topic: topic, Span: window.Span{To: 400_000}}
		shown := syncPicture{a: a.app}
		return stage{verb: "comparing", picture: func(width int) []string {
			return shown.timelineLines(p, windows, window.Spans{{To: done}}, width)
		}}
	}
	var got strings.Builder
	for _, columns := range []int{140, 80, 40, 12} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			a := newShownApp(t, columns, 24)
			got.WriteString(strings.Repeat("=", columns) + "\n")
			show := func(name string, after time.Duration) {
				t.Helper()
				shown := a.screen()
				fmt.Fprintf(&got, "== %s, after %s\n%s", name, after, shown)
				for line := range strings.Lines(shown) {
					if w := lineWidthOf(strings.TrimSuffix(line, "\n")); w >= columns {
						t.Errorf("%s has a line of %d columns: %q", name, w, line)
					}
				}
			}
			synctest.Test(t, func(t *testing.T) {
				for _, topic := range []event.Topic{alice, posts} {
					for _, at := range []event.ID{100_000, 200_000, 290_000} {
						a.progress.report(fetching(a, topic, 60_000), 60_000, 340_000)
						a.pass(2500 * time.Millisecond)
						a.progress.report(fetching(a, topic, at), int64(at), 340_000)
						a.pass(redrawPause)
						show("sync "+topic.String(), 2600*time.Millisecond)
						a.progress.end()
					}
				}
				a.progress.reportShare(fetching(a, alice, 60_000), 0, 0, 0)
				a.pass(2500 * time.Millisecond)
				a.progress.reportShare(fetching(a, alice, 200_000), 10_000, 0, 0.5)
				a.pass(redrawPause)
				show("sync alice of which nothing was held", 2600*time.Millisecond)
				a.progress.end()
				for _, at := range []event.ID{10_000, 350_000} {
					a.progress.report(comparing(a, alice, 0), 0, 340_000)
					a.pass(2500 * time.Millisecond)
					a.progress.report(comparing(a, alice, at), int64(at), 340_000)
					a.pass(redrawPause)
					show("verify alice", 2600*time.Millisecond)
					a.progress.end()
				}
				for _, s := range shownStages {
					a.progress.report(s.stage, 0, s.total)
					a.pass(2500 * time.Millisecond)
					a.progress.report(s.stage, s.done, s.total)
					a.pass(redrawPause)
					show(s.stage.verb, 2600*time.Millisecond)
					a.progress.end()
				}
				if left := a.screen(); left != "\n" {
					t.Errorf("on the screen stays %q", left)
				}
				a.footer.end()
			})
		})
	}
	const golden = "../../testdata/progress.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || string(want) != got.String() {
		t.Errorf("%v; the screens are not those of %s:\n%s", err, golden, got.String())
	}
}

func mustParseTopic(t *testing.T, name string) event.Topic {
	t.Helper()
	topic, err := event.ParseTopic(name)
	if err != nil {
		t.Fatal(err)
	}
	return topic
}

// Work that takes less than a second shows nothing, and what takes longer shows itself
// after a second.
func TestProgressWaits(t *testing.T) {
	a := newShownApp(t, 80, 24)
	synctest.Test(t, func(t *testing.T) {
		for _, took := range []time.Duration{0, time.Millisecond, progressDelay - 1} {
			a.progress.report(stage{verb: "exporting"}, 1, 10)
			a.pass(took)
			a.progress.end()
			if shown := a.screen(); shown != "\n" {
				t.Errorf("after %s it shows %q", took, shown)
			}
		}
		a.progress.report(stage{verb: "exporting"}, 1, 10)
		a.pass(progressDelay + redrawPause)
		if shown := a.screen(); !strings.HasPrefix(shown, "exporting ") {
			t.Errorf("after a second it shows %q", shown)
		}
		a.progress.end()
		a.footer.end()
	})
}

// Everything else that is written to the terminal has its own lines, above the progress,
// whichever goroutine writes it.
func TestProgressBelowLines(t *testing.T) {
	a := newShownApp(t, 80, 24)
	synctest.Test(t, func(t *testing.T) {
		a.progress.report(stage{verb: "exporting", picture: func(int) []string { return []string{"row", "axis"} }}, 1, 10)
		a.pass(progressDelay + redrawPause)
		var want strings.Builder
		var writing sync.WaitGroup
		for range 3 {
			writing.Go(func() {
				for range 10 {
					a.note("a note")
					<-time.After(redrawPause / 3)
				}
			})
		}
		for i := range 10 {
			a.out.printf("line %d\n", i)
			a.out.printf("half a")
			if err := a.out.flush(); err != nil {
				t.Error(err)
			}
			a.pass(redrawPause / 2)
			a.out.printf(" line\n")
			if err := a.out.flush(); err != nil {
				t.Error(err)
			}
			fmt.Fprintf(&want, "line %d\nhalf a line\n", i)
		}
		writing.Wait()
		a.pass(redrawPause)
		shown := a.screen()
		if !strings.HasSuffix(shown, "row\naxis\nexporting  10%  1/10 events\n") || strings.Count(shown, "row") != 1 {
			t.Errorf("the screen shows\n%s", shown)
		}
		a.progress.end()
		a.footer.end()
		shown = a.screen()
		if notes := strings.Count(shown, "rstream: a note\n"); notes != 30 || strings.ReplaceAll(shown, "rstream: a note\n", "") != want.String() {
			t.Errorf("the screen shows\n%s", shown)
		}
	})
}

// What failed is said below the progress, until there is progress again.
func TestProgressFailure(t *testing.T) {
	a := newShownApp(t, 80, 24)
	synctest.Test(t, func(t *testing.T) {
		now := stage{verb: "fetching"}
		a.progress.report(now, 1, 10)
		a.pass(2 * time.Second)
		a.onRetry(fmt.Errorf("connection refused"), time.Second)
		a.pass(redrawPause)
		if shown := a.screen(); !strings.HasSuffix(shown, "\nconnection refused; trying again in 1s\n") || !strings.HasPrefix(shown, "fetching ") {
			t.Errorf("the screen shows %q", shown)
		}
		a.progress.report(now, 2, 10)
		a.pass(redrawPause)
		if shown := a.screen(); strings.Contains(shown, "refused") || !strings.HasPrefix(shown, "fetching ") {
			t.Errorf("the screen shows %q", shown)
		}
		a.progress.end()
		a.footer.end()
	})
}

// A terminal that becomes narrower, wider or low keeps no rest of what was shown before. It
// moves the ends of long lines to rows of their own.
func TestProgressResize(t *testing.T) {
	a := newShownApp(t, 120, 24)
	synctest.Test(t, func(t *testing.T) {
		row := func(width int) []string { return []string{strings.Repeat("#", width), "axis"} }
		a.progress.report(stage{verb: "fetching", picture: row}, 1, 10)
		a.pass(2 * time.Second)
		for _, size := range [][2]int{{50, 24}, {30, 24}, {100, 24}, {100, 3}, {100, 24}} {
			a.reflow(size[0])
			a.setSize(size[0], size[1])
			a.pass(redrawPause)
			want := strings.Repeat("#", size[0]-1) + "\naxis\nfetching  10%  1/10 events\n"
			if size[1] < 5 { // there is room for a bar alone
				want = "fetching  ████···································  10%  1/10 events\n"
			}
			if shown := a.screen(); shown != want {
				t.Errorf("at %d columns and %d rows, the screen shows\n%swant\n%s", size[0], size[1], shown, want)
			}
		}
		a.progress.end()
		a.footer.end()
		if left := a.screen(); left != "\n" {
			t.Errorf("on the screen stays %q", left)
		}
	})
}

// reflow changes the width of the screen, as most terminals do.
func (e *emulator) reflow(columns int) {
	var rows [][]rune
	row := 0
	for i, line := range e.rows {
		if i == e.row {
			row = len(rows)
		}
		for len(line) > columns {
			rows, line = append(rows, slices.Clone(line[:columns])), line[columns:]
		}
		rows = append(rows, slices.Clone(line))
	}
	e.columns, e.rows, e.row = columns, rows, row
}

// With --progress, there are lines for a log: after a second, then every five.
func TestProgressLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		a := &app{err: &b}
		a.progress.a, a.progress.lines = a, true
		fetching := stage{verb: "fetching", object: "alice"}
		a.progress.report(fetching, 0, 100_000)
		<-time.After(time.Second / 2)
		for range 12 {
			a.progress.add(5000)
			<-time.After(time.Second)
		}
		a.progress.report(stage{verb: "rewriting the file", unit: inParts}, 0, 0)
		<-time.After(5 * time.Second)
		a.progress.end()
		want := `rstream: fetching alice: 5000/100000 events, 5%, 5000/s, 19s left
rstream: fetching alice: 30000/100000 events, 30%, 5000/s, 14s left
rstream: fetching alice: 55000/100000 events, 55%, 5000/s, 9s left
rstream: rewriting the file: 3s
`
		if b.String() != want {
			t.Errorf("it says\n%swant\n%s", &b, want)
		}
		a.quiet = true
		a.progress.report(fetching, 0, 1)
		<-time.After(time.Minute)
		a.progress.end()
		if b.String() != want {
			t.Errorf("with --quiet it says %s", b.String()[len(want):])
		}
	})
}

// A pageGate lets a few pages of events through, and holds other requests for a path.
type pageGate struct {
	http.Handler
	limit int           // of a page, if it is not 0 and the client asks for more
	path  string        // "/events" if empty
	pages chan struct{} // each lets a request through
	open  chan struct{} // once closed, all are let through
	held  chan struct{} // receives when a request is held
}

func (g *pageGate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == cmp.Or(g.path, "/events") && r.URL.Query().Get("limit") != "0" {
		select {
		case <-g.pages:
		default:
			g.hold(r)
		}
		if q := r.URL.Query(); q.Get("limit") == "5000" && g.limit > 0 {
			q.Set("limit", fmt.Sprint(g.limit))
			r.URL.RawQuery = q.Encode()
		}
	}
	g.Handler.ServeHTTP(w, r)
}

func (g *pageGate) hold(r *http.Request) {
	select {
	case g.held <- struct{}{}:
	default:
	}
	select {
	case <-g.pages:
	case <-g.open:
	case <-r.Context().Done():
	}
}

// newLogOf returns a server of n events of alice.
func newLogOf(t *testing.T, n int) http.Handler {
	t.Helper()
	db := openLogFile(t)
	for i := 0; i*1000 < n; i++ {
		var drafts []event.Draft
		for j := range min(n-i*1000, 1000) {
			drafts = append(drafts, event.Draft{User: "alice", Path: fmt.Sprint("posts/", j), Type: event.Put, Key: fmt.Sprint(i, "-", j), Value: []byte("1")})
		}
		if _, err := db.Append(t.Context(), drafts); err != nil {
			t.Fatal(err)
		}
	}
	return server.New(db, server.Config{})
}

// newGate serves a log behind a gate that lets a third of its n events through.
func newGate(t *testing.T, log http.Handler, n int) (url string, gate *pageGate) {
	t.Helper()
	gate = &pageGate{Handler: log, pages: make(chan struct{}, n), open: make(chan struct{}), held: make(chan struct{}, 1)}
	gate.limit = min(5000, n/3)
	gate.letThird(n)
	srv := httptest.NewServer(gate)
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return srv.URL, gate
}

// letThird lets a third of a log of n events through, in the pages of a sync.
func (g *pageGate) letThird(n int) {
	for range n / 3 / max(g.limit, 1) {
		g.pages <- struct{}{}
	}
}

// emulated returns the screen of a terminal that was written to, without the note of a
// server that is slow on a busy machine.
func emulated(written string) string {
	e := emulator{columns: 80}
	e.Write(slowNote.ReplaceAll([]byte(written), nil))
	return e.String()
}

var slowNote = regexp.MustCompile(`rstream: http://\S* has not answered yet[^\n]*\n`)

// A screenRun is a program on a terminal of 80 columns.
type screenRun struct {
	cmd    *exec.Cmd
	person *os.File
	shown  *screen
	read   chan struct{} // closed when everything was read
}

// startOnScreen starts the program. Its output goes to the terminal if out is nil.
func startOnScreen(t *testing.T, out io.Writer, env []string, args ...string) *screenRun {
	t.Helper()
	person, program := openTerminal(t)
	if err := unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	run := &screenRun{cmd: rstreamCommand(t, args...), person: person, shown: &screen{more: make(chan struct{}, 1)}, read: make(chan struct{})}
	run.cmd.Env = append(append(run.cmd.Env, "TERM=xterm", "NO_COLOR="), env...)
	run.cmd.Stdin, run.cmd.Stdout, run.cmd.Stderr = program, program, program
	if out != nil {
		run.cmd.Stdout = out
	}
	run.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := run.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	program.Close()
	go func() {
		defer close(run.read)
		io.Copy(run.shown, person) // until the program's end is closed
	}()
	return run
}

// end waits for the end of the program, and returns what then is on the screen.
func (run *screenRun) end(t *testing.T, status int) string {
	t.Helper()
	waitWithin(t, run.cmd)
	<-run.read
	if got := run.cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("it ended with %d, want %d", got, status)
	}
	return received.ReplaceAllString(strings.TrimLeft(emulated(run.shown.String()), "\n"), "N received")
}

// readmeSync is the sync in the README whose picture fills up.
const readmeSync = "rstream sync '*'"

// A sync draws its timeline, which fills up, and leaves only its result: when it is done, and
// when ^C ends it. Also if its result goes to a file. With -full, it is one of 300,000 events.
func TestSyncOnScreen(t *testing.T) {
	n := longtest.Scale(1500, 60_000, 300_000)
	log := newLogOf(t, n)
	silent := startSilentSyncs(t, newLogOf(t, 1500))
	t.Run("shown", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "out")
		for _, c := range []struct {
			name, out, typed, want string
			status                 int
		}{
			{name: "to its end", want: fmt.Sprintf("*: %d events fetched, %d held, 1 window, N received\n", n, n)},
			{name: "interrupted", typed: interruptKey, status: 130},
			{name: "to a file", typed: interruptKey, status: 130, out: file},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				url, gate := newGate(t, log, n)
				var out io.Writer
				if c.out != "" {
					f, err := os.Create(c.out)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { f.Close() })
					out = f
				}
				run := startOnScreen(t, out, nil, "sync", "*", "-s", url)
				for third := range 2 {
					run.shown.waitFor(t, fmt.Sprintf("fetching  %d%%  %d/%d events  ", 33*(third+1), n/3*(third+1), n))
					run.shown.waitFor(t, "/s  ")
					now := emulated(run.shown.String())
					want := "*      " + strings.Repeat("▓", 24*(third+1)) + strings.Repeat("»", 72-24*(third+1)) + "\n"
					if first, _, _ := strings.Cut(now, "\n"); first+"\n" != want {
						t.Errorf("the screen shows\n%swant\n%s", now, want)
					}
					if third == 0 && c.typed == "" {
						compareDocument(t, "README.md", func(text string) string { return drawScreen(text, readmeSync, now) })
					}
					if third == 0 {
						gate.letThird(n)
					}
				}
				if c.typed != "" {
					if _, err := io.WriteString(run.person, c.typed); err != nil {
						t.Fatal(err)
					}
				} else {
					close(gate.open)
				}
				if left := run.end(t, c.status); left != c.want {
					t.Errorf("at the end the screen shows %q, want %q", left, c.want)
				}
			})
		}
	})
	silent()
}

// startSilentSyncs starts syncs that draw nothing: their result goes to a pipe, --quiet asks
// for silence, or the terminal cannot draw. It returns when each of them has fetched a page.
// finish, which is called when syncs that were started later have drawn something, lets them
// end.
func startSilentSyncs(t *testing.T, log http.Handler) (finish func()) {
	t.Helper()
	var finishes []func()
	for _, c := range []struct {
		name string
		out  io.Writer
		env  []string
		args []string
		want string
	}{
		{name: "to a pipe", out: &strings.Builder{}},
		{name: "quiet", args: []string{"-q"}},
		{name: "dumb", env: []string{"TERM=dumb"}, want: "*: 1500 events fetched, 1500 held, 1 window, N received\n"},
	} {
		url, gate := newGate(t, log, 1500)
		run := startOnScreen(t, c.out, c.env, append([]string{"sync", "*", "-s", url}, c.args...)...)
		select {
		case <-gate.held:
		case <-time.After(patience):
			t.Fatalf("%s: no second page is asked for; the screen shows %q", c.name, run.shown)
		}
		finishes = append(finishes, func() {
			close(gate.open)
			if left := run.end(t, 0); strings.TrimLeft(left, "\n") != c.want || strings.Contains(run.shown.String(), "\x1b") {
				t.Errorf("%s: the terminal got %q", c.name, run.shown)
			}
		})
	}
	return func() {
		for _, finish := range finishes {
			finish()
		}
	}
}

var received = regexp.MustCompile(`[0-9.]+ [kM]B received`)

// A verify draws its topic's timeline, and leaves only its result.
func TestVerifyOnScreen(t *testing.T) {
	url, gate := newGate(t, newLogOf(t, 10), 0)
	close(gate.open)
	copyFile := filepath.Join(t.TempDir(), "copy.db")
	if r := runCommand(t, "sync", "alice", "-q", "-s", url, "--cache", copyFile); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	gate.path, gate.open = "/windows", make(chan struct{})
	run := startOnScreen(t, nil, nil, "verify", "alice", "-s", url, "--cache", copyFile)
	run.shown.waitFor(t, "comparing")
	close(gate.open)
	if left := run.end(t, 0); left != "alice: 1 window, 10 events: equal\n" {
		t.Errorf("at the end the screen shows %q", left)
	}
}

// On a terminal an upgrade is a bar in the last lines, and so is each other step of work on
// a file.
func TestStepsOnScreen(t *testing.T) {
	a := newShownApp(t, 80, 24)
	synctest.Test(t, func(t *testing.T) {
		for _, step := range []cache.Step{cache.StepUpgrade, cache.StepStructure, cache.StepPages, cache.StepPostings, cache.StepStates,
			cache.StepDigests, cache.StepCopy, cache.StepDrop, cache.StepRewrite, cache.StepForget, cache.StepSearch} {
			report := a.fileProgress("x.db")
			report(cache.Progress{Step: step, Done: 50, Total: 200})
			a.pass(progressDelay + redrawPause)
			if shown := a.screen(); !strings.HasPrefix(shown, stepStages[step].verb+"  ") || !strings.Contains(shown, "  25%") {
				t.Errorf("%s shows %q", step, shown)
			}
			a.progress.end()
		}
		a.fileProgress("x.db")(cache.Progress{Step: cache.StepUpgrade, Waiting: true})
		a.pass(progressDelay + redrawPause)
		if shown := a.screen(); shown != "waiting for the process that upgrades the file  1s\n" {
			t.Errorf("it shows %q", shown)
		}
		a.progress.end()
		a.footer.end()
	})
}
