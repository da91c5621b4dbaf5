//go:build unix && !linux

package deliver

import "syscall"

// groupOfItsOwn puts a process into a group of its own.
func groupOfItsOwn() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
