package main

import (
	"io/fs"
	"os"
)

// An outlet is the target of standard output, with what the system tells about how much
// its reader has taken.
type outlet struct {
	file *os.File
	mode fs.FileMode
	// id distinguishes the outlet from every other one; it is empty if there is no
	// unique id.
	id string
	// measured: the system tells how many bytes wait for the reader.
	measured bool
	// kept: only the reader removes bytes, whatever writers come and go, so bytes of a
	// predecessor are still there or were taken. A named pipe is not kept: the system
	// empties it when the last process closes it.
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

// mayQueue reports whether bytes may wait for the reader of the outlet, which may leave
// without reading them.
func (o *outlet) mayQueue() bool { return o.mode&(fs.ModeNamedPipe|fs.ModeSocket) != 0 }

// piece is how much may be written at a time. A pipe takes a piece of up to this size
// whole or not at all, so a piece of whole lines leaves no partial line.
func (o *outlet) piece() int {
	if o.mayQueue() {
		return pipePiece
	}
	return 64 << 10
}

// back is how far a cursor moves back when the reader has left: the reader may have
// read that many bytes without processing them. If the number of unread bytes is not
// known, as many again may be unread.
func (o *outlet) back() int64 {
	if o.mayQueue() && !o.measured {
		return 2 * readerBuffer
	}
	return readerBuffer
}

const readerBuffer = 64 << 10

// endsInLine reports whether the outlet is a file that ends within a line, because an
// earlier writer was killed or the disk was full.
func (o *outlet) endsInLine() bool {
	if !o.mode.IsRegular() {
		return false
	}
	f, err := os.Open(o.file.Name()) // f may be open for writing only
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
