//go:build unix

package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// workerName is the name under which the test binary is a worker.
const workerName = "rstream-worker"

// A worker is a process that runs commands of rstream, one at a time, each in its own
// folder, with its own environment and standard files. Starting a process costs more than
// most of the commands do.
type worker struct {
	cmd     *exec.Cmd
	control *net.UnixConn
}

// A workerTask is a command for a worker. Its three standard files are sent with its length.
type workerTask struct {
	Args []string // without the name of the program
	Env  []string
	Dir  string
}

func startWorker(zone string) (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(ends[1]), "control")
	defer theirs.Close()
	unix.CloseOnExec(ends[1])
	control, err := controlOf(ends[0])
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: self, Args: []string{workerName}, Stderr: os.Stderr, ExtraFiles: []*os.File{theirs}}
	cmd.Env = append(os.Environ(), "TZ="+zone, "GORACE=halt_on_error=1")
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, control.Close())
	}
	return &worker{cmd, control}, nil
}

func controlOf(fd int) (*net.UnixConn, error) {
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "control")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// end ends a worker, if it still runs, and returns the exit status of its process.
func (w *worker) end() int {
	w.control.Close()
	_ = w.cmd.Wait()
	return w.cmd.ProcessState.ExitCode()
}

// run runs a command and returns its exit status. An error means that the worker ended.
func (w *worker) run(ctx context.Context, task workerTask, stdout, stderr io.Writer) (int, error) {
	defer context.AfterFunc(ctx, func() { _ = w.cmd.Process.Signal(syscall.SIGQUIT) })()
	var copies sync.WaitGroup
	defer copies.Wait()
	in, input, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	input.Close() // it is empty
	defer in.Close()
	out, err := pipeTo(stdout, &copies)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	errs, err := pipeTo(stderr, &copies)
	if err != nil {
		return 0, err
	}
	defer errs.Close()
	if err := w.send(task, in, out, errs); err != nil {
		return 0, err
	}
	return w.receive()
}

// receive waits for the exit status of a command.
func (w *worker) receive() (int, error) {
	status := []byte{0}
	_, err := io.ReadFull(w.control, status)
	return int(status[0]), err
}

func (w *worker) send(task workerTask, files ...*os.File) error {
	text, err := json.Marshal(task)
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	length := binary.BigEndian.AppendUint32(nil, uint32(len(text)))
	_, _, err = w.control.WriteMsgUnix(length, unix.UnixRights(fds...), nil)
	if err == nil {
		_, err = w.control.Write(text)
	}
	return err
}

// pipeTo returns a pipe whose content is copied to w until it is closed.
func pipeTo(w io.Writer, copies *sync.WaitGroup) (*os.File, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	copies.Go(func() {
		defer from.Close()
		_, _ = io.Copy(w, from)
	})
	return to, nil
}

// work is the main function of a worker.
func work() {
	debug.SetGCPercent(400) // the heap is small
	// The end of a script may come when its command has just ended.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM)
	control, err := controlOf(3)
	for err == nil {
		err = workOnce(control)
	}
	if !errors.Is(err, io.EOF) {
		panic(err)
	}
}

func workOnce(control *net.UnixConn) error {
	task, files, err := receiveTask(control)
	if err != nil {
		return err
	}
	os.Clearenv()
	for _, v := range task.Env {
		name, value, _ := strings.Cut(v, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	if err := os.Chdir(task.Dir); err != nil {
		return err
	}
	if err := becomeStandard(files); err != nil {
		return err
	}
	status := run(task.Args, os.Stdin, os.Stdout, os.Stderr)
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := becomeStandard([]int{null, null, null}); err != nil { // which ends the output
		return err
	}
	_, err = control.Write([]byte{byte(status)})
	return err
}

func receiveTask(control *net.UnixConn) (task workerTask, files []int, err error) {
	length, rights := make([]byte, 4), make([]byte, unix.CmsgSpace(3*4))
	n, n2, _, _, err := control.ReadMsgUnix(length, rights)
	if err == nil && n < len(length) {
		err = io.EOF
	}
	if err != nil {
		return task, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n2])
	if err == nil {
		files, err = unix.ParseUnixRights(&messages[0])
	}
	text := make([]byte, binary.BigEndian.Uint32(length))
	if err == nil {
		_, err = io.ReadFull(control, text)
	}
	if err == nil {
		err = json.Unmarshal(text, &task)
	}
	return task, files, err
}

// becomeStandard makes files the standard files of this process and closes them.
func becomeStandard(files []int) error {
	for standard, fd := range files {
		if err := unix.Dup2(fd, standard); err != nil {
			return err
		}
	}
	for _, fd := range slices.Compact(files) {
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}
