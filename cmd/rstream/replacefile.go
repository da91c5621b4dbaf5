package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/rstream-dev/rstream/internal/folder"
)

// replaceFile replaces a file as a whole, so that a reader never sees half of it. A symbolic link
// stays: the file that it names is replaced. A device is written to. If root replaces a file of
// another user, it stays theirs: their server has to read it.
func replaceFile(path string, b []byte, mode fs.FileMode) error {
	target, err := replaceable(path)
	if err != nil {
		return err
	}
	if target == "" {
		return writeDevice(path, b)
	}
	f, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if info, err := os.Stat(target); err == nil {
		keepOwner(f, info)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), target); err != nil {
		return err
	}
	return folder.Sync(filepath.Dir(target))
}

// lockTime is how long another process may take to change a file.
const lockTime = 10 * time.Second

// withLock calls change, which reads a file and replaces it, while no other process does so. The lock is
// on a file next to it, since the file itself is another one each time. Where there are no locks,
// it does without.
func withLock(path string, change func() error) error {
	lock := flock.New(path + ".lock")
	defer lock.Close()
	ctx, cancel := context.WithTimeout(context.Background(), lockTime)
	defer cancel()
	if _, err := lock.TryLockContext(ctx, 10*time.Millisecond); err != nil && !hasNoLocks(err) {
		return fmt.Errorf("lock %s: %w", lock.Path(), err)
	}
	return change()
}

// hasNoLocks reports whether err, of a lock, means that the file system has none, as some of a network
// do. Without one, of two processes that change a file at once the second may undo what the first did.
func hasNoLocks(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.ENOLCK)
}

// replaceable returns the file that a new one replaces: path, or what a symbolic link names. It is
// "" if that is no regular file, such as /dev/stdout, in whose place a file would be in everybody's way.
func replaceable(path string) (target string, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path, nil
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", nil
	}
	return filepath.EvalSymlinks(path)
}

// writeDevice writes to a device. It does not wait for the reader of a FIFO.
func writeDevice(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
