package dbfile

import "golang.org/x/sys/unix"

const (
	setOFD = unix.F_OFD_SETLK
	getOFD = unix.F_OFD_GETLK
)
