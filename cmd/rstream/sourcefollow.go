package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/deliver"
	"github.com/rstream-dev/rstream/internal/source"
	"github.com/rstream-dev/rstream/window"
)

const (
	// sourcePoll is how often a process that reads along looks for new events, and
	// takeoverPoll how often it tries to follow the source itself.
	sourcePoll   = 200 * time.Millisecond
	takeoverPoll = 2 * time.Second

	// sourceMaxBytes bounds the file of a source unless --max-bytes is given.
	sourceMaxBytes = 1 << 30
)

// A sourceSession is a command's work with the file of a source, which it follows or reads
// along.
type sourceSession struct {
	a       *app
	db      *cache.DB
	follows bool
	limits  source.FollowConfig

	tried   time.Time     // when this process last tried to follow the source
	trouble string        // of the process that follows it, as last said
	news    chan struct{} // has a token if there are new events
	ended   chan error    // receives why following has ended
	guessed bool          // the end of the history was; valid once ended has received
	cancel  context.CancelFunc
	working sync.WaitGroup
}

// openSource opens the file of the source. limits says when following it ends.
func (a *app) openSource(ctx context.Context, limits source.FollowConfig) (s *sourceSession, err error) {
	s = &sourceSession{a: a, limits: limits, news: make(chan struct{}, 1), ended: make(chan error, 1)}
	s.db, s.follows, err = a.openSourceFile(ctx)
	return s, err
}

// start begins to follow the source, unless another process does.
func (s *sourceSession) start(ctx context.Context) error {
	if !s.follows {
		s.a.note("another process follows %s; reading along", s.a.source.name)
		return nil
	}
	if s.db.Head() == event.Beginning {
		s.a.note("at most %s of events are kept in %s", formatSize(s.a.source.maxBytes), s.a.source.path)
	}
	return s.follow(ctx)
}

// follow begins to follow the source into the file, which was opened for that.
func (s *sourceSession) follow(ctx context.Context) error {
	src := s.a.source
	mapper, err := source.NewMapper(src.name, src.kind.Mapping)
	if err != nil {
		return usagef("source %s: %w", src.name, err)
	}
	s.follows = true
	s.db.OnCommit(func([]event.Event, event.ID) {
		select {
		case s.news <- struct{}{}:
		default:
		}
	})
	cfg := s.limits
	cfg.Config = s.a.sourceConfig()
	cfg.Timeout = s.a.timeout
	cfg.Name, cfg.Log, cfg.Mapper, cfg.OnRetry = src.name, s.db, mapper, s.a.onRetry
	cfg.OnMoved = func(before string) {
		s.a.note("%s goes on after the last event from %s; \"rstream source reset %s\" starts again", src.name, before, shellWord(src.name))
	}
	ctx, s.cancel = context.WithCancel(ctx)
	s.working.Go(func() {
		var err error
		s.guessed, err = source.Follow(ctx, cfg)
		s.ended <- err
	})
	s.a.startRetention(ctx, &s.working, s.db, cache.Retention{MaxBytes: s.a.source.maxBytes})
	return nil
}

// Close ends following and closes the file.
func (s *sourceSession) Close() error {
	if s.cancel != nil {
		s.cancel()
	}
	s.working.Wait()
	return s.db.Close()
}

// takeOver follows the source if no other process does any more. It waits for a connection, as that
// process did once it had one: an outage must not end them all, one after the other.
func (s *sourceSession) takeOver(ctx context.Context) error {
	db, follows, err := s.a.openSourceFile(ctx)
	if err != nil || !follows {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
		return err
	}
	old := s.db
	s.db = db
	s.limits.Wait = true
	s.a.note("following %s now", s.a.source.name)
	return errors.Join(old.Close(), s.follow(ctx))
}

// wait waits until there may be new events. It returns the error for which following has
// ended.
func (s *sourceSession) wait(ctx context.Context) (ended bool, err error) {
	if s.follows {
		select {
		case <-s.news:
			return false, nil
		case err := <-s.ended:
			return true, err
		case <-ctx.Done():
			return true, context.Cause(ctx)
		}
	}
	select {
	case <-time.After(sourcePoll):
		if err := s.noteTrouble(ctx); err != nil || time.Since(s.tried) < takeoverPoll {
			return false, err
		}
		s.tried = time.Now()
		return false, s.takeOver(ctx)
	case <-ctx.Done():
		return true, context.Cause(ctx)
	}
}

