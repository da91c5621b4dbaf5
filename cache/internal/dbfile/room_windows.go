package dbfile

import (
	"path/filepath"

	"golang.org/x/sys/windows"
)

func diskSpace(path string) (free int64, ok bool) {
	dir, err := windows.UTF16PtrFromString(filepath.Dir(path))
	if err != nil {
		return 0, false
	}
	var n uint64
	if windows.GetDiskFreeSpaceEx(dir, &n, nil, nil) != nil {
		return 0, false
	}
	return int64(n), true
}
