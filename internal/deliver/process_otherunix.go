//go:build unix && !linux

package deliver

import "syscall"

// groupOfItsOwn puts a process into a group of its own.
func groupOfItsOwn() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// NameHolders returns nil: the system does not say which processes have a file open.
func NameHolders(string) []int { return nil }
