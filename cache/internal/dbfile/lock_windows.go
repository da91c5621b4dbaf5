package dbfile

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockByte locks lockOffset while f is open.
func lockByte(f *os.File) error { return lockFile(f, windows.LOCKFILE_EXCLUSIVE_LOCK) }

// relockByte does nothing: the lock belongs to f alone.
func relockByte(*os.File) error { return nil }

func unlockByte(f *os.File) error {
	return windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, atLockOffset())
}

// servedElsewhere reports whether another process holds the lock.
func servedElsewhere(f *os.File) bool {
	if err := lockFile(f, 0); err != nil {
		return errors.Is(err, ErrLocked)
	}
	return unlockByte(f) != nil
}

func lockFile(f *os.File, flags uint32) error {
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, atLockOffset())
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return ErrLocked
	}
	return err
}

func atLockOffset() *windows.Overlapped {
	return &windows.Overlapped{OffsetHigh: lockOffset >> 32}
}

// mayRead and mayWrite return why this process may not read or write a file. Only trying
// shows whether a folder may be written.
func mayRead(path string) error { return tryOpen(path, os.O_RDONLY) }

func mayWrite(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	return tryOpen(path, os.O_RDWR)
}

func tryOpen(path string, flag int) error {
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	return f.Close()
}
