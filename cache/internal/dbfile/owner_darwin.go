package dbfile

// Of <sys/fcntl.h>; x/sys does not name them.
const (
	setOFD = 90
	getOFD = 92
)
