//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// hangUpName is the program that hangUp is the main function of.
const hangUpName = "rstream-hang-up"

// hangUp hangs itself up twice, then terminates itself. With an argument, it has a hook.
func hangUp() {
	a := &app{}
	if len(os.Args) > 1 {
		kill := func() { fmt.Println("killed") }
		a.onKill.Store(&kill)
	}
	ctx, _ := a.withSignals(context.Background())
	send := func(s syscall.Signal) {
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			panic(err)
		}
	}
	send(syscall.SIGHUP)
	<-ctx.Done()
	send(syscall.SIGHUP)
	fmt.Println("still here")
	send(syscall.SIGTERM)
	select {}
}

// When a terminal closes, its programs are hung up by the shell and by the kernel. Only another
// signal kills a program that is about to end after a hangup.
func TestSecondHangup(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{{nil, "still here\n"}, {[]string{"hook"}, "still here\nkilled\n"}} {
		out, err := exec.CommandContext(t.Context(), hangUpName, test.args...).Output()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if s := exit.Sys().(syscall.WaitStatus).Signal(); s != syscall.SIGTERM || string(out) != test.want {
			t.Errorf("it ends by the signal %s and prints %q, want %q", s, out, test.want)
		}
	}
}
