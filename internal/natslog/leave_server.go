package natslog

import (
	"context"
	"errors"
	"time"

	"github.com/rstream-dev/rstream/internal/mirror"
)

// minStay is how long the connection stays with a server at least: while a leader is elected,
// or all servers are slow, another server is no better.
const minStay = 10 * time.Second

// leaveServer moves the connection to another server after an error of a request, if there are
// several servers and this one did not reach the stream. A server that is cut off from the
// others keeps its connections, and all nodes may have theirs with it.
func (l *Log) leaveServer(err error) {
	var away *mirror.UnreachableError
	if !errors.As(err, &away) || errors.Is(err, errLost) || errors.Is(err, context.Canceled) || !l.conn.IsConnected() || len(l.conn.Servers()) < 2 {
		return
	}
	l.mu.Lock()
	stayed := time.Since(l.linked)
	l.mu.Unlock()
	if stayed < l.minStay {
		return
	}
	l.news("the NATS server %s does not reach the stream; trying another one", l.conn.ConnectedServerName())
	_ = l.conn.ForceReconnect() // fails only if the connection is closed
}

// noteLinked notes that a connection was made.
func (l *Log) noteLinked() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.linked = time.Now()
}
