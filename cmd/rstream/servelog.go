package main

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/spf13/pflag"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/server"
)

// operating are the flags of a server that is watched.
type operating struct {
	maxStreamAge time.Duration
	logFormat    string
	logLevel     string
	pprof        string
}

func (o *operating) add(f *pflag.FlagSet) {
	f.DurationVar(&o.maxStreamAge, "max-stream-age", 0, "end streams at this `AGE`, or up to half of it younger; 0 is never")
	f.StringVar(&o.logFormat, "log-format", "text", "`FORM` of what is said on standard error, text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "say what is of this `LEVEL` or above: debug, info, warn or error")
	f.StringVar(&o.pprof, "pprof", "", "serve profiles on another `ADDRESS`")
}

func (o *operating) check() error {
	if o.maxStreamAge != 0 && o.maxStreamAge < time.Second {
		return usagef("--max-stream-age %s: want at least 1s, or 0 for never", o.maxStreamAge)
	}
	if o.logFormat != "text" && o.logFormat != "json" {
		return usagef("--log-format %q: want text or json", o.logFormat)
	}
	if _, ok := logLevels[o.logLevel]; !ok {
		return usagef("--log-level %q: want debug, info, warn or error", o.logLevel)
	}
	return nil
}

var logLevels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

// A serveLog is what a server says. As text, what a person waits for is said as by any
// other command.
type serveLog struct {
	*slog.Logger
	a    *app
	json bool
}

// newServeLog makes a's notes part of the log.
func newServeLog(a *app, o *operating) *serveLog {
	level := logLevels[o.logLevel]
	if a.quiet {
		level = slog.LevelError
	}
	l := &serveLog{a: a, json: o.logFormat == "json"}
	options := &slog.HandlerOptions{Level: level}
	l.Logger = slog.New(slog.NewTextHandler(a.err, options))
	if l.json {
		l.Logger = slog.New(slog.NewJSONHandler(a.err, options))
		a.say = func(text string) { l.Info(text) }
	} else if level > slog.LevelInfo {
		a.say = func(string) {}
	}
	return l
}

func (l *serveLog) started(name string, head event.ID, url, db string) {
	if l.json {
		l.Info("serving", "log", name, "head", head.String(), "url", url, "db", db)
		return
	}
	l.a.note("serving log %s at %s on %s from %s", name, head, url, db)
}

func (l *serveLog) stopped(head event.ID) {
	if l.json {
		l.Info("stopped", "head", head.String())
		return
	}
	l.a.note("stopped at %s", head)
}

// failed is the error that ends a server: as JSON it is said here.
func (l *serveLog) failed(err error) error {
	var sig *signalError
	if err == nil || !l.json || errors.As(err, &sig) {
		return err
	}
	l.Error("server ended", "error", err.Error())
	return &exitError{status: status(err)}
}

// serveProfiles serves profiles on an address of their own, until stop.
func serveProfiles(l net.Listener, loopback bool, log *slog.Logger) (stop func()) {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	hs := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	if loopback {
		hs.Handler = server.LoopbackOnly(mux)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := hs.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("profiles are no longer served", "error", err)
		}
	}()
	return func() {
		_ = hs.Close()
		<-done
	}
}
