package main

import (
	"io/fs"
	"os"
)

// An outlet is what standard output leads to, and how much can be known there of what a
// reader has taken.
type outlet struct {
	file *os.File
	mode fs.FileMode
	// id tells the outlet from every other one, "" if that cannot be known.
	id string
	// measured: the system tells how many bytes wait for the reader.
	measured bool
	// kept: only the reader takes bytes away, whatever writers come and go, so what a
	// predecessor has written stands there or was taken. A named pipe is not kept: it is
	// emptied when all that had it open are gone.
	kept bool
}

func newOutlet(f *os.File) outlet {
	o := outlet{file: f}
	info, err := f.Stat()
	if err != nil {
		return o
	}
	o.mode = info.Mode()
	o.identify()
	if o.mayQueue() {
		_, o.measured = o.queued()
	}
	o.kept = o.kept && o.measured && o.id != ""
	return o
}

// mayQueue reports whether bytes may wait for the reader of the outlet, which may go
// away and leave them.
func (o *outlet) mayQueue() bool { return o.mode&(fs.ModeNamedPipe|fs.ModeSocket) != 0 }

// piece is how much may be written at a time. In a pipe a piece of at most so many bytes
// comes whole or not at all, so one of whole lines leaves no line in part.
func (o *outlet) piece() int {
	if o.mayQueue() {
		return pipePiece
	}
	return 64 << 10
}

// back is by how much a cursor goes back when the reader has left: it may have read so
// many bytes and not used them. If the bytes that it has not read are not known, there
// may be as many.
func (o *outlet) back() int64 {
	if o.mayQueue() && !o.measured {
		return 2 * readerBuffer
	}
	return readerBuffer
}

const readerBuffer = 64 << 10

// endsInLine reports whether the outlet is a file that ends within a line: whoever wrote
// it before was killed, or the disk was full.
func (o *outlet) endsInLine() bool {
	if !o.mode.IsRegular() {
		return false
	}
	f, err := os.Open(o.file.Name()) // it may be open for writing only
	if err != nil {
		return false
	}
	defer f.Close()
	was, err := f.Stat()
	is, err2 := o.file.Stat()
	if err != nil || err2 != nil || !os.SameFile(was, is) || is.Size() == 0 {
		return false
	}
	var last [1]byte
	_, err = f.ReadAt(last[:], is.Size()-1)
	return err == nil && last[0] != '\n'
}
