package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
)

// Committer asks for the node that commits. It returns "" if nobody answers. A node that is about
// to become it, or just was, is asked again.
func (l *Log) Committer(ctx context.Context) (node string, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.within(committerWait))
	defer cancel()
	for {
		msg, err := l.conn.RequestWithContext(ctx, l.subject("committer"), nil)
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) {
			return "", nil
		}
		if err != nil {
			return "", l.unreachable(err)
		}
		var p presence
		if err := json.Unmarshal(msg.Data, &p); err == nil && p.Seq > 0 {
			return p.Node, nil
		}
		select {
		case <-time.After(committerPause):
		case <-ctx.Done():
			return "", nil
		}
	}
}

// committerPause is between questions for the committer.
const committerPause = 20 * time.Millisecond

// committerWait is how long the committer may take to answer.
const committerWait = 2 * time.Second
