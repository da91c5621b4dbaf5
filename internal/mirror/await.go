package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A reader that is ahead of the mirror comes from another server of the log, or from a history that
// was rolled back. The upstream knows which.

// Await waits until the log here has reached the position of a reader that comes from another
// server of the log, if the upstream has it. It returns a *wire.Error if it did not.
func (m *Mirror) Await(ctx context.Context, at event.ID) error {
	if m.log.HeadPoint().ID >= at {
		return nil
	}
	known, err := m.hasReached(ctx, at)
	if err != nil {
		return unavailable("this server is at %s and has not reached %s: %v", m.log.HeadPoint().ID, at, err)
	}
	if known && m.isPart() {
		if err := m.catchUp(ctx, at); err != nil {
			return unavailable("this server is at %s and has not reached %s: %v", m.log.HeadPoint().ID, at, err)
		}
	}
	if !known || m.waitFor(ctx, at) {
		return nil
	}
	return unavailable("this server is at %s and has not reached %s yet", m.log.HeadPoint().ID, at)
}

// aheadPause is between questions for the head of the upstream while a reader seems to be ahead of it.
const aheadPause = 500 * time.Millisecond

// hasReached reports whether the log has reached a position, which the mirror has not. An error means
// that nobody knows.
func (m *Mirror) hasReached(ctx context.Context, at event.ID) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.ApplyWait)
	defer cancel()
	for {
		if err := m.askHead(ctx, at); err != nil {
			return false, err
		}
		switch {
		case m.Report().Head >= at:
			return true, nil
		case m.cfg.Patience == 0:
			return m.askFor(ctx, at)
		case m.isAheadForLong(at):
			return false, nil
		}
		select {
		case <-time.After(aheadPause):
		case <-ctx.Done():
			return false, fmt.Errorf("the log seems to end at %s", m.Report().Head)
		}
	}
}

// askHead asks the upstream for its head, unless that is known to be at or after a position. One caller
// at a time asks, and the answer is for all that were waiting.
func (m *Mirror) askHead(ctx context.Context, at event.ID) error {
	if m.Report().Head >= at {
		return nil
	}
	came := time.Now()
	leave, err := takeTurn(ctx, m.asking)
	if err != nil {
		return err
	}
	defer leave()
	m.mu.Lock()
	answered := m.askedAt.After(came)
	m.mu.Unlock()
	if answered || m.Report().Head >= at {
		return nil
	}
	began := time.Now()
	if err := m.ask(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.askedAt = began
	return nil
}

// askFor asks the upstream whether its log has reached a position. The upstream may be a mirror, which is
// behind, too, or a node: it waits before it refuses the position.
func (m *Mirror) askFor(ctx context.Context, at event.ID) (bool, error) {
	leave, err := takeTurn(ctx, m.probing)
	if err != nil {
		return false, err
	}
	defer leave()
	d, err := m.cfg.Upstream.Describe(ctx, Position{m.log.Log(), event.Point{ID: at}})
	var conflict *ConflictError
	if errors.As(err, &conflict) && conflict.Reason == wire.ReasonAhead {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	m.noteDescribed(&d)
	return d.Head.ID >= at, nil
}

// isAheadForLong notes that the upstream has shown a head before the position of a reader, and reports
// whether it did so for longer than it may show an old state. A request alone may not wait that long.
func (m *Mirror) isAheadForLong(at event.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	since, ok := m.ahead[at]
	if ok {
		return time.Since(since) >= m.cfg.Patience
	}
	if m.ahead == nil || len(m.ahead) >= maxChecked {
		m.ahead = map[event.ID]time.Time{}
	}
	m.ahead[at] = time.Now()
	return false
}

// maxProbes is for how many readers the upstream is asked about their positions at a time. It may make
// them wait.
const maxProbes = 16

// takeTurn waits until fewer readers than turns has room for have the upstream asked. leave ends the turn.
func takeTurn(ctx context.Context, turns chan struct{}) (leave func(), err error) {
	select {
	case turns <- struct{}{}:
		return func() { <-turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
