package main

import (
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/rstream-dev/rstream/internal/machine"
)

const pipePiece = 4096 // PIPE_BUF

// identify sets the outlet's id, and kept if it is an anonymous pipe. The numbers of
// pipes start over at each boot.
func (o *outlet) identify() {
	var st unix.Stat_t
	boot := machine.Boot()
	if boot == "" || unix.Fstat(int(o.file.Fd()), &st) != nil {
		return
	}
	o.id = fmt.Sprintf("%s.%x.%x", boot, st.Dev, st.Ino)
	var sys unix.Statfs_t
	o.kept = o.mode&fs.ModeNamedPipe != 0 && unix.Fstatfs(int(o.file.Fd()), &sys) == nil && sys.Type == unix.PIPEFS_MAGIC
}

// queued returns how many bytes wait for the reader, of all writers together; ok is
// false if the system does not tell. For a socket it may be too high.
func (o *outlet) queued() (n int64, ok bool) {
	request := uint(unix.TIOCINQ) // FIONREAD: a pipe answers it at both ends
	if o.mode&fs.ModeSocket != 0 {
		request = unix.TIOCOUTQ
	}
	v, err := unix.IoctlGetInt(int(o.file.Fd()), request)
	return int64(v), err == nil
}
