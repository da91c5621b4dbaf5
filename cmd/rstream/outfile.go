package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/rstream-dev/rstream/internal/folder"
)

// An outFile is written as a whole or not at all: until it is complete, it has a
// temporary name in the same folder. The suffix of its name selects the compression. A
// device or FIFO is written to directly.
type outFile struct {
	file     *os.File
	w        io.Writer      // compresses, if the name says so
	compress io.WriteCloser // nil if it is not
	temp     string         // empty if the file is written to directly
	path     string         // the final name
}

// tempPrefix begins the names of incomplete files.
const tempPrefix = ".rstream-part-"

// checkSuffix rejects suffixes of compressions that outFile does not support.
func checkSuffix(path string) error {
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".bz2", ".xz", ".lzma", ".lz4", ".br", ".sz", ".zip", ".7z", ".z", ".tgz", ".tar":
		return usagef("%s: cannot write %s; want a name that ends in .gz or .zst, or one for plain text", path, ext)
	}
	return nil
}

// createOutFile starts to write a file. publishFile replaces an existing one.
func createOutFile(ctx context.Context, path string) (*outFile, error) {
	f := &outFile{path: path}
	mode, exists, err := f.lookAt()
	switch {
	case err != nil:
		return nil, err
	case exists && !mode.IsRegular():
		f.file, err = orSignal(ctx, func() (*os.File, error) { return os.OpenFile(path, os.O_WRONLY, 0) })
		if err == nil {
			f.w = &interruptible{ctx: ctx, file: f.file}
		}
	default:
		perm := fs.FileMode(0o666)
		if exists {
			perm = mode.Perm() // nobody else may open what was private
		}
		f.temp = filepath.Join(filepath.Dir(f.path), tempPrefix+rand.Text())
		if f.file, err = os.OpenFile(f.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm); err == nil {
			f.w = f.file
		}
	}
	if err == nil && exists && f.temp != "" {
		err = f.file.Chmod(mode.Perm())
	}
	if err == nil {
		err = f.addCompression(path)
	}
	if err != nil {
		f.discardFile()
		if at := (*fs.PathError)(nil); errors.As(err, &at) && at.Path == f.temp {
			at.Path = path // the name that the user gave
		}
		return nil, err
	}
	return f, nil
}

// lookAt examines an existing file of that name, and rejects files that must not be
// replaced.
func (f *outFile) lookAt() (mode fs.FileMode, exists bool, err error) {
	if info, err := os.Lstat(f.path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if info, err := os.Stat(f.path); err != nil || !info.Mode().IsRegular() {
			return modeOf(info), err == nil, err
		}
		if f.path, err = filepath.EvalSymlinks(f.path); err != nil {
			return 0, false, err
		}
	}
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil || !info.Mode().IsRegular() {
		return modeOf(info), err == nil, err
	}
	old, err := os.OpenFile(f.path, os.O_RDWR, 0) // a file without write permission is not replaced
	if err != nil {
		return 0, false, err
	}
	defer old.Close()
	begin := make([]byte, len(sqliteMagic))
	if _, err := old.ReadAt(begin, 0); err == nil && bytes.Equal(begin, sqliteMagic) {
		return 0, false, fmt.Errorf("%s is a database: it is not replaced", f.path)
	}
	return info.Mode(), true, nil
}

var sqliteMagic = []byte("SQLite format 3\x00")

func modeOf(info fs.FileInfo) fs.FileMode {
	if info == nil {
		return 0
	}
	return info.Mode()
}

// addCompression compresses the output if the name says so. It is the name that the user
// gave, also if that is a symbolic link.
func (f *outFile) addCompression(path string) (err error) {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".gz":
		f.compress = gzip.NewWriter(f.w)
	case ".zst":
		f.compress, err = zstd.NewWriter(f.w, zstd.WithEncoderConcurrency(1)) // no goroutines
	}
	if err == nil && f.compress != nil {
		f.w = f.compress
	}
	return err
}

// Write writes to the file under its temporary name.
func (f *outFile) Write(p []byte) (int, error) { return f.w.Write(p) }

// publishFile syncs the file and gives it its name. Only a sync of the folder makes the
// name durable.
func (f *outFile) publishFile() error {
	if f.compress != nil {
		if err := f.compress.Close(); err != nil {
			return err
		}
	}
	if f.temp != "" {
		if err := f.file.Sync(); err != nil {
			return err
		}
	}
	if err := f.file.Close(); err != nil || f.temp == "" {
		return err
	}
	if err := os.Rename(f.temp, f.path); err != nil {
		return errors.Unwrap(err) // drop the temporary name
	}
	f.temp = ""
	return folder.Sync(filepath.Dir(f.path))
}

// discardFile removes a file that was not published.
func (f *outFile) discardFile() {
	if f.file != nil {
		f.file.Close() // it may be closed already
	}
	if f.temp != "" {
		os.Remove(f.temp)
	}
}
