package client

import (
	"context"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A noter keeps what was seen of servers.
type noter interface {
	NoteServers(ctx context.Context, notes []cache.ServerNote) error
	ServerNotes(ctx context.Context) ([]cache.ServerNote, error)
}

// Servers returns what the Client has seen of its servers so far, in the order of the
// configuration. If there are several, the copy also keeps it, see [cache.DB.ServerNotes].
func (c *Client) Servers() []cache.ServerNote {
	c.mu.Lock()
	defer c.mu.Unlock()
	notes := make([]cache.ServerNote, len(c.servers))
	for i := range c.servers {
		notes[i] = c.servers[i].note(c.cfg.Servers[i])
	}
	return notes
}

func (s *serverState) note(base string) cache.ServerNote {
	n := cache.ServerNote{URL: wire.WithoutUser(base), Seen: event.TimeOf(time.Now()), Head: s.head, Requests: s.requests,
		Received: s.bytes, Speed: int64(s.speed), Overtaken: s.overtaken}
	if s.problem != nil {
		n.Problem, n.ProblemTime = wire.Redact(s.problem.Error()), event.TimeOf(s.problemAt)
	}
	if !s.aside.IsZero() && !s.doubtful {
		n.AsideUntil = event.TimeOf(s.aside)
	}
	return n
}

// loadNotes sets aside the servers that an earlier Client of the copy has set aside, unless
// they are all.
func (c *Client) loadNotes(ctx context.Context) {
	if c.store == nil {
		return
	}
	notes, err := c.store.ServerNotes(ctx)
	if err != nil {
		return // they only save a request
	}
	for i, base := range c.cfg.Servers {
		n := slices.IndexFunc(notes, func(n cache.ServerNote) bool { return n.URL == wire.WithoutUser(base) })
		if n < 0 || notes[n].AsideUntil == 0 || !c.hasOther(base) {
			continue
		}
		if until := notes[n].AsideUntil.Time(); time.Until(until) < asideTime {
			c.mu.Lock()
			c.servers[i].aside = until
			c.mu.Unlock()
		}
	}
}

// noteServers adds to the copy what was seen of several servers since the last call. An error
// is not reported: a copy that cannot be written to reports a more important one.
func (c *Client) noteServers() {
	if c.store == nil || len(c.cfg.Servers) == 1 {
		return
	}
	c.noting.Lock()
	defer c.noting.Unlock()
	notes := c.Servers()
	changed := false
	for i := range notes {
		total, before := notes[i], c.noted[i]
		notes[i].Requests -= before.Requests
		notes[i].Received -= before.Received
		notes[i].Overtaken -= before.Overtaken
		c.noted[i] = total
		changed = changed || notes[i].Overtaken > 0 || notes[i].ProblemTime != before.ProblemTime
	}
	if c.stats.events.Load() > 0 { // or a look at the server would write to the copy
		changed = true
	}
	if !changed {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	_ = c.store.NoteServers(ctx, notes)
}
