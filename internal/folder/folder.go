// Package folder makes names durable: a file that was created or renamed has its name after a loss
// of power only if its folder was synced, too. The contents are synced by those who write them.
package folder

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"syscall"
)

// Sync makes the names in the folder path durable, if the system can do so: Windows cannot,
// nor can some file systems of others.
func Sync(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	folder, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil // a folder may be writable and not readable
	}
	if err != nil {
		return err
	}
	err = folder.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		err = nil
	}
	return errors.Join(err, folder.Close())
}
