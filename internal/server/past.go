package server

import (
	"sync"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/hub"
)

// A past is the streams that read history before they follow the log.
type past struct {
	mu      sync.Mutex
	streams map[*connection]struct{}
}

func (p *past) enter(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams == nil {
		p.streams = map[*connection]struct{}{}
	}
	p.streams[c] = struct{}{}
}

func (p *past) leave(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.streams, c)
}

// readers returns what the readers of the log are at: those of the hub, and those that
// are on their way there.
func (s *Server) readers(head event.ID) hub.Stats {
	st := s.hub.Stats()
	s.past.mu.Lock()
	defer s.past.mu.Unlock()
	st.Readers += len(s.past.streams)
	st.Behind += len(s.past.streams)
	for c := range s.past.streams {
		if at := event.ID(c.at.Load()); at < head {
			st.MaxLag = max(st.MaxLag, uint64(head-at))
		}
	}
	return st
}
