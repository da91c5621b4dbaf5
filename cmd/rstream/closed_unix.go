//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// neverOpened reports whether the standard stream f was closed when the program
// started. The Go runtime then opens /dev/null on its descriptor, for reading and
// writing. Programs that do this on purpose, as daemon(3) does, share one open file
// among several streams; a single one cannot be distinguished from a closed stream. A
// shell's > and < open /dev/null in one direction only.
func neverOpened(f *os.File, others ...*os.File) bool {
	is, err := f.Stat()
	null, err2 := os.Stat(os.DevNull)
	if err != nil || err2 != nil {
		return err != nil // f is not open
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

// sameOpening reports whether two descriptors of /dev/null share one open file: then a
// flag set through one is seen through the other. O_APPEND changes nothing on
// /dev/null.
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
