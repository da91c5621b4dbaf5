package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/internal/bench"
)

// A benchProcess is this program in a process of its own, serving something.
type benchProcess struct {
	cmd    *exec.Cmd
	url    string
	errors bytes.Buffer
}

// startProcess runs this program with args and waits until it says where it serves.
func (r *benchRun) startProcess(ctx context.Context, args ...string) (*benchProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(r.dir, "url-"+strconv.Itoa(len(args))+args[0])
	p := &benchProcess{cmd: exec.CommandContext(ctx, self, append(args, "--url-file", file)...)}
	p.cmd.Stderr = &p.errors
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "RSTREAM_") })
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(os.Interrupt) }
	p.cmd.WaitDelay = shutdownTime
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for range 1000 {
		b, err := os.ReadFile(file)
		if err == nil {
			p.url = strings.TrimSpace(string(b))
			return p, os.Remove(file)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), p.stop())
		}
	}
	return nil, errors.Join(errors.New("the server does not start"), p.stop())
}

// stop ends the process; whoever is interrupted has done its work.
func (p *benchProcess) stop() error {
	_ = p.cmd.Process.Signal(os.Interrupt) // it may be gone
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) && (exit.ExitCode() == exitInterrupted || exit.ExitCode() == exitDone) {
		return nil
	}
	return fmt.Errorf("the server: %w: %s", err, bytes.TrimSpace(p.errors.Bytes()))
}

// memory returns the most memory that the process has had, in MiB, 0 if the system
// does not say.
func (p *benchProcess) memory() float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kib / 1024
		}
	}
	return 0
}

// A benchPair is what is measured and its limit.
type benchPair struct {
	server *benchProcess // nil if it was named
	limit  *benchProcess
	url    string
}

// pair starts a server with an empty log, unless one was named, and the limit.
func (r *benchRun) pair(ctx context.Context) (p *benchPair, err error) {
	p = &benchPair{url: r.server}
	if p.limit, err = r.startProcess(ctx, "bench", "limit"); err != nil {
		return nil, err
	}
	if p.url != "" {
		return p, nil
	}
	db := filepath.Join(r.dir, fmt.Sprintf("log-%d.db", len(r.results)))
	if p.server, err = r.startProcess(ctx, "serve", "--quiet", "--listen", "127.0.0.1:0", "--db", db); err != nil {
		return nil, errors.Join(err, p.limit.stop())
	}
	p.url = p.server.url
	return p, nil
}

func (p *benchPair) stop() error {
	err := p.limit.stop()
	if p.server != nil {
		err = errors.Join(err, p.server.stop())
	}
	return err
}

// sayMemory adds how much memory the server has had.
func (r *benchRun) sayMemory(name string, p *benchPair) {
	if p.server == nil {
		return
	}
	if m := p.server.memory(); m > 0 {
		r.say(name+" server memory", m, "MiB")
	}
}

// newBenchLimitCommand serves what does nothing.
func newBenchLimitCommand() *cobra.Command {
	var urlFile string
	cmd := &cobra.Command{
		Use: "limit", Short: "Serve what does nothing", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runBenchLimit(cmd.Context(), urlFile) },
	}
	cmd.Flags().StringVar(&urlFile, "url-file", "", "write the URL to `FILE`")
	return cmd
}

func runBenchLimit(ctx context.Context, urlFile string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	hs := &http.Server{Handler: bench.Nothing(), ReadHeaderTimeout: 10 * time.Second}
	if err := writeURL(urlFile, "http://"+listener.Addr().String()); err != nil {
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
