//go:build unix

package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A file that is replaced is whole, a link to it stays, and nothing else is replaced: as root, a
// program must not put a file in the place of a device.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	file, link, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	read := filepath.Join(dir, "read")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), syscall.Mkfifo(read, 0o600)); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(read, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	replace := map[string]func(path string) error{
		"replaceFile": func(path string) error { return replaceFile(path, []byte("http://new\n"), 0o600) },
		"writeURL":    func(path string) error { return writeURL(path, "http://new") },
	}
	for name, write := range replace {
		for _, path := range []string{file, link} {
			if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := write(path); err != nil {
				t.Error(err)
			}
			if b, err := os.ReadFile(file); err != nil || string(b) != "http://new\n" {
				t.Errorf("%s: %s has %q, %v", name, path, b, err)
			}
		}
		for _, path := range []string{pipe, dir} { // nobody reads the one, and the other is none
			if err := write(path); err == nil {
				t.Errorf("%s: %s was written", name, path)
			}
		}
		if err := write(read); err != nil {
			t.Error(err)
		}
		b := make([]byte, 100)
		if n, err := reader.Read(b); err != nil || string(b[:n]) != "http://new\n" {
			t.Errorf("%s: the reader gets %q, %v", name, b[:n], err)
		}
	}
	if os.Getuid() == 0 { // root must not take a file from its user
		if err := errors.Join(os.Chown(file, 12345, 54321), replaceFile(link, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if of := info.Sys().(*syscall.Stat_t); err != nil || of.Uid != 12345 || of.Gid != 54321 || info.Mode().Perm() != 0o600 {
			t.Errorf("the file belongs to %d:%d, %v, %v", of.Uid, of.Gid, info.Mode(), err)
		}
	}
	for path, want := range map[string]fs.FileMode{link: fs.ModeSymlink, pipe: fs.ModeNamedPipe, read: fs.ModeNamedPipe, dir: fs.ModeDir} {
		if info, err := os.Lstat(path); err != nil || info.Mode().Type() != want {
			t.Errorf("%s is %v now, %v", path, info.Mode(), err)
		}
	}
	if names, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(names) > 0 {
		t.Errorf("%s are left, %v", names, err)
	}
}

// A file system that has no locks is no reason to leave a file as it is.
func TestHasNoLocks(t *testing.T) {
	for err, want := range map[error]bool{syscall.ENOTSUP: true, syscall.ENOSYS: true, syscall.ENOLCK: true,
		&os.PathError{Op: "flock", Err: syscall.ENOLCK}: true, syscall.EACCES: false, context.DeadlineExceeded: false} {
		if got := hasNoLocks(err); got != want {
			t.Errorf("%v: %t", err, got)
		}
	}
}
