package longtest

import (
	"flag"
	"os"

	"golang.org/x/sys/unix"
)

// memory is a folder of the system whose files are in memory, and room the bytes that must be
// free in it.
const (
	memory = "/dev/shm"
	room   = 2 << 30
)

// TempInMemory keeps the temporary files of short forms in memory, if the system has room there:
// SQLite syncs each transaction to the disk, and most tests would wait for the disk most of their
// time. A TMPDIR of the user stays. It is called by TestMain.
func TempInMemory() {
	flag.Parse()
	if Enabled() || os.Getenv("TMPDIR") != "" {
		return
	}
	var fs unix.Statfs_t
	if unix.Statfs(memory, &fs) != nil || fs.Bavail*uint64(fs.Bsize) < room || fs.Flags&unix.MS_NOEXEC != 0 {
		return
	}
	dir, err := os.MkdirTemp(memory, "rstream")
	if err != nil || os.Remove(dir) != nil {
		return
	}
	os.Setenv("TMPDIR", memory)
}
