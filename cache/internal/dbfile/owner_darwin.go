package dbfile

// From <sys/fcntl.h>; x/sys lacks them.
const (
	setOFD = 90
	getOFD = 92
)