// noteTrouble says why the process that follows the source has no connection.
func (s *sourceSession) noteTrouble(ctx context.Context) error {
	status, err := s.a.readSourceStatus(ctx, s.db)
	if err != nil || status.Trouble == s.trouble {
		return err
	}
	if s.trouble = status.Trouble; s.trouble != "" {
		s.a.note("the process that follows %s has no connection: %s", s.a.source.name, s.trouble)
	} else {
		s.a.note("the process that follows %s is connected again", s.a.source.name)
	}
	return nil
}

// A sourcePrinter prints the events of a source's file.
type sourcePrinter struct {
	a       *app
	topics  []event.Topic // with that of gaps
	asked   []event.Topic // without it
	at      event.ID      // the position that was reached
	most    int           // events to print; 0 means no limit
	silent  bool          // only gaps are printed
	skipGap bool          // what the file no longer has is replaced by the state
	bounds  sourceBounds
	keep    *keeper                   // nil without a name
	give    func(deliver.Batch) error // if set, receives events in place of the output

	events int
	gaps   int
}

func newSourcePrinter(a *app, topics []event.Topic) *sourcePrinter {
	gaps := event.Exactly(event.Storage{User: source.Gaps, Path: source.GapPath(a.source.name)})
	return &sourcePrinter{a: a, topics: append(slices.Clone(topics), gaps), asked: topics}
}

// printNew prints the events that are new in the file. done reports that no more are
// wanted.
func (p *sourcePrinter) printNew(ctx context.Context, db *cache.DB) (done bool, err error) {
	for {
		if p.at >= p.bounds.last() {
			return true, p.a.out.flush()
		}
		evs, next, err := db.Read(ctx, p.topics, p.at, p.bounds.last(), 1000)
		if notHeld := (*window.NotHeldError)(nil); errors.As(err, &notHeld) && notHeld.Some {
			if err := p.passDropped(ctx, db, notHeld.Oldest); err != nil {
				return false, err
			}
			continue
		}
		if err != nil {
			return false, err
		}
		if p.give != nil && next > p.at {
			if done, err := p.giveEvents(evs, next); err != nil || done {
				return done, err
			}
			continue
		}
		for i := range evs {
			if p.bounds.isAfter(&evs[i]) {
				return true, p.a.out.flush()
			}
			if err := p.printOne(&evs[i]); err != nil {
				return false, err
			}
			p.keep.recordPrinted(evs[i].ID)
			if p.most > 0 && p.events == p.most {
				return true, p.a.out.flush()
			}
		}
		if next == p.at {
			return false, p.a.out.flush()
		}
		p.at = next
		p.keep.recordReached(next)
	}
}

func (p *sourcePrinter) printOne(ev *event.Event) error {
	if p.isGap(ev) {
		p.gaps++
		if p.silent && p.a.quiet {
			return nil
		}
		return p.a.printSourceGap(ev)
	}
	if out, err := p.a.out.filter.leavesOut(ev); out || err != nil {
		return err
	}
	p.events++
	if p.silent {
		return nil
	}
	return p.a.out.writeEvent(ev)
}

// isGap reports whether ev says that events of the source may be missing.
func (p *sourcePrinter) isGap(ev *event.Event) bool {
	return ev.User == source.Gaps && ev.Path == source.GapPath(p.a.source.name)
}

// status is gapStatus, unless a consumer still has to do the events.
func (p *sourcePrinter) status() error {
	if p.give != nil {
		return nil
	}
	return p.gapStatus()
}

// gapStatus returns the exit status: that of a gap if there was one.
func (p *sourcePrinter) gapStatus() error {
	if p.gaps > 0 {
		return &exitError{status: exitGap}
	}
	return nil
}

// A sourceGap is the value of an event that says that events may be missing.
type sourceGap struct {
	Gap   string `json:"gap"`
	After string `json:"after"`
	Since string `json:"since"`
}

// readSourceGap returns the gap that an event reports.
func readSourceGap(ev *event.Event) (g sourceGap, err error) {
	if err := json.Unmarshal(ev.Value, &g); err != nil {
		return g, fmt.Errorf("read the gap %s: %w", ev.ID, err)
	}
	return g, nil
}

// noteSourceGap reports a gap of a source to a person.
func (a *app) noteSourceGap(ev *event.Event) error {
	g, err := readSourceGap(ev)
	if err == nil {
		a.note("events of %s may be missing between %s and %s: %s", a.source.name, g.Since, ev.Time, g.Gap)
	}
	return err
}

