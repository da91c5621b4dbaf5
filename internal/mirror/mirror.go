package mirror

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A Log is the file of a mirror. *cache.DB is one.
type Log interface {
	Log() string
	HeadPoint() event.Point
	// MirroredTopics returns the topics that it has of the log of the upstream, none if it has
	// all.
	MirroredTopics() []event.Topic
	// Receive stores the events that follow, if the log has all topics, and ReceiveUpTo those of
	// its topics up to a position, if it has some.
	Receive(ctx context.Context, evs []event.Event) error
	ReceiveUpTo(ctx context.Context, evs []event.Event, to event.Point) error
	BeginAt(ctx context.Context, at event.Point, t event.Time, state iter.Seq2[event.Event, error]) error
}

// Config configures a Mirror. Upstream and Name are required.
type Config struct {
	Upstream Upstream
	// Name is what reports and errors call the upstream: its address, without secrets.
	Name string
	// OnTrouble is called when there is no connection to the upstream, with the cause and the
	// pause before the next attempt, and when there is one again, with a nil error. If nil,
	// nothing is called.
	OnTrouble func(err error, pause time.Duration)
	// Lasting reports whether an error of the upstream lasts until somebody changes its settings. Ready
	// and Append then return it, as if it were a *ConflictError. If nil, none does.
	Lasting func(error) bool
	// RetryMin and RetryMax bound the pause between attempts. If zero, 100 milliseconds and
	// 30 seconds.
	RetryMin, RetryMax time.Duration
	// ApplyWait is how long an append waits until its events are here, and a reader until its
	// position is. If zero, 5 seconds.
	ApplyWait time.Duration
	// Patience is for how long the upstream may show an older state of its log than it has. A reader that
	// seems to be ahead of the log is refused only after that. If zero, it never does.
	Patience time.Duration
	// Refresh is how often the upstream is asked for its head and its horizon. If zero, each
	// minute.
	Refresh time.Duration
	// Stale is how long a connection may bring nothing although the upstream's head is after what
	// is here: then it is made again. If zero, 45 seconds.
	Stale time.Duration
	// StoreGrace is how long nothing of what is received can be stored before Ready says so. If
	// zero, 10 seconds.
	StoreGrace time.Duration
	// Dir is the folder for a state while it is downloaded. If empty, that for temporary files.
	Dir string
}

// A Mirror follows an upstream into a log, and passes appends on to it.
type Mirror struct {
	log  Log
	cfg  Config
	name string // of this Mirror alone, in wire.HeaderVia

	mu       sync.Mutex
	report   wire.Mirror
	refusal  error                   // the upstream is another log, has another history, or cannot be used; nil if it can
	advanced chan struct{}           // closed when the log has grown
	failing  time.Time               // since when nothing can be stored; zero if it can
	checked  map[event.ID]event.Mark // of positions whose events are not here, as the upstream has them
	cut      context.CancelCauseFunc // ends the connection; set before the first one
	ahead    map[event.ID]time.Time  // since when positions of readers are after the head of the upstream
	askedAt  time.Time               // when the last question of a reader for that head began

	asking  chan struct{} // has an element while a reader has the upstream asked for its head
	probing chan struct{} // has an element for each reader whose position the upstream is asked about
	woken   chan struct{} // has an element once an append was passed on: the upstream is there

	unstored *unstored // owned by Run: what the last connection has brought and could not be stored
}

// New returns a mirror of an upstream in log.
func New(log Log, cfg Config) *Mirror {
	cfg.RetryMin = cmp.Or(cfg.RetryMin, 100*time.Millisecond)
	cfg.RetryMax = cmp.Or(cfg.RetryMax, 30*time.Second)
	cfg.ApplyWait = cmp.Or(cfg.ApplyWait, 5*time.Second)
	cfg.Refresh = cmp.Or(cfg.Refresh, time.Minute)
	cfg.Stale = cmp.Or(cfg.Stale, 45*time.Second)
	cfg.StoreGrace = cmp.Or(cfg.StoreGrace, 10*time.Second)
	name := crand.Text()
	return &Mirror{log: log, cfg: cfg, name: name, advanced: make(chan struct{}), asking: make(chan struct{}, 1), probing: make(chan struct{}, maxProbes), woken: make(chan struct{}, 1),
		report: wire.Mirror{Upstream: cfg.Name, Topics: log.MirroredTopics(), Head: log.HeadPoint().ID, Via: name}}
}

