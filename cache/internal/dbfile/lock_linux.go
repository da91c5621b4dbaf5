package dbfile

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockByte locks lockOffset while f is open. The lock belongs to the open file, not to
// the process, so closing another descriptor does not drop it.
func lockByte(f *os.File) error {
	err := setLock(f, unix.F_OFD_SETLK, unix.F_WRLCK)
	if errors.Is(err, unix.EINVAL) { // this file system has only locks of processes
		err = setLock(f, unix.F_SETLK, unix.F_WRLCK)
	}
	return err
}

func relockByte(f *os.File) error { return lockByte(f) }

func unlockByte(f *os.File) error {
	err := setLock(f, unix.F_OFD_SETLK, unix.F_UNLCK)
	if errors.Is(err, unix.EINVAL) {
		err = setLock(f, unix.F_SETLK, unix.F_UNLCK)
	}
	return err
}

// servedElsewhere reports whether another process holds the lock.
func servedElsewhere(f *os.File) bool {
	lock := byteLock(unix.F_RDLCK)
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock) == nil && lock.Type != unix.F_UNLCK
}
