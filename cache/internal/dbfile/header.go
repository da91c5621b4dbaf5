package dbfile

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
)

// A fileKind says what kind of file the header shows, before SQLite opens it.
type fileKind int

const (
	emptyFile fileKind = iota // or a database without tables, as SQLite creates one
	ourFile
)

// inspect identifies a file by its bytes and refuses foreign ones: merely opening another
// program's database would empty its write-ahead log and could change its journal mode.
func (f *heldFile) inspect(path string) (fileKind, header, error) {
	var h header
	n, err := f.ReadAt(h[:], 0)
	switch {
	case n == 0 && errors.Is(err, io.EOF):
		return emptyFile, h, nil
	case err != nil && !errors.Is(err, io.EOF):
		return 0, h, err
	case n < len(h) || string(h[:16]) != "SQLite format 3\x00":
		return 0, h, ErrNotCache
	case h.app() == applicationID:
		return ourFile, h, nil
	case h.app() != 0 || h.userVersion() != 0:
		return 0, h, ErrNotCache
	}
	kind, err := inspectLog(path, h)
	return kind, h, err
}

// inspectLog identifies a file whose header names no program. Earlier versions wrote the
// header to the write-ahead log first, so their file, if they were killed early, is
// recognized by the newer headers there. Without them, the file has lost its identity.
func inspectLog(path string, h header) (fileKind, error) {
	tables, begun := h.cookie() != 0, h.isWAL()
	err := eachLogHeader(path+"-wal", func(newer header) bool {
		h = newer
		tables = tables || h.cookie() != 0
		return h.app() == 0 // ours sets it with its first table
	})
	switch {
	case err != nil:
		return 0, err
	case h.app() == applicationID:
		return ourFile, nil
	case h.app() != 0 || h.userVersion() != 0 || tables:
		return 0, ErrNotCache
	case begun:
		return 0, ErrNoIdentity
	}
	return emptyFile, nil
}

// A header is the first 100 bytes of a SQLite file.
type header [100]byte

func (h *header) app() uint32         { return binary.BigEndian.Uint32(h[68:]) }
func (h *header) userVersion() uint32 { return binary.BigEndian.Uint32(h[60:]) } // PRAGMA user_version
func (h *header) cookie() uint32      { return binary.BigEndian.Uint32(h[40:]) } // counts changes of the schema

func (h *header) isWAL() bool { return h[18] == 2 }

// PageSize is the size of the pages of new files in bytes.
const PageSize = 8192

// oldPageSize is that of files up to schema 9, which keep it.
const oldPageSize = 4096

// pageSize returns the size of the file's pages in bytes.
func (h *header) pageSize() int {
	if size := int(binary.BigEndian.Uint16(h[16:])); size >= 512 {
		return size
	}
	return 1 << 16 // it has no room in two bytes, and is 1 there
}

// readPageSize returns the size of the file's pages. A file whose header is in its write-ahead
// log alone is of an early version.
func (f *heldFile) readPageSize() (int, error) {
	h, err := f.readHeader()
	if err != nil || h == (header{}) {
		return oldPageSize, err
	}
	return h.pageSize(), nil
}

// readHeader reads the header, zeros if the file is shorter.
func (f *heldFile) readHeader() (h header, err error) {
	if _, err := f.ReadAt(h[:], 0); err != nil {
		return header{}, endOfFile(err)
	}
	return h, nil
}

// eachLogHeader calls visit with each version of the database's header in a write-ahead
// log, until it returns false. The log has a header of 32 bytes, then frames: a frame
// header of 24 bytes, which begins with the page number, and the page.
func eachLogHeader(path string, visit func(header) bool) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var start [32]byte
	if _, err := f.ReadAt(start[:], 0); err != nil {
		return endOfFile(err)
	}
	size := int64(binary.BigEndian.Uint32(start[8:]))
	if size < 512 || size > 65536 {
		return nil // no log: SQLite will not use it either
	}
	var frame [24 + len(header{})]byte
	for at := int64(len(start)); ; at += 24 + size {
		if _, err := f.ReadAt(frame[:], at); err != nil {
			return endOfFile(err)
		}
		if binary.BigEndian.Uint32(frame[:]) == 1 && !visit(header(frame[24:])) {
			return nil
		}
	}
}

func endOfFile(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