// Report returns how the mirror is.
func (m *Mirror) Report() wire.Mirror {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.report
	r.Head = max(r.Head, m.log.HeadPoint().ID)
	return r
}

// Horizon returns the horizon of the upstream, as far as is known.
func (m *Mirror) Horizon() event.ID { return m.Report().Horizon }

// Head returns the newest position here.
func (m *Mirror) Head() event.ID { return m.log.HeadPoint().ID }

// held returns the newest position here.
func (m *Mirror) held() Position { return Position{m.log.Log(), m.log.HeadPoint()} }

// Run follows the upstream until ctx ends.
func (m *Mirror) Run(ctx context.Context) {
	var refreshing sync.WaitGroup
	refreshing.Go(func() { m.refresh(ctx) })
	defer refreshing.Wait()
	for failures := 0; ; failures++ {
		began, before := time.Now(), m.log.HeadPoint().ID
		err := m.storeAgain(ctx)
		if err == nil {
			err = m.followUntilCut(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if m.log.HeadPoint().ID > before || time.Since(began) > m.cfg.RetryMax {
			failures = 0
		}
		pause := m.pause(failures, err)
		select {
		case <-m.woken: // by what was before this failure
		default:
		}
		m.noteEnded(err, pause)
		woken := m.woken
		if m.pausesForCause(err) {
			woken = nil
		}
		select {
		case <-time.After(pause):
		case <-woken:
		case <-ctx.Done():
			return
		}
	}
}

// followUntilCut is follow, until refresh finds that the upstream must not be followed, or not
// by this connection.
func (m *Mirror) followUntilCut(ctx context.Context) error {
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	m.mu.Lock()
	m.cut = cut
	m.mu.Unlock()
	err := m.follow(ctx)
	if cause := context.Cause(ctx); isError[*ConflictError](cause) || isError[*StaleError](cause) {
		return cause
	}
	return err
}

// A StaleError means that a connection has brought nothing although the log has grown. Something
// on the way may keep what it should pass on.
type StaleError struct {
	Name     string   // of the upstream
	At, Head event.ID // what is here, and what the log had
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("%s sends nothing after %s, although its log was at %s: does a proxy on the way keep the stream?", e.Name, e.At, e.Head)
}

// refresh asks for the head and the horizon of the upstream again and again.
func (m *Mirror) refresh(ctx context.Context) {
	ticker := time.NewTicker(m.cfg.Refresh)
	defer ticker.Stop()
	var lag lag
	for {
		select {
		case <-ticker.C:
			if r := m.Report(); !r.Connected { // follow asks
				lag.since = time.Time{}
				continue
			}
			err := m.ask(ctx) // the next connection says what else is wrong
			if err == nil && lag.grow(m.log.HeadPoint().ID, m.Report().Head) >= m.cfg.Stale {
				err = &StaleError{m.cfg.Name, lag.at, lag.head}
			}
			if isError[*ConflictError](err) || isError[*StaleError](err) {
				m.mu.Lock()
				m.cut(err)
				m.mu.Unlock()
			}
		case <-ctx.Done():
			return
		}
	}
}

// A lag is how long a mirror is at a position although the log was further.
type lag struct {
	at, head event.ID
	since    time.Time // zero if it has not been seen
}

// grow notes where the mirror and the log are, and returns for how long the mirror has not moved
// although it should have.
func (l *lag) grow(at, head event.ID) time.Duration {
	if l.since.IsZero() || at != l.at || l.head <= at {
		*l = lag{at, head, time.Now()}
	}
	return time.Since(l.since)
}

// ask asks the upstream for its head and its horizon.
func (m *Mirror) ask(ctx context.Context) error {
	d, err := m.describe(ctx)
	if err == nil {
		m.noteDescribed(&d)
	}
	return err
}

// describe returns what the upstream says of the log.
func (m *Mirror) describe(ctx context.Context) (Description, error) {
	held := m.held()
	d, err := m.cfg.Upstream.Describe(ctx, held)
	var conflict *ConflictError
	if errors.As(err, &conflict) && conflict.Reason == wire.ReasonLog {
		d, err = m.cfg.Upstream.Describe(ctx, Position{}) // what log is it?
	}
	switch {
	case err == nil && m.isIn(d.Via):
		return d, &ConflictError{wire.ReasonLoop, m.cfg.Name + " mirrors this mirror: neither would receive anything"}
	case err != nil || d.Log == held.Log:
		return d, err
	case d.Parent == held.Log:
		return d, &ConflictError{wire.ReasonLog, fmt.Sprintf("%s was restored: its log is %s now, made from %s", m.cfg.Name, d.Log, held.Log)}
	}
	return d, &ConflictError{wire.ReasonLog, fmt.Sprintf("%s serves the log %s, not %s", m.cfg.Name, d.Log, held.Log)}
}

// pause returns how long to wait after some failures in a row. It has a random part, so that
// many mirrors do not return at once.
func (m *Mirror) pause(failures int, err error) time.Duration {
	d := m.cfg.RetryMin
	for range failures {
		if d *= 2; d >= m.cfg.RetryMax*2/3 {
			d = m.cfg.RetryMax * 2 / 3
			break
		}
	}
	if waitsForPerson(err) || m.isLasting(err) { // the next attempt would end the same way
		d = m.cfg.RetryMax * 2 / 3
	}
	var refused *RefusedError
	if errors.As(err, &refused) {
		d = max(d, refused.Problem.RetryAfter)
	}
	return d + rand.N(d/2+1)
}

// pausesForCause reports whether an answer to an append does not end the pause after err: the
// upstream has said when to come back, or the next attempt would end the same way although it is there.
func (m *Mirror) pausesForCause(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused) && refused.Problem.RetryAfter > 0 || waitsForPerson(err) || m.isLasting(err) || isError[*StoreError](err)
}

func (m *Mirror) isLasting(err error) bool { return m.cfg.Lasting != nil && m.cfg.Lasting(err) }

// waitsForPerson reports whether the next connection ends as this one did, until somebody does
// something.
func waitsForPerson(err error) bool {
	var refused *RefusedError
	return isError[*ConflictError](err) || isError[*WrongAnswerError](err) || errors.As(err, &refused) && refused.Problem.Final()
}

// follow makes one connection to the upstream, and stores what it brings.
func (m *Mirror) follow(ctx context.Context) error {
	d, err := m.describe(ctx)
	if err != nil {
		return err
	}
	m.noteDescribed(&d)
	if d.Horizon.ID > m.log.HeadPoint().ID {
		if err := m.begin(ctx, d.Horizon); err != nil {
			return err
		}
	}
	for b, err := range m.cfg.Upstream.Follow(ctx, m.held()) {
		if err != nil {
			return err
		}
		if err := m.storeOrKeep(ctx, &b); err != nil {
			return err
		}
		m.noteConnected() // not before: a full disk would be good news and bad with each connection
	}
	return io.ErrUnexpectedEOF // Follow ends with an error
}

// begin makes the log begin at the horizon of the upstream, since history from before is not
// to be had. It downloads the state first: whoever stores it keeps all others from writing.
func (m *Mirror) begin(ctx context.Context, horizon event.Point) error {
	m.mu.Lock()
	m.report.Ready = false
	m.mu.Unlock()
	t, state, err := m.cfg.Upstream.State(ctx, Position{m.log.Log(), horizon})
	if err != nil {
		return err
	}
	here, err := download(m.cfg.Dir, func(yield func(event.Event, error) bool) {
		for ev, err := range state {
			m.noteReceived(1, len(ev.Line()))
			if !yield(ev, err) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	defer here.close()
	err = m.log.BeginAt(ctx, horizon, t, here.events)
	m.Advanced()
	return storingError(err)
}

// A StoreError means that what has come from the upstream cannot be stored.
type StoreError struct{ Err error }

func (e *StoreError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *StoreError) Unwrap() error { return e.Err }

// storingError returns the error of a log. An event that does not follow is no fault of the log.
func storingError(err error) error {
	if err == nil || isError[*cache.OrderError](err) {
		return err
	}
	return &StoreError{err}
}

// An unstored is a batch that could not be stored after a position.
type unstored struct {
	after event.Point
	batch Batch
}

// storeAgain stores what could not be stored before. While that fails, there is no connection: it would
// bring the same events each time. After an unknown outcome, the next connection goes on from what
// is there.
func (m *Mirror) storeAgain(ctx context.Context) error {
	u := m.unstored
	m.unstored = nil
	if u == nil || m.log.HeadPoint() != u.after {
		return nil
	}
	return m.storeOrKeep(ctx, &u.batch)
}

// storeOrKeep is store for Run, which keeps what cannot be stored.
func (m *Mirror) storeOrKeep(ctx context.Context, b *Batch) error {
	after := m.log.HeadPoint()
	err := m.store(ctx, b)
	if isError[*StoreError](err) {
		m.unstored = &unstored{after, *b}
	}
	return err
}

// store stores a batch of events.
func (m *Mirror) store(ctx context.Context, b *Batch) error {
	var err error
	if ctx := context.WithoutCancel(ctx); m.isPart() {
		err = m.log.ReceiveUpTo(ctx, b.Events, b.To)
	} else {
		err = m.log.Receive(ctx, b.Events)
	}
	if err != nil {
		return storingError(err)
	}
	m.noteReceived(len(b.Events), b.Bytes)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.report.Head = max(m.report.Head, b.Head)
	m.report.Ready = m.report.Ready || b.Live
	return nil
}

func (m *Mirror) noteReceived(events, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.report.Events += int64(events)
	m.report.Bytes += int64(bytes)
}

func (m *Mirror) noteDescribed(d *Description) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.report.Head, m.report.Horizon = max(m.report.Head, d.Head.ID), max(m.report.Horizon, d.Horizon.ID)
	m.report.Via = m.addTo(d.Via)
}

// noteConnected notes that there is a connection, which has brought something.
func (m *Mirror) noteConnected() {
	m.mu.Lock()
	again := m.report.Trouble != ""
	m.report.Connected, m.report.Trouble, m.report.Conflict, m.refusal = true, "", "", nil
	m.failing = time.Time{}
	m.mu.Unlock()
	if again && m.cfg.OnTrouble != nil {
		m.cfg.OnTrouble(nil, 0)
	}
}

// noteEnded notes that there is no connection. The end of a stream is usual.
func (m *Mirror) noteEnded(err error, pause time.Duration) {
	var conflict *ConflictError
	m.mu.Lock()
	m.report.Connected = false
	switch {
	case errors.As(err, &conflict):
		m.refusal, m.report.Conflict = conflict, conflict.Reason
	case m.isLasting(err):
		m.refusal, m.report.Conflict = err, ""
	}
	if isError[*StoreError](err) && m.failing.IsZero() {
		m.failing = time.Now()
	}
	usual := errors.Is(err, io.EOF)
	if !usual {
		m.report.Trouble = wire.SteadyText(err)
	}
	m.mu.Unlock()
	if !usual && m.cfg.OnTrouble != nil {
		m.cfg.OnTrouble(err, pause)
	}
}

// Advanced says that the log has grown. It must be called after each commit.
func (m *Mirror) Advanced() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.advanced)
	m.advanced = make(chan struct{})
}

// waitFor waits until the log has reached a position, for ApplyWait at most, and reports
// whether it has.
func (m *Mirror) waitFor(ctx context.Context, at event.ID) bool {
	limit := time.NewTimer(m.cfg.ApplyWait)
	defer limit.Stop()
	for {
		m.mu.Lock()
		advanced := m.advanced
		m.mu.Unlock()
		if m.log.HeadPoint().ID >= at {
			return true
		}
		select {
		case <-advanced:
		case <-limit.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// Ready returns the reason for which the mirror must not be given readers: it has not got
// everything yet, it cannot store what comes, or the upstream is not the one that is mirrored.
func (m *Mirror) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.refusal != nil:
		return m.refusal
	case !m.failing.IsZero() && time.Since(m.failing) >= m.cfg.StoreGrace:
		return fmt.Errorf("nothing can be stored since %s: %s", m.failing.UTC().Format(time.RFC3339), m.report.Trouble)
	case m.report.Ready:
		return nil
	case m.report.Trouble != "":
		return errors.New(m.report.Trouble)
	}
	return fmt.Errorf("this server is at %s, the log at %s", m.log.HeadPoint().ID, max(m.report.Head, m.log.HeadPoint().ID))
}

var _ Log = (*cache.DB)(nil)
