package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/source"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A relay is what serve --source does besides serving: it follows sources into the log.
type relay struct {
	sources []*relayedSource
}

// A relayedSource is one source of a relay.
type relayedSource struct {
	*chosenSource
	cfg   source.FollowConfig
	meter source.Meter
	say   *serveLog
	said  string // the error that was logged last
}

// newRelay returns a relay of the named sources of the config file, nil if there are none.
func (a *app) newRelay(names []string) (*relay, error) {
	if len(names) == 0 {
		return nil, nil
	}
	r := &relay{}
	for _, name := range names {
		i := -1
		if a.settings.file != nil {
			i = slices.IndexFunc(a.settings.file.sources, func(s namedSource) bool { return s.name == name })
		}
		if i < 0 {
			return nil, &exitError{exitUsage, fmt.Sprintf("--source %q: the config file has no source of that name", name), "\"rstream source add " + shellWord(name) + " URL\" adds one"}
		}
		if slices.ContainsFunc(r.sources, func(s *relayedSource) bool { return s.name == name }) {
			return nil, usagef("--source %s: is named twice", name)
		}
		s, err := a.newRelayedSource(&a.settings.file.sources[i])
		if err != nil {
			return nil, err
		}
		r.sources = append(r.sources, s)
	}
	return r, nil
}

// newRelayedSource returns a source of a relay. Credentials of the command line and of the
// environment are for none of them: only those that the config file has for it.
func (a *app) newRelayedSource(named *namedSource) (*relayedSource, error) {
	u, err := source.ParseURL(named.url)
	if err != nil {
		return nil, usagef("source %s: %w", named.name, err)
	}
	kind, err := named.flags.kindOf(u)
	if err != nil {
		return nil, err
	}
	mapper, err := source.NewMapper(named.name, kind.Mapping)
	if err != nil {
		return nil, usagef("source %s: %w", named.name, err)
	}
	s := &relayedSource{chosenSource: &chosenSource{name: named.name, url: named.url, kind: kind, credentials: named.credentials}}
	alone := &app{settings: a.settings, source: s.chosenSource, stranger: true, err: a.err, quiet: a.quiet}
	if alone.tls, err = alone.tlsConfig(); err != nil {
		return nil, err
	}
	s.cfg = source.FollowConfig{Config: alone.sourceConfig(), Name: s.name, Mapper: mapper, Meter: &s.meter, OnRetry: s.logRetry, OnMoved: s.logMoved}
	return s, nil
}

// open makes the log the one of the sources, and checks that they can be followed into it.
func (r *relay) open(ctx context.Context, log *cache.DB, say *serveLog) error {
	if r == nil {
		return nil
	}
	for _, s := range r.sources {
		s.cfg.Log, s.say = log, say
		err := source.CheckFollow(ctx, s.cfg)
		if errors.Is(err, source.ErrMapping) {
			return &exitError{exitUsage, err.Error(), "use the mapping of before, or run \"rstream source reset " + shellWord(s.name) + " --cache " + shellWord(log.Path()) + "\""}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// follow follows the sources until stop, which waits for them.
func (r *relay) follow(ctx context.Context) (stop func()) {
	if r == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	for _, s := range r.sources {
		following.Go(func() { source.Relay(ctx, s.cfg) })
	}
	return func() {
		cancel()
		following.Wait()
	}
}

// logMoved logs that the source was at another URL.
func (s *relayedSource) logMoved(before string) {
	s.say.Warn("the source goes on after the last event from another URL", "source", s.name, "before", before)
}

// logRetry logs why a connection has ended, unless that is usual or was logged before.
func (s *relayedSource) logRetry(err error, pause time.Duration) {
	if errors.Is(err, io.EOF) {
		s.said = ""
		return
	}
	if text := wire.SteadyText(err); text != s.said {
		s.said = text
		s.say.Warn("no connection to the source", "source", s.name, "error", text, "retry", pause.Round(time.Millisecond).String())
	}
}

// reports returns the function that tells how the sources are, nil without a relay.
func (r *relay) reports() func() []wire.Source {
	if r == nil {
		return nil
	}
	return func() []wire.Source {
		reports := make([]wire.Source, len(r.sources))
		for i, s := range r.sources {
			reports[i] = s.report()
		}
		return reports
	}
}

func (s *relayedSource) report() wire.Source {
	r := s.meter.Report()
	w := wire.Source{Name: s.name, Kind: s.kind.Name, URL: source.ShownURL(s.url), Connected: r.Connected, Cursor: r.Cursor, Behind: r.Behind,
		Events: r.Events, Bytes: r.Bytes, Gaps: int64(r.Gaps), Refused: int64(r.Refused), Trouble: r.Trouble}
	if !r.Since.IsZero() {
		since := event.TimeOf(r.Since)
		w.Since = &since
	}
	if r.Stored != 0 {
		w.Stored = &r.Stored
	}
	return w
}
