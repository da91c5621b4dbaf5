//go:build !linux && !darwin && !windows

package dbfile

import (
	"errors"
	"os"
)

// lockAt is unsupported: there is no lock that belongs to one opening of a file.
func lockAt(*os.File, int64) error { return errors.ErrUnsupported }

func isHeldElsewhere(error) bool { return false }

func lockedAt(*os.File, int64) (bool, error) { return false, errors.ErrUnsupported }

func fileID(*os.File) string { return "?" }
