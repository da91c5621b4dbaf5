//go:build unix

package deliver

import (
	"errors"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

func shellCommand(command string) []string { return []string{"/bin/sh", "-c", command} }

func lockThread() { runtime.LockOSThread() }

// signalGroup asks the group of p to end, or kills it.
func signalGroup(p *os.Process, kill bool) {
	sig := syscall.SIGTERM
	if kill {
		sig = syscall.SIGKILL
	}
	_ = syscall.Kill(-p.Pid, sig) // it may have ended
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
