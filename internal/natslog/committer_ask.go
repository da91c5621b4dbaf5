package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
)

// Committer asks for the node that commits. It returns "" if nobody answers.
func (l *Log) Committer(ctx context.Context) (node string, err error) {
	ctx, cancel := context.WithTimeout(ctx, committerWait)
	defer cancel()
	msg, err := l.conn.RequestWithContext(ctx, l.subject("committer"), nil)
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) {
		return "", nil
	}
	if err != nil {
		return "", l.unreachable(err)
	}
	var p presence
	if err := json.Unmarshal(msg.Data, &p); err != nil || p.Seq == 0 {
		return "", nil // it is about to become the committer
	}
	return p.Node, nil
}

// committerWait is how long the committer may take to answer.
const committerWait = 2 * time.Second
