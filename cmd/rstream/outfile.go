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
)

// An outFile is a file that is written as a whole or not at all: until it is complete it
// has a temporary name in the same folder. The suffix of its name says how it is compressed.
// A device or FIFO is written to as it is.
type outFile struct {
	file     *os.File
	w        io.Writer      // compresses, if it is to be compressed
	compress io.WriteCloser // nil if it is not
	temp     string         // "" if it is written to as it is
	path     string         // that it gets in the end
}

// tempPrefix begins the names of files that are not complete.
const tempPrefix = ".rstream-part-"

// checkSuffix refuses the suffixes of compressions that an outFile does not have.
func checkSuffix(path string) error {
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".bz2", ".xz", ".lzma", ".lz4", ".br", ".sz", ".zip", ".7z", ".z", ".tgz", ".tar":
		return usagef("%s: cannot write %s; want a name that ends in .gz or .zst, or one for plain text", path, ext)
	}
	return nil
}

// createOutFile begins to write a file. One that is there already is replaced by commit.
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
		f.temp = filepath.Join(filepath.Dir(f.path), tempPrefix+rand.Text())
		if f.file, err = os.OpenFile(f.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666); err == nil {
			f.w = f.file
		}
	}
	if err == nil && exists && f.temp != "" {
		err = f.file.Chmod(mode.Perm())
	}
	if err == nil {
		err = f.addCompression()
	}
	if err != nil {
		f.abort()
		if at := (*fs.PathError)(nil); errors.As(err, &at) && at.Path == f.temp {
			at.Path = path // which is what the person has named
		}
		return nil, err
	}
	return f, nil
}

// lookAt looks at what has the name already, and refuses what must not be replaced.
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
	old, err := os.OpenFile(f.path, os.O_RDWR, 0) // a file that may not be written is not replaced
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

// addCompression has what is written be compressed if the name says so.
func (f *outFile) addCompression() (err error) {
	switch strings.ToLower(filepath.Ext(f.path)) {
	case ".gz":
		f.compress = gzip.NewWriter(f.w)
	case ".zst":
		f.compress, err = zstd.NewWriter(f.w, zstd.WithEncoderConcurrency(1)) // without goroutines
	}
	if err == nil && f.compress != nil {
		f.w = f.compress
	}
	return err
}

// Write writes to the file, under the name that it has until it is complete.
func (f *outFile) Write(p []byte) (int, error) { return f.w.Write(p) }

// commit gives the file its name, once it is on the disk.
func (f *outFile) commit() error {
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
		return errors.Unwrap(err) // without the temporary name
	}
	f.temp = ""
	return nil
}

// abort removes what was not committed.
func (f *outFile) abort() {
	if f.file != nil {
		f.file.Close() // it may have been closed
	}
	if f.temp != "" {
		os.Remove(f.temp)
	}
}
