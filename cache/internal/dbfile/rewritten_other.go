//go:build !linux

package dbfile

import "errors"

// Rewritten returns how many bytes a VACUUM of this process has written, which only Linux says.
func Rewritten() (written int64, err error) { return 0, errors.ErrUnsupported }
