package source

import (
	"errors"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A Meter shows how a follower is while it runs. The zero Meter is one of a follower that has
// not begun. It may be used by several goroutines.
type Meter struct {
	mu sync.Mutex
	r  Report
}

// A Report is how a follower is.
type Report struct {
	Status
	Connected bool
	Since     time.Time // of the connection or, if there is none, of its end
	// Behind is how many positions of an rstream server are still to be read, as far as is
	// known; nil for servers of other kinds.
	Behind *int64

	head event.ID // of an rstream server
}

// Report returns how the follower is.
func (m *Meter) Report() Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.r
	if r.head != event.Beginning {
		at, _ := parseUpstreamCursor(r.Cursor) // it was stored
		behind := int64(max(r.head, at.ID) - at.ID)
		r.Behind = &behind
	}
	return r
}

// noteBefore notes what was stored before.
func (m *Meter) noteBefore(s *state) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.r.Status = s.status()
}

// noteConnected notes that there is a connection.
func (m *Meter) noteConnected(s *state, conn *connection) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.r.Status, m.r.Connected, m.r.Since = s.status(), true, time.Now()
	m.r.Trouble = ""
	if conn.upstream != nil {
		m.r.head = conn.upstream.head
	}
}

// noteStored notes that something was stored.
func (m *Meter) noteStored(s *state) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.r.Status = s.status()
}

// noteEnded notes that there is no connection.
func (m *Meter) noteEnded(err error) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.r.Connected || m.r.Since.IsZero() {
		m.r.Connected, m.r.Since = false, time.Now()
	}
	if ended := (*endedError)(nil); !errors.As(err, &ended) {
		m.r.Trouble = wire.SteadyText(err)
	}
}
