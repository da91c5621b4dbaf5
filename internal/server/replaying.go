package server

import (
	"sync"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/hub"
)

// replaying is the set of streams that are reading history, before they follow the log.
type replaying struct {
	mu      sync.Mutex
	streams map[*connection]struct{}
}

func (p *replaying) addStream(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams == nil {
		p.streams = map[*connection]struct{}{}
	}
	p.streams[c] = struct{}{}
}

func (p *replaying) removeStream(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.streams, c)
}

// readerStats returns statistics about the readers of the log: the subscriptions of the hub,
// and the streams that still read history.
func (s *Server) readerStats(head event.ID) hub.Stats {
	st := s.hub.Stats()
	s.replaying.mu.Lock()
	defer s.replaying.mu.Unlock()
	st.Readers += len(s.replaying.streams)
	st.Behind += len(s.replaying.streams)
	for c := range s.replaying.streams {
		if at := event.ID(c.at.Load()); at < head {
			st.MaxLag = max(st.MaxLag, uint64(head-at))
		}
	}
	return st
}
