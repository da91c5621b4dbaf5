package dbfile

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// lockAt locks a byte of f while f is open.
func lockAt(f *os.File, at int64) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, overlappedAt(at))
}

// isHeldElsewhere reports whether err, of lockAt, means that another opening holds the lock, or is
// looking at it.
func isHeldElsewhere(err error) bool {
	return errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING)
}

// lockedAt reports whether another opening of the file holds the lock. It tries a shared
// lock, so that two simultaneous checks do not see each other.
func lockedAt(f *os.File, at int64) (bool, error) {
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, overlappedAt(at))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, overlappedAt(at))
}

func overlappedAt(at int64) *windows.Overlapped {
	return &windows.Overlapped{Offset: uint32(at), OffsetHigh: uint32(at >> 32)}
}

// fileID returns an id that no other file has while f is open.
func fileID(f *os.File) string {
	var info windows.ByHandleFileInformation
	if err := windows.GetFileInformationByHandle(windows.Handle(f.Fd()), &info); err != nil {
		return "?"
	}
	return fmt.Sprintf("%x.%x%08x", info.VolumeSerialNumber, info.FileIndexHigh, info.FileIndexLow)
}
