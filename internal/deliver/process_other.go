//go:build !unix

package deliver

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

func shellCommand(command string) []string { return []string{"cmd", "/c", command} }

func lockThread() {}

func groupOfItsOwn() *syscall.SysProcAttr { return nil }

// hasNoRoom reports whether the system could not start a process for now.
func hasNoRoom(err error) bool {
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission)
}

func signalGroup(p *os.Process, _ bool) { _ = p.Kill() }

// isReadable returns false: what a process says unasked is seen with its next answer.
func isReadable(*os.File) bool { return false }

// HoldName returns nil: the lease of the cursor has to suffice.
func HoldName(string) (*os.File, error) { return nil, nil }

// NameHolders returns nil: the system does not say which processes have a file open.
func NameHolders(string) []int { return nil }
