//go:build unix

package deliver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// workerVar makes the test binary a worker for --pipe, which does what each event's value says.
const workerVar = "DELIVER_TEST_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(workerVar) != "" {
		os.Exit(workPipe(os.Stdin, os.Stdout))
	}
	longtest.SetChecks(40, 5000, 5000)
	os.Exit(m.Run())
}

func workPipe(in io.Reader, out io.Writer) int {
	lines := bufio.NewReaderSize(in, 1<<20)
	last := ""
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return 0
		}
		var ev struct {
			ID    string
			Value string
		}
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			return 7
		}
		switch what := ev.Value; {
		case what == "fails":
			fmt.Fprintln(out, ev.ID+" no room")
		case what == "fails, works":
			fmt.Fprintln(out, ev.ID+" no room")
			fmt.Fprintln(out, ev.ID)
		case what == "hangs":
			select {}
		case what == "twice":
			fmt.Fprintln(out, ev.ID+"\n"+ev.ID)
		case what == "repeats":
			fmt.Fprintln(out, last)
		case what == "other":
			fmt.Fprintln(out, "ZZZZZZZZZZZZZ")
		case what == "longer":
			fmt.Fprintln(out, ev.ID+"0")
		case what == "garbage":
			fmt.Fprintln(out, "\x00\xff{}")
		case what == "endless":
			fmt.Fprint(out, strings.Repeat("x", 2*maxAnswer))
		case what == "exits":
			return 3
		case what == "closes":
			os.Stdout.Close()
			select {}
		default:
			fmt.Fprintln(out, ev.ID)
		}
		last = ev.ID
	}
}

