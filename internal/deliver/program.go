package deliver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Program is what workers run. Its processes form groups of their own, so that a signal
// from the terminal does not reach them, and end with this process where the system can do
// that.
type Program struct {
	path string
	args []string
	env  []string
	out  *os.File
	err  *os.File
	name *os.File // inherited by all processes, may be nil

	mu      sync.Mutex
	running map[*process]struct{}
	killed  bool
	missing time.Time // since when no process could be started; zero if the last one was
}

// NewProgram returns the program of a command line: a program and its arguments, or a command
// for the shell if it has a character that means something to it. All processes inherit name,
// which may be nil.
func NewProgram(command string, out, stderr, name *os.File) (*Program, error) {
	args := strings.Fields(command)
	if strings.ContainsAny(command, "|&;<>()$`\\\"'*?[]#~=%!{}\n") {
		args = shellCommand(command)
	}
	if len(args) == 0 {
		return nil, errors.New("the command is empty")
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return nil, err
	}
	return &Program{path: path, args: args, env: os.Environ(), out: out, err: stderr, name: name, running: map[*process]struct{}{}}, nil
}

// Kill kills all processes with their groups, and lets no more start. Processes that are left
// would hold the name.
func (p *Program) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	for r := range p.running {
		r.signal(true)
	}
}

func (p *Program) isKilled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.killed
}

var errProgramKilled = errors.New("all processes were killed")

// add notes that a process runs, or kills it if none may.
func (p *Program) add(r *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running[r] = struct{}{}
	if p.killed {
		r.signal(true)
	}
}

func (p *Program) remove(r *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.running, r)
}

// A process is one run of a Program.
type process struct {
	program *Program
	p       *os.Process
	exited  chan struct{} // closed when it has ended
	state   *os.ProcessState
	err     error // of waiting

	mu    sync.Mutex
	ended bool
	asked bool // to end
}

// termTime is how long a process may take to end after it was asked to.
const termTime = time.Second

// run starts a process. The caller keeps its own descriptors of in and out.
func (p *Program) run(env []string, in, out *os.File) (*process, error) {
	if p.isKilled() {
		return nil, &EndError{errProgramKilled}
	}
	files := []*os.File{in, out, p.err}
	if p.name != nil {
		files = append(files, p.name)
	}
	started, err := os.StartProcess(p.path, p.args, &os.ProcAttr{Env: env, Files: files, Sys: groupOfItsOwn()})
	if err := p.checkStart(err); err != nil {
		return nil, err
	}
	r := &process{program: p, p: started, exited: make(chan struct{})}
	p.add(r)
	return r, nil
}

// missingTime is how long a program may be missing: an update may replace its file.
const missingTime = 5 * time.Second

// checkStart returns the error of a try whose process could not be started. It counts as one only
// if its event is the reason. If the program cannot be run, that is no failure of an event, but
// it ends the consumer before long.
func (p *Program) checkStart(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.missing = time.Time{}
		return nil
	}
	text := fmt.Errorf("start %s: %w", p.args[0], err)
	switch {
	case errors.Is(err, syscall.E2BIG):
		return text
	case hasNoRoom(err):
		return &AgainError{pauseAfter(3), text}
	case p.missing.IsZero():
		p.missing = time.Now()
	}
	if time.Since(p.missing) >= missingTime {
		return &EndError{text}
	}
	return &AgainError{pauseAfter(3), text}
}

// wait waits until the process has ended, and returns nil if it was successful.
func (r *process) wait() error {
	r.state, r.err = r.p.Wait()
	r.program.remove(r)
	r.mu.Lock()
	r.ended = true
	if r.asked {
		signalGroup(r.p, true) // others of the group may be left
	}
	r.mu.Unlock()
	close(r.exited)
	return r.status()
}

// status returns nil if the process was successful. To be killed with all others is no failure
// of its event.
func (r *process) status() error {
	switch {
	case r.program.isKilled():
		return &EndError{errProgramKilled}
	case r.err != nil:
		return fmt.Errorf("wait for the process: %w", r.err)
	case !r.state.Success():
		return errors.New(r.state.String())
	}
	return nil
}

// end asks the processes of the group to end, and kills them a second later.
func (r *process) end() {
	r.signal(false)
	time.AfterFunc(termTime, func() { r.signal(true) })
}

