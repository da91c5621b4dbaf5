package dbfile

import (
	"os"
	"path/filepath"
	"strings"
)

// sqliteTemp begins the name of a temporary file of SQLite.
const sqliteTemp = "etilqs_"

// Rewritten returns how many bytes a VACUUM of this process has written. SQLite writes the new
// file to a temporary one, which has no name any more, and then copies that over the old one.
func Rewritten() (written int64, err error) {
	const dir = "/proc/self/fd"
	open, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, fd := range open {
		name := filepath.Join(dir, fd.Name())
		if to, err := os.Readlink(name); err != nil || !strings.HasPrefix(filepath.Base(to), sqliteTemp) {
			continue
		}
		if info, err := os.Stat(name); err == nil {
			written = max(written, info.Size())
		}
	}
	if written == 0 {
		err = os.ErrNotExist
	}
	return written, err
}
