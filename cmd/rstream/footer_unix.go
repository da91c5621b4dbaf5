//go:build unix

package main

import (
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watchTerminal adapts the footer when the terminal changes its width, and when the program
// is suspended and continues, until stop is called.
func (s *footer) watchTerminal() (stop func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGWINCH, unix.SIGCONT)
	if !signal.Ignored(unix.SIGTSTP) && hasShell() {
		signal.Notify(signals, unix.SIGTSTP)
	}
	var watching sync.WaitGroup
	watching.Go(func() {
		for sig := range signals {
			switch sig {
			case unix.SIGTSTP:
				s.suspend(func() { stopProcess(signals) })
			case unix.SIGCONT:
				s.resume()
			default:
				s.resize()
			}
		}
	})
	return func() {
		signal.Stop(signals)
		close(signals)
		watching.Wait()
	}
}

// hasShell reports whether the program was started by a shell that can stop and continue
// it. The system stops no others at ^Z, and nobody would continue them.
func hasShell() bool {
	parent := os.Getppid()
	group, err := unix.Getpgid(parent)
	session, err2 := unix.Getsid(parent)
	own, err3 := unix.Getsid(0)
	return err == nil && err2 == nil && err3 == nil && session == own && group != unix.Getpgrp()
}

// stopProcess stops the program, and returns when it continues. After a handler was
// installed for SIGTSTP, the runtime cannot restore what the system does at ^Z.
func stopProcess(signals <-chan os.Signal) {
	if !hasShell() || unix.Kill(unix.Getpid(), unix.SIGSTOP) != nil {
		return
	}
	for range 2 { // the first wait may have ended while the program was stopped
		end := time.After(100 * time.Millisecond)
		for waiting := true; waiting; {
			select {
			case sig := <-signals:
				if sig == unix.SIGCONT {
					return
				}
			case <-end:
				waiting = false
			}
		}
	}
}

// inBackground reports whether the program was started with & or continued with bg: another
// program uses the terminal f.
func inBackground(f *os.File) bool {
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err == nil && group != unix.Getpgrp()
}
