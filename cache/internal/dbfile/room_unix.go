//go:build linux || darwin

package dbfile

import "golang.org/x/sys/unix"

func diskSpace(path string) (free int64, ok bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}
