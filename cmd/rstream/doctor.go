package main

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/doctor"
	"github.com/rstream-dev/rstream/internal/source"
	"github.com/rstream-dev/rstream/internal/wire"
)

type doctorOptions struct {
	topic  string
	listen time.Duration
	strict bool
}

const doctorLong = `Diagnose an event stream and the proxies in front of it, and print how to fix each
problem. The stream can come from any Server-Sent Events server. URL is the stream's
URL, or the root of an rstream server; the default is --server. A URL that is of
no server in the settings gets only the credentials of the command line.

Doctor listens, then reconnects with the id of an event, with an invalid id, and with
compression: at most a dozen requests, all of them reads. Checks that need more time are
reported as unknown. --for 70s shows whether a proxy cuts silent streams.

Each check is ok, a note, a warning or an error. An error means that the stream cannot
be used or loses events. In a pipe, each check is a JSON line, and the last line has the
type "doctor" and the worst severity.`

func newDoctorCommand(a *app) *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:     "doctor [URL]",
		GroupID: groupTools,
		Short:   "Diagnose an event stream and the proxies in front of it",
		Long:    doctorLong,
		Example: `  rstream doctor https://stream.example.com
  rstream doctor http://127.0.0.1:8420/events?topic=alice --for 70s
  rstream doctor https://example.com/sse --header 'Authorization: Bearer …'
  rstream doctor --strict -q || alert 'the stream has a problem'`,
		Annotations: map[string]string{exitAnnotation: "doctor: 1 an error, with --strict also a warning; 4 a status of 401 or 403;\n  5 no answer, or 502, 503 or 504; notes and warnings alone are 0", anyHeaderAnnotation: "yes"},
		Args:        argCount(0, 1, "one URL at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && a.source != nil {
				return usagef("%s and --server cannot be combined", source.ShownURL(args[0]))
			}
			if a.source != nil {
				args = []string{a.source.url}
			}
			target := append(args, a.servers...)[0]
			shown := source.ShownURL(target)
			if _, isOurs := a.serverOf(target); isOurs && a.source == nil {
				shown = wire.RedactURL(target)
			}
			cfg, err := o.doctorConfig(target, shown)
			if err == nil {
				err = a.addCredentials(cmd.Context(), &cfg, target)
			}
			if err != nil {
				return err
			}
			return runDoctor(cmd.Context(), a, o, cfg, shown)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.DurationVar(&o.listen, "for", 20*time.Second, "listen for `DURATION`")
	f.StringVar(&o.topic, "topic", "", "`TOPIC` to read if URL is the root of an rstream server (default *)")
	forLineOnly(f, "topic") // that of serve is what a mirror has
	f.BoolVar(&o.strict, "strict", false, "also fail on a warning")
	return cmd
}

// maxListen bounds how much is recorded.
const maxListen = time.Hour

// doctorConfig turns the flags into a doctor.Config. shown is target without its secrets.
func (o *doctorOptions) doctorConfig(target, shown string) (cfg doctor.Config, err error) {
	if o.listen < time.Second || o.listen > maxListen {
		return cfg, usagef("--for %s: want 1s to %s", o.listen, maxListen)
	}
	cfg.Listen = o.listen
	cfg.URL, err = url.Parse(target)
	if err != nil || cfg.URL.Scheme != "http" && cfg.URL.Scheme != "https" || cfg.URL.Host == "" {
		return cfg, usagef("%q: want a URL such as %s or https://example.com/sse", wire.RedactURL(target), defaultServer)
	}
	cfg.URL.Fragment = ""
	if o.topic != "" {
		if cfg.Topic, err = event.ParseTopic(o.topic); err != nil {
			return cfg, &usageError{err}
		}
		if strings.Trim(cfg.URL.Path, "/") != "" && !strings.HasSuffix(cfg.URL.Path, "/") {
			return cfg, usagef("--topic needs the root of a server; %s is the URL of a stream", shown)
		}
	}
	return cfg, nil
}

// addCredentials adds the token, the headers and the certificate for target: those that the settings
// have for it, or only those of the command line if it is not in the settings.
func (a *app) addCredentials(ctx context.Context, cfg *doctor.Config, target string) error {
	server, isOurs := a.serverOf(target)
	switch {
	case a.source != nil:
		server = a.source.url
	case isOurs:
		if err := a.chooseServer(server); err != nil {
			return err
		}
	default:
		server = target
		a.source = &chosenSource{url: target}
		if err := a.dropServerCredentials(); err != nil {
			return err
		}
	}
	cfg.TLS, cfg.Header = a.tls, a.requestHeaders(server)
	token, err := a.serverToken(ctx, server)
	if token != "" {
		cfg.Header.Set("Authorization", "Bearer "+token)
	}
	return err
}

// A checkLine is one check as JSON, a doctorLine the whole report.
type checkLine struct {
	Type     string          `json:"type"`
	Check    string          `json:"check"`
	Severity doctor.Severity `json:"severity"`
	Detail   string          `json:"detail"`
	Advice   string          `json:"advice,omitempty"`
}

type doctorLine struct {
	Type     string          `json:"type"`
	URL      string          `json:"url"`
	Severity doctor.Severity `json:"severity"`
	Requests int             `json:"requests"`
}

func runDoctor(ctx context.Context, a *app, o doctorOptions, cfg doctor.Config, shown string) error {
	if a.out.isForPerson() {
		a.note("listening to %s for %s", visible(shown), cfg.Listen)
	}
	var report doctor.Report
	var failed error
	err := a.out.untilClosed(ctx, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		cfg.OnFinding = func(f doctor.Finding) {
			if failed = a.printCheck(f); failed != nil {
				cancel(failed)
			}
		}
		report, err = doctor.Examine(ctx, cfg)
		return err
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	if err := a.printDoctor(shown, report); err != nil {
		return err
	}
	return doctorStatus(report, o.strict)
}

// printCheck prints a finding; with --quiet, only a warning or an error.
func (a *app) printCheck(f doctor.Finding) error {
	if a.quiet && f.Severity < doctor.Warning {
		return nil
	}
	if !a.out.isForPerson() {
		if err := a.out.writeJSON(checkLine{"check", f.Check, f.Severity, f.Detail, f.Advice}); err != nil {
			return err
		}
		return a.out.flush()
	}
	if err := a.out.printf("%-8s %-13s %s\n", f.Severity, f.Check, visible(f.Detail)); err != nil {
		return err
	}
	if f.Advice != "" {
		if err := a.out.printf("%-22s do: %s\n", "", visible(f.Advice)); err != nil {
			return err
		}
	}
	return a.out.flush()
}

func (a *app) printDoctor(target string, r doctor.Report) error {
	if a.quiet {
		return nil
	}
	if !a.out.isForPerson() {
		return a.out.writeJSON(doctorLine{"doctor", target, r.Severity, r.Requests})
	}
	counts := map[doctor.Severity]int{}
	for _, f := range r.Findings {
		counts[f.Severity]++
	}
	return a.out.printf("%s: %s, %s, %s\n", visible(target), count(counts[doctor.Error], "error"), count(counts[doctor.Warning], "warning"), count(counts[doctor.Note], "note"))
}

// doctorStatus returns the error that carries the exit status for scripts. The findings
// have already been printed.
func doctorStatus(r doctor.Report, strict bool) error {
	switch {
	case r.Unreachable:
		return &exitError{status: exitUnreachable}
	case r.Refused:
		return &exitError{status: exitNotAllowed}
	case r.Severity == doctor.Error, strict && r.Severity == doctor.Warning:
		return &exitError{status: exitFailed}
	}
	return nil
}
