package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A process is this program, running as a server in a separate process.
type process struct {
	cmd    *exec.Cmd
	url    string
	errors bytes.Buffer
	ask    io.Writer // see CollectOnDemand
	answer *bufio.Reader
}

// stopTime is how long a process may take to end.
const stopTime = 10 * time.Second

// interrupted is the exit status of a program that was interrupted.
const interrupted = 130

// programCommand returns this program with args, without settings from the environment. It is
// interrupted when ctx ends.
func programCommand(ctx context.Context, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "RSTREAM_") })
	if cfg, ok := ctx.Value(accessKey{}).(*Config); ok {
		cmd.Env = append(cmd.Env, cfg.Environ...)
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopTime
	return cmd, nil
}

// runTimes is how long a command took, and how much time of the processors, with the commands
// that it started.
type runTimes struct{ elapsed, cpu time.Duration }

func (t runTimes) add(u runTimes) runTimes { return runTimes{t.elapsed + u.elapsed, t.cpu + u.cpu} }

// runProgram runs this program to its end, which must be a success.
func runProgram(ctx context.Context, out io.Writer, args ...string) (t runTimes, err error) {
	cmd, err := programCommand(ctx, args...)
	if err != nil {
		return t, err
	}
	cmd.Stdout = out
	if t, err = timeCommand(cmd); err != nil {
		return t, fmt.Errorf("%s: %w", args[0], err)
	}
	return t, nil
}

// timeCommand runs a command to its end, which must be a success.
func timeCommand(cmd *exec.Cmd) (t runTimes, err error) {
	var errs bytes.Buffer
	cmd.Stderr = &errs
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return t, fmt.Errorf("%w: %s", err, bytes.TrimSpace(errs.Bytes()))
	}
	return runTimes{time.Since(start), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}, nil
}

// startProcess runs this program with args and waits until it has published its URL.
func (r *runner) startProcess(ctx context.Context, args ...string) (*process, error) {
	file := filepath.Join(r.dir, "url-"+strconv.Itoa(len(args))+args[0])
	cmd, err := programCommand(ctx, append(args, "--url-file", file)...)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: cmd}
	p.cmd.Stderr = &p.errors
	if p.ask, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	answer, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.answer = bufio.NewReader(answer)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for range 5000 {
		b, err := os.ReadFile(file)
		if err == nil {
			p.url = strings.TrimSpace(string(b))
			return p, os.Remove(file)
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), p.stop())
		}
	}
	return nil, errors.Join(errors.New("the server does not start"), p.stop())
}

// stop ends the process. To be interrupted is not an error.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(os.Interrupt) // it may have ended
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) && exit.ExitCode() == interrupted {
		return nil
	}
	return fmt.Errorf("the server: %w: %s", err, bytes.TrimSpace(p.errors.Bytes()))
}

// memory returns the peak memory of the process in MiB, 0 if the system does not tell.
func (p *process) memory() float64 { return p.statusField("VmHWM:") }

// residentNow returns the current memory of the process without garbage. The process
// must run CollectOnDemand.
func (p *process) residentNow() (float64, error) {
	if _, err := fmt.Fprintln(p.ask); err != nil {
		return 0, err
	}
	_, err := p.answer.ReadString('\n')
	return p.statusField("VmRSS:"), err
}

func (p *process) statusField(name string) (mib float64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kib, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kib / 1024
		}
	}
	return 0
}

// A pair is a server and the limit it is compared with.
type pair struct {
	server *process // nil if Config names a server
	file   string   // of its log
	limit  *process
	url    string
}

// startPair starts the limit and, unless Config names a server, a server with an empty
// log.
func (r *runner) startPair(ctx context.Context) (p *pair, err error) {
	p = &pair{url: r.cfg.Server}
	if p.limit, err = r.startProcess(ctx, "bench", "limit"); err != nil {
		return nil, err
	}
	if p.url != "" {
		return p, nil
	}
	p.file = fmt.Sprintf("log-%d.db", len(r.results))
	if p.server, err = r.startServe(ctx, p.file); err != nil {
		return nil, errors.Join(err, p.limit.stop())
	}
	p.url = p.server.url
	return p, nil
}

// startServe starts a server of a log in the run's directory.
func (r *runner) startServe(ctx context.Context, file string) (*process, error) {
	return r.startProcess(ctx, "serve", "--quiet", "--listen", "127.0.0.1:0", "--db", filepath.Join(r.dir, file))
}

// restartServer restarts the server, unless Config names it.
func (p *pair) restartServer(ctx context.Context, r *runner) error {
	if p.server == nil {
		return nil
	}
	if err := p.server.stop(); err != nil {
		return err
	}
	again, err := r.startServe(ctx, p.file)
	if err != nil {
		return err
	}
	p.server, p.url = again, again.url
	return nil
}

func (p *pair) stopBoth() error {
	err := p.limit.stop()
	if p.server != nil {
		err = errors.Join(err, p.server.stop())
	}
	return err
}

// sayMemory adds the peak memory of the server.
func (r *runner) sayMemory(name string, p *pair) {
	if p.server == nil {
		return
	}
	if m := p.server.memory(); m > 0 {
		r.addFigure(name+" server memory", m, "MiB")
	}
}

// CollectOnDemand returns free memory to the system for each line it reads, and answers
// with a line. It ends with its input.
func CollectOnDemand(in io.Reader, out io.Writer) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		for range 5 { // each halves a stack that was once deep
			debug.FreeOSMemory()
		}
		if _, err := fmt.Fprintln(out); err != nil {
			return
		}
	}
}

// ServeLimit serves Nothing on a free port until ctx ends. It calls publish with the
// URL.
func ServeLimit(ctx context.Context, publish func(url string) error) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	hs := &http.Server{Handler: Nothing(), ReadHeaderTimeout: 10 * time.Second}
	if err := publish("http://" + listener.Addr().String()); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- hs.Serve(listener) }()
	<-ctx.Done()
	return errors.Join(hs.Close(), ignoreClosed(<-failed))
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
