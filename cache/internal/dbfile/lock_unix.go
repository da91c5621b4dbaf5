//go:build unix

package dbfile

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func byteLock(kind int16) unix.Flock_t {
	return unix.Flock_t{Type: kind, Whence: 0, Start: lockOffset, Len: 1}
}

func setLock(f *os.File, cmd int, kind int16) error {
	lock := byteLock(kind)
	err := unix.FcntlFlock(f.Fd(), cmd, &lock)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrLocked
	}
	return err
}

// mayRead and mayWrite return why this process may not read or write a file or folder.
func mayRead(path string) error { return access(path, unix.R_OK) }

func mayWrite(path string) error { return access(path, unix.W_OK) }

func access(path string, mode uint32) error {
	if err := unix.Faccessat(unix.AT_FDCWD, path, mode, unix.AT_EACCESS); err != nil {
		return &os.PathError{Op: "access", Path: path, Err: err}
	}
	return nil
}
