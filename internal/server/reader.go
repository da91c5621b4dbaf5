package server

import (
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/board"
)

// Describe implements board.Reader.
func (c *connection) Describe() board.Connection {
	of := board.Connection{Topics: c.st.topics, Since: c.opened, Address: c.s.clientHost(c.r)}
	if g := c.to.grant; g != nil && !g.IsPublic() {
		of.Subject = g.Subject
	}
	return of
}

// Lag implements board.Reader.
func (c *connection) Lag() board.Lag {
	head := c.s.log.Head()
	if sub := c.sub.Load(); sub != nil {
		ids, behind := sub.Lag(head)
		return board.Lag{Events: ids, Behind: behind && ids > 0}
	}
	if at := event.ID(c.at.Load()); at < head {
		return board.Lag{Events: uint64(head - at), Behind: true}
	}
	return board.Lag{}
}

// describeNode returns a function that describes this server, which started at a time.
func (s *Server) describeNode(since event.Time) func() board.Node {
	return func() board.Node {
		return board.Node{Name: s.cfg.Node, Version: s.cfg.Version, Since: since, Log: s.log.Log(), Head: s.log.HeadPoint().Cursor(s.log.Log()).String(), URL: s.cfg.Advertise}
	}
}
