package natslog

import (
	"context"
	"time"
)

// namesakeWait is how long other nodes have to answer after the first one, which is this node itself.
const namesakeWait = time.Second

// namesake returns another node that has the name of this one, nil if none answers.
func (l *Log) namesake(ctx context.Context) (found *nodeAnswer, err error) {
	_, err = l.askNodes(ctx, nil, l.namesakeWait, func(a *nodeAnswer) bool {
		if a.Node == l.cfg.Node && a.Boot != l.boot {
			found = a
		}
		return found != nil
	})
	return found, err
}

// tellNamesake says whether another node has the name of this one, once the nodes can be asked. Reports
// cannot tell the two apart, and one that is lost is not missed.
func (l *Log) tellNamesake(ctx context.Context) {
	for {
		a, err := l.namesake(ctx)
		switch {
		case err == nil && a != nil && a.URL != "":
			l.news("another node has the name %s, too, at %s: give one of them another name", a.Node, a.URL)
		case err == nil && a != nil:
			l.news("another node has the name %s, too: give one of them another name", a.Node)
		}
		if err == nil {
			return
		}
		select {
		case <-time.After(l.cfg.LeaseTime):
		case <-ctx.Done():
			return
		}
	}
}
