package client

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/rstream-dev/rstream/internal/sse"
)

const (
	// stallTime is how long a response may bring no byte while another server could take
	// over.
	stallTime = 3 * time.Second
	// paceTime is how long a response is read before its speed is compared with that of
	// other servers.
	paceTime = time.Second
	// overtakeFactor is how many times faster another server must be to take over.
	overtakeFactor = 2
	// leastMeasured is the fewest bytes whose speed is measured in less than paceTime.
	leastMeasured = 32 << 10
	// leastTook is the least time that counts: bytes that wait in a buffer take no time.
	leastTook = 10 * time.Millisecond
)

// errOvertaken ends a response because another server is faster, or may be. Events that
// have come stay, and the rest is requested from the other server.
var errOvertaken = errors.New("slower than another server")

// A pacedBody is the body of a response of one of several servers. It measures how fast the
// server is. Time between reads does not count.
type pacedBody struct {
	io.ReadCloser
	c       *Client
	ctx     context.Context
	server  int
	subject func() string
	release func()

	n     int64
	took  time.Duration
	ended error
}

// newPacedBody returns the body of a response of one of several servers about a subject. release is
// called when it is closed. While another server can take over, the body may be silent for stallTime only.
func (c *Client) newPacedBody(ctx context.Context, body io.ReadCloser, server int, subject func() string, release func()) *pacedBody {
	if c.hasFresh(c.cfg.Servers[server]) {
		body = sse.NewIdleBody(body, min(stallTime, c.cfg.Idle))
	}
	return &pacedBody{ReadCloser: body, c: c, ctx: ctx, server: server, subject: subject, release: release}
}

func (b *pacedBody) Read(p []byte) (int, error) {
	if b.ended != nil {
		return 0, b.ended
	}
	began := time.Now()
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	b.took += time.Since(began)
	switch {
	case errors.Is(err, io.EOF):
	case err != nil && b.ctx.Err() == nil:
		b.c.recordFailure(b.c.cfg.Servers[b.server], err)
		b.ended = err
	case err == nil && b.took >= paceTime && !b.preferred() && b.c.overtake(b.server, float64(b.n)/b.took.Seconds(), b.subject):
		b.ended, err = errOvertaken, errOvertaken
		b.c.reportLeft(b.c.cfg.Servers[b.server], errOvertaken)
	}
	return n, err
}

// preferred reports whether the request was meant for this server, however slow it is.
func (b *pacedBody) preferred() bool {
	if only, mayLeave := onlyOf(b.ctx); only != "" {
		return !mayLeave
	}
	return preferredOf(b.ctx) == b.c.cfg.Servers[b.server]
}

// Close closes the body and records what was measured.
func (b *pacedBody) Close() error {
	err := b.ReadCloser.Close()
	if b.release == nil {
		return err
	}
	b.release()
	b.release = nil
	b.c.recordPace(b.server, b.n, b.took)
	if b.ended == nil && b.ctx.Err() == nil {
		b.c.recordWhole(b.server)
	}
	return err
}

// recordPace records how fast a response came.
func (c *Client) recordPace(server int, n int64, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.servers[server]
	s.bytes += n
	if took > 0 && (n >= leastMeasured || took >= paceTime) {
		s.speed, s.measured = float64(n)/max(took, leastTook).Seconds(), time.Now()
	}
}

// overtake reports whether another server is to continue a response that comes at a speed:
// one that is known to be much faster, or whose speed is not known, and that may have the subject.
func (c *Client) overtake(server int, speed float64, subject func() string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	slow := &c.servers[server]
	slow.speed, slow.measured = speed, now
	for i := range c.servers {
		s := &c.servers[i]
		if i == server || !s.isFresh(now) || len(s.lacks) > 0 && s.lacksSubject(subject()) {
			continue
		}
		if s.speed > overtakeFactor*speed || s.speed == 0 || now.Sub(s.measured) >= speedTime {
			c.current = i
			slow.overtaken++
			slow.problem, slow.problemAt = errOvertaken, now
			return true
		}
	}
	return false
}
