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
	Receive(ctx context.Context, evs []event.Event) error
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
	// RetryMin and RetryMax bound the pause between attempts. If zero, 100 milliseconds and
	// 30 seconds.
	RetryMin, RetryMax time.Duration
	// ApplyWait is how long an append waits until its events are here, and a reader until its
	// position is. If zero, 5 seconds.
	ApplyWait time.Duration
	// Refresh is how often the upstream is asked for its horizon. If zero, each minute.
	Refresh time.Duration
}

// A Mirror follows an upstream into a log, and passes appends on to it.
type Mirror struct {
	log  Log
	cfg  Config
	name string // of this Mirror alone, in wire.HeaderVia

	mu       sync.Mutex
	report   wire.Mirror
	conflict *ConflictError          // the upstream is another log, or has another history
	advanced chan struct{}           // closed when the log has grown
	cut      context.CancelCauseFunc // ends the connection; set before the first one

	asking chan struct{} // has an element while the upstream is asked for its head
}

// New returns a mirror of an upstream in log.
func New(log Log, cfg Config) *Mirror {
	cfg.RetryMin = cmp.Or(cfg.RetryMin, 100*time.Millisecond)
	cfg.RetryMax = cmp.Or(cfg.RetryMax, 30*time.Second)
	cfg.ApplyWait = cmp.Or(cfg.ApplyWait, 5*time.Second)
	cfg.Refresh = cmp.Or(cfg.Refresh, time.Minute)
	name := crand.Text()
	return &Mirror{log: log, cfg: cfg, name: name, advanced: make(chan struct{}), asking: make(chan struct{}, 1),
		report: wire.Mirror{Upstream: cfg.Name, Head: log.HeadPoint().ID, Via: name}}
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
		err := m.followUntilCut(ctx)
		if ctx.Err() != nil {
			return
		}
		if m.log.HeadPoint().ID > before || time.Since(began) > m.cfg.RetryMax {
			failures = 0
		}
		pause := m.pause(failures, err)
		m.noteEnded(err, pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// followUntilCut is follow, until refresh finds that the upstream must not be followed.
func (m *Mirror) followUntilCut(ctx context.Context) error {
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	m.mu.Lock()
	m.cut = cut
	m.mu.Unlock()
	err := m.follow(ctx)
	if cause := context.Cause(ctx); isError[*ConflictError](cause) {
		return cause
	}
	return err
}

// refresh asks for the horizon of the upstream again and again.
func (m *Mirror) refresh(ctx context.Context) {
	ticker := time.NewTicker(m.cfg.Refresh)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if r := m.Report(); r.Connected { // else follow asks
				if err := m.ask(ctx); isError[*ConflictError](err) {
					m.mu.Lock()
					m.cut(err)
					m.mu.Unlock()
				} // the next connection says what else is wrong
			}
		case <-ctx.Done():
			return
		}
	}
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
	if waitsForPerson(err) { // the next attempt would end the same way
		d = m.cfg.RetryMax * 2 / 3
	}
	var refused *RefusedError
	if errors.As(err, &refused) {
		d = max(d, refused.Problem.RetryAfter)
	}
	return d + rand.N(d/2+1)
}

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
		if err := m.store(ctx, &b); err != nil {
			return err
		}
		m.noteConnected() // not before: a full disk would be good news and bad with each connection
	}
	return io.ErrUnexpectedEOF // Follow ends with an error
}

// begin makes the log begin at the horizon of the upstream, since history from before is not
// to be had.
func (m *Mirror) begin(ctx context.Context, horizon event.Point) error {
	t, state, err := m.cfg.Upstream.State(ctx, Position{m.log.Log(), horizon})
	if err != nil {
		return err
	}
	err = m.log.BeginAt(ctx, horizon, t, func(yield func(event.Event, error) bool) {
		for ev, err := range state {
			m.noteReceived(1, len(ev.Line()))
			if !yield(ev, err) {
				return
			}
		}
	})
	m.Advanced()
	return err
}

// store stores a batch of events. After an unknown outcome the next connection goes on from
// what is there.
func (m *Mirror) store(ctx context.Context, b *Batch) error {
	if err := m.log.Receive(context.WithoutCancel(ctx), b.Events); err != nil {
		return err
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
	m.report.Connected, m.report.Trouble, m.report.Conflict, m.conflict = true, "", "", nil
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
	if errors.As(err, &conflict) {
		m.conflict, m.report.Conflict = conflict, conflict.Reason
	}
	usual := errors.Is(err, io.EOF)
	if !usual {
		m.report.Trouble = err.Error()
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
// everything yet, or the upstream is not the one that is mirrored.
func (m *Mirror) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.conflict != nil:
		return m.conflict
	case m.report.Ready:
		return nil
	case m.report.Trouble != "":
		return errors.New(m.report.Trouble)
	}
	return fmt.Errorf("the mirror is at %s, the log at %s", m.log.HeadPoint().ID, max(m.report.Head, m.log.HeadPoint().ID))
}

var _ Log = (*cache.DB)(nil)
