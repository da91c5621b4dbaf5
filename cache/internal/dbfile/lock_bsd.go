//go:build unix && !linux

package dbfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockByte locks lockOffset. The lock belongs to the process, which loses it by closing
// any descriptor of the file.
func lockByte(f *os.File) error { return setLock(f, unix.F_SETLK, unix.F_WRLCK) }

func relockByte(f *os.File) error { return lockByte(f) }

func unlockByte(f *os.File) error { return setLock(f, unix.F_SETLK, unix.F_UNLCK) }

// servedElsewhere reports whether another process holds the lock.
func servedElsewhere(f *os.File) bool {
	lock := byteLock(unix.F_RDLCK)
	return unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock) == nil && lock.Type != unix.F_UNLCK
}
