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

// serveNATS is the program nats-for-tests CONF FILE [piped]: it serves until it is terminated, or, with
// piped, until its standard input ends with the test. It writes its URL to FILE once it accepts
// connections, and its address for other servers if it is one of a cluster.
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
	text := s.ClientURL()
	if a := s.ClusterAddr(); a != nil {
		text += "\n" + a.String()
	}
	if err := writeURL(file, text); err != nil {
		return err
	}
	if len(os.Args) > 3 {
		go func() {
			waitForEnd()
			ended <- syscall.SIGTERM
		}()
	}
	<-ended
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}
