package deliver

import "syscall"

// groupOfItsOwn puts a process into a group of its own and kills it when its parent ends.
func groupOfItsOwn() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
