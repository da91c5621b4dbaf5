package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"syscall"
)

// reloadOnHangup calls the load functions in order at each SIGHUP, until stop. It
// reports errors, and the old settings stay.
func (a *app) reloadOnHangup(say *serveLog, load ...func() error) (stop func()) {
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		defer close(done)
		for range signals {
			for _, read := range load {
				if err := read(); err != nil {
					say.Error("reload failed; the old settings stay", "error", err)
				}
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-done
	}
}

// reloadLevel takes the log level from the current settings. old are the settings that
// the server was started with.
func (a *app) reloadLevel(say *serveLog, old serveOptions) error {
	now, err := a.rereadServe()
	if err != nil {
		return err
	}
	say.setLevel(&now.logFlags)
	a.note("settings reloaded; the log level is %s", now.logLevel)
	if old.logLevel = now.logLevel; !reflect.DeepEqual(old, now) {
		say.Warn("settings other than log-level have changed: they take effect when the server is restarted")
	}
	return nil
}

// rereadServe returns the options that serve would have with the same command line and
// environment, and the current config file.
func (a *app) rereadServe() (o serveOptions, err error) {
	again := &app{in: strings.NewReader(""), out: &output{}, err: io.Discard, onServe: func(got serveOptions) { o = got }}
	root := newRootCommand(again)
	root.SetArgs(numbersLast(root, a.args))
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	err = root.ExecuteContext(context.Background())
	return o, err
}
