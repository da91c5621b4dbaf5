//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// neverOpened reports whether the standard stream f was closed when the program began.
// The Go runtime opens /dev/null on its descriptor then, for reading and writing. Others
// who do the same share that opening among several streams, as daemon(3) does; one that
// is alone cannot be told from a closed one. Those of a shell's > and < are open for one
// of the two only.
func neverOpened(f *os.File, others ...*os.File) bool {
	is, err := f.Stat()
	null, err2 := os.Stat(os.DevNull)
	if err != nil || err2 != nil {
		return err != nil // it is not there at all
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || !os.SameFile(is, null) || flags&unix.O_ACCMODE != unix.O_RDWR {
		return false
	}
	for _, other := range others {
		if sameOpening(f, other, flags) {
			return false
		}
	}
	return true
}

// sameOpening reports whether two descriptors of /dev/null share one opening: then a
// flag that is set through the one is seen through the other. To append to /dev/null
// changes nothing.
func sameOpening(f, other *os.File, flags int) bool {
	was, err := unix.FcntlInt(other.Fd(), unix.F_GETFL, 0)
	if err != nil || was != flags {
		return false
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, flags^unix.O_APPEND); err != nil {
		return false
	}
	is, err := unix.FcntlInt(other.Fd(), unix.F_GETFL, 0)
	_, err2 := unix.FcntlInt(f.Fd(), unix.F_SETFL, flags)
	return err == nil && err2 == nil && is != was
}
