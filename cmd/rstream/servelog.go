package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/spf13/pflag"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/server"
)

// logFlags are the flags that control the server's log.
type logFlags struct {
	maxStreamAge time.Duration
	logFormat    string
	logLevel     string
	admin        string
}

func (o *logFlags) addLogFlags(f *pflag.FlagSet) {
	f.DurationVar(&o.maxStreamAge, "max-stream-age", 0, "end each stream once it is between half of AGE and `AGE` old; 0 is never")
	f.StringVar(&o.logFormat, "log-format", "text", "`FORM` of the log on standard error, text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "log messages of this `LEVEL` and above: debug, info, warn or error")
	f.StringVar(&o.admin, "admin", "", "serve metrics and profiles on a separate `ADDRESS`; with keys, the metrics only there")
}

func (o *logFlags) checkLogFlags() error {
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

// A serveLog is the log of serve. In text form, messages that a person waits for look
// like the notes of other commands.
type serveLog struct {
	*slog.Logger
	a     *app
	json  bool
	level slog.LevelVar
}

// newServeLog redirects a's notes to the log.
func newServeLog(a *app, o *logFlags) *serveLog {
	l := &serveLog{a: a, json: o.logFormat == "json"}
	l.setLevel(o)
	options := &slog.HandlerOptions{Level: &l.level}
	l.Logger = slog.New(slog.NewTextHandler(a.err, options))
	a.say = func(text string) {
		if l.level.Level() <= slog.LevelInfo {
			fmt.Fprintf(a.err, "rstream: %s\n", text)
		}
	}
	if l.json {
		l.Logger = slog.New(slog.NewJSONHandler(a.err, options))
		a.say = func(text string) { l.Info(text) }
	}
	return l
}

// setLevel sets the lowest level that is logged.
func (l *serveLog) setLevel(o *logFlags) {
	l.level.Set(logLevels[o.logLevel])
	if l.a.quiet {
		l.level.Set(slog.LevelError)
	}
}

// logClock logs problems with the clock.
func (l *serveLog) logClock(news cache.ClockNews) {
	if news.Jumped > 0 {
		l.Warn("the clock jumped ahead: it was set, or the machine slept", "by", news.Jumped.Round(time.Second).String())
	}
	if news.Ahead > 0 {
		l.Warn("the last event is ahead of the clock: new events get its time until the clock reaches it", "by", news.Ahead.Round(time.Second).String())
	}
}

func (l *serveLog) logStarted(name string, head event.ID, url, db string) {
	if l.json {
		l.Info("serving", "log", name, "head", head.String(), "url", url, "db", db)
		return
	}
	l.a.note("serving log %s at %s on %s from %s", name, head, url, db)
}

// logCertificate says that there is a certificate for a name: clients were turned away until then.
func (l *serveLog) logCertificate(name string, expires time.Time) {
	if l.json {
		l.Info("certificate in use", "name", name, "expires", expires.UTC().Format(time.RFC3339))
		return
	}
	l.a.note("the certificate of %s is in use, and expires %s", name, expires.UTC().Format(time.DateOnly))
}

func (l *serveLog) logStopped(head event.ID) {
	if l.json {
		l.Info("stopped", "head", head.String())
		return
	}
	l.a.note("stopped at %s", head)
}

// logFailed logs the error that ends a server, if the log is JSON; the program then does
// not print it again.
func (l *serveLog) logFailed(err error) error {
	var sig *signalError
	if err == nil || !l.json || errors.As(err, &sig) {
		return err
	}
	l.Error("server ended", "error", err.Error())
	return &exitError{status: statusOf(err)}
}

// serveAdmin serves metrics and profiles on a separate address, until stop.
func serveAdmin(l net.Listener, srv *server.Server, loopback bool, log *slog.Logger) (stop func()) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", srv.ServeMetrics)
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
			log.Error("metrics and profiles are no longer served", "error", err)
		}
	}()
	return func() {
		_ = hs.Close()
		<-done
	}
}
