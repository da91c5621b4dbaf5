//go:build unix

package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"
)

// natsName is the name under which the test binary is a NATS server: another one
// than that of the program, which bench compare looks for.
const natsName = "nats-for-tests"

// serveNATS is the program nats-for-tests CONF FILE: it serves until it is terminated, and writes its
// URL to FILE once it accepts connections.
func serveNATS() {
	if err := runNATS(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runNATS(conf, file string) error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	opts, err := server.ProcessConfigFile(conf)
	if err != nil {
		return err
	}
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		return fmt.Errorf("it accepts no connections after %s", patience)
	}
	if err := writeURL(file, s.ClientURL()); err != nil {
		return err
	}
	<-ended
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}
