package mirror

import (
	"context"
	"errors"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A mirror of some topics lacks most events of its log, so that it cannot tell from its own file
// whether a position of a reader is one of the log, nor whether it has all events up to a position
// that the upstream has reached. It asks the upstream.

// isPart reports whether the mirror has some topics only.
func (m *Mirror) isPart() bool { return len(m.log.MirroredTopics()) > 0 }

// Follows reports whether the mirror has the history of a topic.
func (m *Mirror) Follows(topic event.Topic) bool {
	return !m.isPart() || slices.ContainsFunc(m.log.MirroredTopics(), func(t event.Topic) bool { return t.Contains(topic) })
}

// maxChecked is how many positions of readers are remembered.
const maxChecked = 4096

// Has reports whether the log has a position with its mark, of whose event the mirror does not
// know. An error is a *wire.Error: nobody can be asked.
func (m *Mirror) Has(ctx context.Context, at event.Point) (bool, error) {
	if m.hasChecked(at) {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.ApplyWait)
	defer cancel()
	leave, err := takeTurn(ctx, m.probing)
	if err == nil {
		defer leave()
		if m.hasChecked(at) {
			return true, nil
		}
		_, err = m.cfg.Upstream.Describe(ctx, Position{m.log.Log(), at})
	}
	var conflict *ConflictError
	switch {
	case errors.As(err, &conflict) && conflict.Reason == wire.ReasonMark:
		return false, nil
	case err != nil:
		return false, unavailable("the mirror does not have the event at %s, and cannot ask whether the log does: %v", at.ID, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.checked == nil || len(m.checked) >= maxChecked {
		m.checked = map[event.ID]event.Mark{}
	}
	m.checked[at.ID] = at.Mark
	return true, nil
}

func (m *Mirror) hasChecked(at event.Point) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	mark, ok := m.checked[at.ID]
	return ok && mark == at.Mark
}

// catchUp receives what the upstream has up to a position, besides what the stream brings: that
// does not say that nothing of the topics has come until it is silent for a while.
func (m *Mirror) catchUp(ctx context.Context, at event.ID) error {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.ApplyWait)
	defer cancel()
	leave, err := takeTurn(ctx, m.asking)
	if err != nil {
		return err
	}
	defer leave()
	if m.log.HeadPoint().ID >= at {
		return nil
	}
	for b, err := range m.cfg.Upstream.Follow(ctx, m.held()) {
		if err != nil {
			return err
		}
		if err := m.store(ctx, &b); err != nil {
			return err
		}
		if b.Live || m.log.HeadPoint().ID >= at {
			return nil
		}
	}
	return nil
}
