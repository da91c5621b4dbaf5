//go:build unix

package main

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watchClosed calls closed when nobody can read the pipe f any longer, so that a tail
// of a quiet topic ends with its reader and not at the next event. Only pipes are
// watched.
func watchClosed(f *os.File, closed func()) (stop func()) {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return func() {}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return func() {}
	}
	var watching sync.WaitGroup
	watching.Go(func() {
		fds := []unix.PollFd{{Fd: int32(f.Fd())}, {Fd: int32(r.Fd()), Events: unix.POLLIN}}
		for {
			_, err := unix.Poll(fds, -1)
			if err == unix.EINTR {
				continue
			}
			if err == nil && fds[1].Revents == 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
				closed()
			}
			return
		}
	})
	return sync.OnceFunc(func() {
		w.Close()
		watching.Wait()
		r.Close()
	})
}

// readerLeaves waits up to wait for the reader of f to leave, and reports whether it
// has.
func readerLeaves(f *os.File, wait time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(f.Fd())}}
	_, err := unix.Poll(fds, int(wait.Milliseconds()))
	return err == nil && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
}

// hasRoom waits up to wait until a write to f would not block, and reports whether that
// is so: there is room, or the write would fail.
func hasRoom(f *os.File, wait time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, int(wait.Milliseconds()))
	return n > 0 || err != nil && err != unix.EINTR
}