// printSourceGap reports a gap of a source: as a line of the stream to a consumer of JSON.
func (a *app) printSourceGap(ev *event.Event) error {
	if a.out.isForPerson() {
		return a.noteSourceGap(ev)
	}
	g, err := readSourceGap(ev)
	if err != nil {
		return err
	}
	return a.out.writeJSON(struct {
		Type   string     `json:"type"`
		Source string     `json:"source"`
		ID     event.ID   `json:"id"`
		Since  string     `json:"since"`
		Until  event.Time `json:"until"`
		After  string     `json:"after,omitempty"`
		Reason string     `json:"reason"`
	}{"gap", a.source.name, ev.ID, g.Since, ev.Time, g.After, g.Gap})
}

// sourceIdle is how long a source must be silent to be taken to be at its end.
const sourceIdle = 5 * time.Second

// withSource follows the source, or reads along, and prints what comes after the position
// that begin returns.
func (a *app) withSource(ctx context.Context, limits source.FollowConfig, p *sourcePrinter, begin beginFunc) (err error) {
	s, err := a.openSource(ctx, limits)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.print(ctx, p, begin)
}

// A beginFunc returns the position after which printing begins.
type beginFunc func(context.Context, *cache.DB) (event.ID, error)

// print prints what comes after the position that begin returns, until the reader of the output
// leaves, if it prints events.
func (s *sourceSession) print(ctx context.Context, p *sourcePrinter, begin beginFunc) error {
	work := func(ctx context.Context) (err error) {
		if p.at, err = begin(ctx, s.db); err != nil {
			return err
		}
		if !p.bounds.isOver {
			if err := s.start(ctx); err != nil {
				return err
			}
		}
		return s.printAll(ctx, p)
	}
	if p.silent {
		return work(ctx)
	}
	return s.a.out.untilClosed(ctx, work)
}

// printAll prints events until there are no more to print.
func (s *sourceSession) printAll(ctx context.Context, p *sourcePrinter) error {
	a := s.a
	ctx, cancel := p.bounds.withDeadline(ctx)
	defer cancel()
	for {
		if done, err := p.printNew(ctx, s.db); err != nil || done {
			return errors.Join(err, p.status())
		}
		if p.bounds.isOver {
			return p.status()
		}
		if s.limits.UntilEnd && !s.follows { // the other process knows the end, not this one
			a.note("%s is as far as that process is, which may not be the end", a.source.name)
			return p.status()
		}
		ended, err := s.wait(ctx)
		if err == nil && !ended {
			continue
		}
		// What was stored before the end must be printed, too.
		_, printErr := p.printNew(context.WithoutCancel(ctx), s.db)
		if err == nil && s.guessed {
			a.note("%s is up to date, as far as can be told: it sends nothing new", a.source.name)
		}
		if (err == nil || errors.Is(err, errUntil)) && printErr == nil {
			return p.status()
		}
		return errors.Join(sourceError(err), printErr)
	}
}

// syncSource is runSync for a source.
func (o *syncOptions) syncSource(ctx context.Context, a *app, topics []event.Topic) error {
	if o.since != "" || o.until != "" || o.at != "" || o.skipGap || o.explain {
		return usagef("--since, --until, --at, --skip-gap and --explain need a server")
	}
	p := newSourcePrinter(a, topics)
	if p.silent = !o.print; p.silent {
		a.out.outlive()
	}
	limits := source.FollowConfig{UntilEnd: !o.follow, EndIdle: o.idle, Wait: o.wait}
	err := a.withSource(ctx, limits, p, func(_ context.Context, db *cache.DB) (event.ID, error) { return db.Head(), nil })
	var exit *exitError
	if err != nil && !(errors.As(err, &exit) && exit.status == exitGap) {
		return err
	}
	if !o.print && !a.quiet {
		if printErr := a.out.printSourceSync(a.source, p); printErr != nil {
			return printErr
		}
	}
	return err
}

// printSourceSync prints what a sync of a source has done.
func (o *output) printSourceSync(src *chosenSource, p *sourcePrinter) error {
	if o.isForPerson() {
		return o.printf("%s: %s stored, %s\n", visible(src.name), count(p.events, "event"), count(p.gaps, "gap"))
	}
	return o.writeJSON(struct {
		Type   string `json:"type"`
		Source string `json:"source"`
		URL    string `json:"url"`
		Events int    `json:"events"`
		Gaps   int    `json:"gaps"`
	}{"sync", src.name, source.ShownURL(src.url), p.events, p.gaps})
}
