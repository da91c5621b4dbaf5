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

// reloadOnHangup calls load at each SIGHUP, one function after the other, until stop.
// What cannot be read is said, and what was read before stays.
func (a *app) reloadOnHangup(say *serveLog, load ...func() error) (stop func()) {
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		defer close(done)
		for range signals {
			for _, read := range load {
				if err := read(); err != nil {
					say.Error("not read again; the old settings stay", "error", err)
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

// reloadLevel takes the log's level from the settings as they are now. old are those
// that the server was started with.
func (a *app) reloadLevel(say *serveLog, old serveOptions) error {
	now, err := a.rereadServe()
	if err != nil {
		return err
	}
	say.setLevel(&now.logFlags)
	a.note("settings reloaded; the log level is %s", now.logLevel)
	if old.logLevel = now.logLevel; !reflect.DeepEqual(old, now) {
		say.Warn("settings other than log-level have changed: they take effect when the server is started again")
	}
	return nil
}

// rereadServe returns what serve would be told by the same command line and
// environment and by the config file as it is now.
func (a *app) rereadServe() (o serveOptions, err error) {
	again := &app{in: strings.NewReader(""), out: &output{}, err: io.Discard, onServe: func(got serveOptions) { o = got }}
	root := newRootCommand(again)
	root.SetArgs(numbersLast(root, a.args))
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	err = root.ExecuteContext(context.Background())
	return o, err
}