// wasAsked reports whether the process was asked to end before it did.
func (r *process) wasAsked() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

func (r *process) signal(kill bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.asked = true
		signalGroup(r.p, kill)
	}
}

// ExecWorker returns a worker that runs the program once for each event, with the event's line
// as its input and RSTREAM_ variables in its environment. An event is done if the program
// ends with status 0.
func (p *Program) ExecWorker() Worker { return &execWorker{program: p} }

type execWorker struct {
	program *Program
	thread  thread
}

// A thread is that of a worker's goroutine, which starts processes: Linux ends a process with
// the thread that started it, so a worker must not start them in others.
type thread struct{ locked bool }

// lock keeps the goroutine in its thread, until it ends with it.
func (t *thread) lock() {
	if !t.locked {
		lockThread()
		t.locked = true
	}
}

// A starter has a thread of its own, which starts processes. So the goroutine that talks to
// them need not stay in its thread, which would cost more than most of their answers do. The
// zero starter is ready to use.
type starter struct {
	tasks   chan func()
	running sync.WaitGroup
}

// do calls task in the thread of the starter, and returns after it.
func (s *starter) do(task func()) {
	if s.tasks == nil {
		s.tasks = make(chan func())
		s.running.Go(func() {
			lockThread() // which ends with the goroutine
			for task := range s.tasks {
				task()
			}
		})
	}
	done := make(chan struct{})
	s.tasks <- func() {
		defer close(done)
		task()
	}
	<-done
}

// end ends the thread, and with it, on Linux, the processes that it has started.
func (s *starter) end() {
	if s.tasks != nil {
		close(s.tasks)
		s.running.Wait()
	}
}

func (w *execWorker) Close() {}

// pipeRoom is how much every system's pipe takes without a reader.
const pipeRoom = 4096

// Do runs the program for the only event of t.
func (w *execWorker) Do(ctx context.Context, t *Try) error {
	w.thread.lock()
	in, to, err := os.Pipe()
	if err != nil {
		return &AgainError{pauseAfter(3), err} // the system has no room for a process
	}
	defer to.Close()
	line, err := t.appendLine(ctx, nil)
	if err != nil {
		return errors.Join(err, in.Close(), to.Close())
	}
	if len(line) <= pipeRoom {
		_, err = to.Write(line)
		err = errors.Join(err, to.Close())
	}
	if err != nil {
		in.Close()
		return err
	}
	r, err := w.program.run(t.environment(w.program.env), in, w.program.out)
	in.Close()
	if err != nil {
		return err
	}
	var writing sync.WaitGroup
	if len(line) > pipeRoom {
		writing.Go(func() {
			to.Write(line) // the program need not read it
			to.Close()
		})
	}
	defer writing.Wait()
	stop := context.AfterFunc(ctx, r.end)
	defer stop()
	err = r.wait()
	to.Close()
	if err == nil && r.wasAsked() {
		return context.Cause(ctx) // its status says how it took that, and not that the event is done
	}
	return err
}

// appendLine appends the lines of the events, each with a line feed.
func (t *Try) appendLine(ctx context.Context, b []byte) (_ []byte, err error) {
	for _, ev := range t.Events {
		if t.Line == nil {
			b = ev.AppendLine(b)
		} else if b, err = t.Line(ctx, b, ev); err != nil {
			return b, err
		}
		b = append(b, '\n')
	}
	return b, nil
}

// environment returns env with what a program may want to know of an event. The variables do
// not have the names of settings, since the program may run rstream.
func (t *Try) environment(env []string) []string {
	ev := t.Events[0]
	env = append(env[:len(env):len(env)], "RSTREAM_EVENT_ID="+ev.ID.String(), "RSTREAM_EVENT_TIME="+ev.Time.String(), "RSTREAM_EVENT_USER="+ev.User,
		"RSTREAM_EVENT_PATH="+ev.Path, "RSTREAM_EVENT_TYPE="+string(ev.Type), "RSTREAM_EVENT_KEY="+ev.Key, "RSTREAM_EVENT_HASH="+ev.Hash.String(),
		"RSTREAM_TRY="+strconv.Itoa(t.Number))
	if t.Dead {
		env = append(env, "RSTREAM_DEAD=1")
	}
	return env
}
