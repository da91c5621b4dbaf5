//go:build !windows

package tempfile

import (
	"errors"
	"os"
)

// Create creates a file in a folder, for reading and writing by its owner, and removes its name. The space
// is free once the file is closed. If dir is empty, the folder is that for temporary files.
func Create(dir, prefix string) (*os.File, error) {
	f, err := os.CreateTemp(dir, prefix)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
