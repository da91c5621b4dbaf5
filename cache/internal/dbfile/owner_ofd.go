//go:build linux || darwin

package dbfile

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// lockAt locks a byte of f while f is open. The lock belongs to the opening, not to the
// process: two openings of one process exclude each other, closing another opening
// releases nothing, and child processes do not inherit the lock.
func lockAt(f *os.File, at int64) error {
	return unix.FcntlFlock(f.Fd(), setOFD, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: at, Len: 1})
}

// isHeldElsewhere reports whether err, of lockAt, means that another opening holds the lock.
func isHeldElsewhere(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES)
}

// lockedAt reports whether another opening of the file holds the lock.
func lockedAt(f *os.File, at int64) (bool, error) {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: at, Len: 1}
	err := unix.FcntlFlock(f.Fd(), getOFD, &l)
	return l.Type != unix.F_UNLCK, err
}

// fileID returns an id that no other file of this kernel has while f is open.
func fileID(f *os.File) string {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "?"
	}
	return fmt.Sprintf("%x.%x", uint64(st.Dev), st.Ino)
}
