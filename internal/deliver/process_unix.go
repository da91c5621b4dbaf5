//go:build unix

package deliver

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

func shellCommand(command string) []string { return []string{"/bin/sh", "-c", command} }

func lockThread() { runtime.LockOSThread() }

// hasNoRoom reports whether the system could not start a process for now.
func hasNoRoom(err error) bool {
	return slices.ContainsFunc([]error{unix.EAGAIN, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.ETXTBSY, unix.EINTR},
		func(e error) bool { return errors.Is(err, e) })
}

// signalGroup asks the group of p to end, or kills it.
func signalGroup(p *os.Process, kill bool) {
	sig := syscall.SIGTERM
	if kill {
		sig = syscall.SIGKILL
	}
	_ = syscall.Kill(-p.Pid, sig) // it may have ended
}

// isReadable reports whether the other end of a pipe has written something or is closed.
func isReadable(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	err = conn.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ = unix.Poll(poll, 0) // interrupted: it is seen with the next answer
	})
	return err == nil && n > 0
}

// HoldName locks the file of a name, and creates it if it does not exist. Processes that
// inherit the file hold the lock, too: it is free when all of them are gone. HoldName returns
// ErrNameHeld if it is not free.
func HoldName(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, errors.Join(ErrNameHeld, f.Close())
	case err != nil:
		return nil, errors.Join(&os.PathError{Op: "lock", Path: path, Err: err}, f.Close())
	}
	return f, nil
}