// newPipeProgram returns a program whose processes are the test binary.
func newPipeProgram(t *testing.T) *Program {
	t.Setenv(workerVar, "1")
	p, err := NewProgram(os.Args[0], os.Stdout, os.Stderr, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Each mistake of a worker fails the event that is under way and ends the process; the next
// event succeeds.
func TestPipe(t *testing.T) {
	w := newPipeProgram(t).PipeWorker()
	defer w.Close()
	for i, c := range []struct{ value, want string }{
		{"works", ""},
		{"fails", "no room"},
		{"hangs", "no answer within 200ms"},
		{"repeats", "it answered "},
		{"other", `it answered "ZZZZZZZZZZZZZ", want `},
		{"longer", "it answered "},
		{"garbage", "it answered "},
		{"endless", "its answer is longer than 4096 bytes"},
		{"exits", "it ended before it answered: exit status 3"},
		{"closes", "it ended before it answered"},
		{strings.Repeat("large", 100_000), ""},
	} {
		for j, value := range []string{c.value, "works"} {
			limit := time.Minute
			if value == "hangs" {
				limit = 200 * time.Millisecond
			}
			err := try(t.Context(), limit, w, &Try{Events: []*event.Event{testEvent(event.ID(2*i+j+1), "x", value)}, Number: 1})
			switch {
			case j == 0 && c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
				t.Errorf("%s: %v, want %s", value, err, c.want)
			case (j == 1 || c.want == "") && err != nil:
				t.Errorf("%.20s after %.20s: %v", value, c.value, err)
			}
		}
	}
}

// The line of a dead letter says so, also to what makes another line of it.
func TestPipeDead(t *testing.T) {
	w := newPipeProgram(t).PipeWorker().(*pipeWorker)
	defer w.Close()
	selected := func(_ context.Context, b []byte, ev *event.Event) ([]byte, error) { return ev.AppendLine(b), nil }
	for _, line := range []func(context.Context, []byte, *event.Event) ([]byte, error){nil, selected} {
		for _, dead := range []bool{false, true} {
			try := &Try{Events: []*event.Event{testEvent(1, "x", "works")}, Number: 1, Dead: dead, Line: line}
			if err := w.Do(t.Context(), try); err != nil || strings.Contains(string(w.line), `"dead":true`) != dead {
				t.Errorf("dead: %t, another line: %t: %s, %v", dead, line != nil, w.line, err)
			}
		}
	}
}

// A second answer is taken for that of the next event, or seen before it: in either case the
// process ends and nothing is done that was not answered.
func TestPipeTwice(t *testing.T) {
	w := newPipeProgram(t).PipeWorker()
	defer w.Close()
	if err := w.Do(t.Context(), &Try{Events: []*event.Event{testEvent(1, "x", "twice")}}); err != nil {
		t.Errorf("the first answer: %v", err)
	}
	err := w.Do(t.Context(), &Try{Events: []*event.Event{testEvent(2, "x", "works")}})
	if err != nil && !strings.HasPrefix(err.Error(), `it answered "0000000000001", want 0000000000002`) {
		t.Errorf("the event after a second answer: %v", err)
	}
	if err := w.Do(t.Context(), &Try{Events: []*event.Event{testEvent(2, "x", "works")}}); err != nil {
		t.Errorf("its next try: %v", err)
	}
}

// A second answer to an event that failed is not that of its next try.
func TestPipeFailsTwice(t *testing.T) {
	w := newPipeProgram(t).PipeWorker().(*pipeWorker)
	defer w.Close()
	fails := &Try{Events: []*event.Event{testEvent(1, "x", "fails, works")}, Number: 1}
	for range 2 {
		if err := w.Do(t.Context(), fails); err == nil || err.Error() != "no room" {
			t.Errorf("a try that failed: %v", err)
		}
		// The second answer is there before the next try begins.
		conn, err := w.out.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Read(func(uintptr) bool { return w.answers.Buffered() > 0 || isReadable(w.out) }); err != nil {
			t.Fatal(err)
		}
	}
}

// The end of a try's time does not reach the next try, even if both happen at once.
func TestPipeEndsLate(t *testing.T) {
	w := newPipeProgram(t).PipeWorker().(*pipeWorker)
	defer w.Close()
	works := func(ctx context.Context, id event.ID) {
		t.Helper()
		if err := w.Do(ctx, &Try{Events: []*event.Event{testEvent(id, "x", "works")}, Number: 1}); err != nil {
			t.Errorf("event %s: %v", id, err)
		}
	}
	works(t.Context(), 1)
	ctx, cancel := context.WithCancel(t.Context())
	stop := w.returnAfter(ctx)
	cancel()
	stop()
	works(t.Context(), 2)
}

// A process that ends while it has no event is replaced, and costs no try.
func TestPipeEndsIdle(t *testing.T) {
	w := newPipeProgram(t).PipeWorker().(*pipeWorker)
	defer w.Close()
	for id := range event.ID(3) {
		if err := w.Do(t.Context(), &Try{Events: []*event.Event{testEvent(id+1, "x", "works")}}); err != nil {
			t.Errorf("event %d: %v", id+1, err)
		}
		w.process.signal(true)
		<-w.process.exited
	}
}

// The end of a process is that of its whole group, also of those that ignore the signal to
// end. Until then they hold the consumer's name.
func TestProcessEndsGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	name, err := HoldName(path)
	if err != nil {
		t.Fatal(err)
	}
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewProgram(`trap "" TERM; (echo begun; exec sleep 1000) & wait; sleep 1000`, out, os.Stderr, name)
	if err != nil {
		t.Fatal(err)
	}
	process, err := p.run(p.env, nil, out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	name.Close()
	if _, err := HoldName(path); !errors.Is(err, ErrNameHeld) {
		t.Errorf("the name while its processes live: %v", err)
	}
	if pids := NameHolders(path); runtime.GOOS == "linux" && !slices.Contains(pids, process.p.Pid) {
		t.Errorf("processes %v hold the name, want %d among them", pids, process.p.Pid)
	}
	process.end()
	if err := process.wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the process: %v", err)
	}
	out.Close()
	if n, err := r.Read(make([]byte, 10)); err != io.EOF {
		t.Errorf("%d bytes, %v: a process of the group is left", n, err)
	}
	again, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := unix.Flock(int(again.Fd()), unix.LOCK_EX); err != nil { // waits for the last of them
		t.Error(err)
	}
}

// A program that is killed takes all its processes with it.
func TestKillProgram(t *testing.T) {
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewProgram(`trap "" TERM; (echo begun; exec sleep 1000) & wait; sleep 1000`, out, os.Stderr, nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- p.ExecWorker().Do(t.Context(), &Try{Events: []*event.Event{testEvent(1, "x", "")}}) }()
	if _, err := r.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	var end *EndError
	if err := <-done; !errors.As(err, &end) {
		t.Errorf("the process: %v, want that it is no failure", err)
	}
	for _, w := range []Worker{p.ExecWorker(), p.PipeWorker()} {
		if err := w.Do(t.Context(), &Try{Events: []*event.Event{testEvent(2, "x", "")}}); !errors.As(err, &end) {
			t.Errorf("a process that starts later: %v, want that it is no failure", err)
		}
		w.Close()
	}
	out.Close()
	if _, err := io.Copy(io.Discard, r); err != nil { // ends when no process is left
		t.Error(err)
	}
}

// A command that is asked to end has not done its event, with whatever status it ends.
func TestExecBrokenOff(t *testing.T) {
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer out.Close()
	p, err := NewProgram(`trap "exit 0" TERM; echo begun; sleep 1000 & wait`, out, os.Stderr, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, cause := range []error{errEnding, &TimeoutError{time.Minute}} {
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() { done <- p.ExecWorker().Do(ctx, &Try{Events: []*event.Event{testEvent(1, "x", "")}}) }()
		if _, err := r.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		cancel(cause)
		if err := <-done; !errors.Is(err, cause) {
			t.Errorf("the command: %v, want %v", err, cause)
		}
	}
}

// A command gets the line, and what it may want to know in its environment.
func TestExec(t *testing.T) {
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{10, 1 << 20} {
		ev := testEvent(7, "a b", strings.Repeat("v", size))
		p, err := NewProgram(`echo "$RSTREAM_EVENT_ID $RSTREAM_EVENT_USER/$RSTREAM_EVENT_PATH $RSTREAM_EVENT_TYPE $RSTREAM_TRY $RSTREAM_DEAD $(wc -c)"`, out, os.Stderr, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.ExecWorker().Do(t.Context(), &Try{Events: []*event.Event{ev}, Number: 3, Dead: true}); err != nil {
			t.Error(err)
		}
		got := make([]byte, 200)
		n, _ := r.Read(got)
		if want := fmt.Sprintf("0000000000007 u/a b PUT 3 1 %d\n", len(ev.Line())+1); strings.Join(strings.Fields(string(got[:n])), " ") != strings.TrimSpace(want) {
			t.Errorf("the command printed %q, want %q", got[:n], want)
		}
	}
	p, err := NewProgram("true", out, os.Stderr, nil) // it does not read
	if err != nil {
		t.Fatal(err)
	}
	if err := p.ExecWorker().Do(t.Context(), &Try{Events: []*event.Event{testEvent(1, "x", strings.Repeat("v", 1<<20))}}); err != nil {
		t.Error(err)
	}
	if _, err := NewProgram("no-such-program -x", out, os.Stderr, nil); err == nil {
		t.Error("a program that does not exist is accepted")
	}
}

// A program that is missing for a moment costs no event a try. One that stays missing ends the
// consumer, and costs none either.
func TestProgramMissing(t *testing.T) {
	for name, back := range map[string]bool{"exec": true, "exec, for good": false, "pipe, for good": false} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "program")
			found, err := NewProgram("true", os.Stdout, os.Stderr, nil)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				p := &Program{path: path, args: []string{path}, env: os.Environ(), out: os.Stdout, err: os.Stderr, running: map[*process]struct{}{}}
				cfg := Config{NewWorker: p.ExecWorker, Workers: 3, Tries: 1}
				if name == "pipe, for good" {
					cfg.NewWorker = p.PipeWorker
				}
				s := newListStore(6, 4)
				cfg.Store, cfg.Batches = s, s.batches
				if back {
					time.AfterFunc(2*time.Second, func() {
						if err := os.Symlink(found.path, path); err != nil {
							t.Error(err)
						}
					})
				}
				begun := time.Now()
				var status Status
				cfg.OnStatus = func(s Status) { status = s }
				err := Run(t.Context(), cfg)
				switch {
				case status.Failed != 0 || len(s.Bury) > 0:
					t.Errorf("%d tries failed, and %d events are dead", status.Failed, len(s.Bury))
				case back && (err != nil || status.Done != 6):
					t.Errorf("%d events are done: %v", status.Done, err)
				case !back && (!errors.As(err, new(*EndError)) || !errors.Is(err, fs.ErrNotExist) || s.Oldest != 1):
					t.Errorf("%v; %s is the first unfinished event", err, s.Oldest)
				}
				if took := time.Since(begun); took > 10*time.Second {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// Many workers do many events.
func TestPipeMany(t *testing.T) {
	s := newListStore(longtest.Size(2000, 200_000), 100)
	p := newPipeProgram(t)
	var status Status
	err := Run(t.Context(), Config{Store: s, Batches: s.batches, NewWorker: p.PipeWorker, Workers: 8, OnStatus: func(st Status) { status = st }})
	if err != nil || status.Done != int64(len(s.events)) || s.Position() != event.ID(len(s.events)) {
		t.Errorf("%d events are done, at %s: %v", status.Done, s.Position(), err)
	}
}
