//go:build unix

package dbfile

import (
	"errors"
	"syscall"
)

// processExists reports whether this machine has a process with the number pid.
func processExists(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
