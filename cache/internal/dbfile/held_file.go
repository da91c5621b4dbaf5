package dbfile

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
)

// A heldFile is a second opening of the file next to SQLite's own: to inspect the header
// and to lock the file as a server.
//
// There is one per file, whatever its names, and it stays open until the last DB of the
// file is closed: POSIX drops all locks of a process on a file when the process closes
// any descriptor of it, and SQLite's locks are POSIX locks.
type heldFile struct {
	*os.File
	info   os.FileInfo
	others []*os.File // further descriptors, closed with this one
	users  int
	served bool
}

// openFiles holds the heldFiles of this process.
var openFiles struct {
	sync.Mutex
	files []*heldFile
}

// openHeld opens a regular file, or returns the heldFile that this process already has.
// flags may be os.O_CREATE. A file that may not be written is opened for reading.
func openHeld(path string, flags int) (*heldFile, error) {
	openFiles.Lock()
	defer openFiles.Unlock()
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return nil, ErrNotCache
	case err == nil:
		if h := heldAlready(info); h != nil {
			h.users++
			return h, nil
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|flags, 0o600)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		var reading error
		if f, reading = os.Open(path); reading != nil {
			return nil, err
		}
		err = nil
	}
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if h := heldAlready(info); h != nil { // the path has changed in the meantime
		h.others = append(h.others, f)
		h.users++
		return h, nil
	}
	h := &heldFile{File: f, info: info, users: 1}
	openFiles.files = append(openFiles.files, h)
	return h, nil
}

func heldAlready(info os.FileInfo) *heldFile {
	i := slices.IndexFunc(openFiles.files, func(h *heldFile) bool { return os.SameFile(h.info, info) })
	if i < 0 {
		return nil
	}
	return openFiles.files[i]
}

// release drops a reference from openHeld, after SQLite has closed the file.
func (h *heldFile) release() error {
	openFiles.Lock()
	defer openFiles.Unlock()
	if h.users--; h.users > 0 {
		return nil
	}
	openFiles.files = slices.DeleteFunc(openFiles.files, func(other *heldFile) bool { return other == h })
	errs := []error{h.Close()}
	for _, f := range h.others {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// lockOffset is the byte that a server locks. SQLite locks others, and no database is
// that long.
const lockOffset = 1 << 56

// serve keeps other servers out, under any name of the file, until endServing or the end
// of the process.
func (h *heldFile) serve() error {
	openFiles.Lock()
	defer openFiles.Unlock()
	if h.served {
		return ErrLocked
	}
	if err := lockByte(h.File); err != nil {
		return err
	}
	h.served = true
	return nil
}

// keepServing takes the lock again, since SQLite may have dropped it by closing a
// descriptor of its own. Once SQLite has the file open it closes none.
func (h *heldFile) keepServing() error { return relockByte(h.File) }

func (h *heldFile) endServing() error {
	openFiles.Lock()
	defer openFiles.Unlock()
	h.served = false
	return unlockByte(h.File)
}
