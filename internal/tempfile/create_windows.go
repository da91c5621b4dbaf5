package tempfile

import (
	"cmp"
	"crypto/rand"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// Create creates a file in a folder, for reading and writing. The system removes it once it is closed: the
// name of an open file cannot be removed. If dir is empty, the folder is that for temporary files.
func Create(dir, prefix string) (*os.File, error) {
	path := filepath.Join(cmp.Or(dir, os.TempDir()), prefix+rand.Text())
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|windows.FILE_FLAG_DELETE_ON_CLOSE, 0o600)
}
