package natslog

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Append implements mirror.Upstream. The committer assigns the ids: this node, or another one
// to which the drafts are forwarded. While there is none, Append waits for one. It sends drafts
// again when it is safe to, which their hashes make it: one that an earlier attempt has
// appended after all gets the receipt of a repeated append.
func (l *Log) Append(ctx context.Context, held mirror.Position, _ wire.Caller, drafts []event.Draft) ([]event.Receipt, error) {
	if len(drafts) == 0 {
		return nil, nil
	}
	a := cache.Assignment{Drafts: drafts, Hashes: make([]event.Hash, len(drafts))}
	for i := range drafts {
		if err := drafts[i].Check(); err != nil {
			return nil, wire.Errorf(http.StatusBadRequest, "%s: %v", wire.NothingAppended, err)
		}
		a.Hashes[i] = drafts[i].Hash()
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.AppendWait+l.cfg.AppendWait/5)
	defer cancel()
	limit := time.Now().Add(l.cfg.AppendWait)
	unsure := false // an attempt may have appended the drafts
	var before role
	for pause := repeatPause; ; pause = min(2*pause, maxPause) {
		tried, _ := l.lease.watch()
		if tried != before {
			before, pause = tried, repeatPause
		}
		receipts, err := l.tryAppend(ctx, held.Log, &a)
		var problem *wire.Error
		switch {
		case err == nil:
			return receipts, nil
		case errors.As(err, &problem) && !unsure:
			return nil, problem
		}
		unsure = unsure || !errors.Is(err, errNotCommitter)
		full := l.lease.fullRefusal()
		switch {
		case errors.Is(err, errUnknown) || ctx.Err() != nil || time.Now().After(limit):
			return nil, l.appendFailed(ctx, err, unsure)
		case !unsure && full != nil:
			return nil, problemOf(full)
		}
		l.awaitCommitter(ctx, tried, min(pause, time.Until(limit)))
	}
}

// maxPause bounds the pauses between attempts to reach the same committer. They grow, since a whole
// append is sent each time.
const maxPause = 2 * time.Second

// awaitCommitter waits until the role is not that which was tried, or cannot be claimed, for a while.
func (l *Log) awaitCommitter(ctx context.Context, tried role, wait time.Duration) {
	limit := time.NewTimer(wait)
	defer limit.Stop()
	for {
		now, changed := l.lease.watch()
		if now != tried || l.lease.fullRefusal() != nil {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// appendFailed returns the response to an append that has failed.
func (l *Log) appendFailed(ctx context.Context, err error, unsure bool) *wire.Error {
	cause := context.Cause(ctx)
	ended := cause != nil && !errors.Is(cause, context.DeadlineExceeded) // otherwise it has waited long enough
	text := wire.NothingAppended
	if unsure {
		text = "the outcome of the append is unknown; send it again with the same key"
	}
	switch {
	case ended:
	case unsure:
		cause = err
	default:
		text, cause = text+": no node of the cluster commits", l.lease.whyUnclaimed()
	}
	if cause != nil {
		text = fmt.Sprintf("%s: %v", text, cause)
	}
	problem := wire.Errorf(http.StatusServiceUnavailable, "%s", text)
	problem.RetryAfter = time.Second
	return problem
}

// tryAppend appends drafts through the committer. The error is errNotCommitter if nothing was
// appended and another node may do it, and errUnknown if another attempt makes no sense.
func (l *Log) tryAppend(ctx context.Context, log string, a *cache.Assignment) ([]event.Receipt, error) {
	now, _ := l.lease.watch()
	switch {
	case now.mine:
		r := &request{Assignment: *a}
		if err := l.committer.submit(ctx, r); err != nil {
			return nil, responseTo(err) // the committer may still have r
		}
		return r.Receipts, nil
	case now.holder.Boot == "" || now.holder.Boot == l.boot:
		return nil, errNotCommitter
	}
	l.count(func(c *Counters) { c.Forwarded++ })
	return l.forward(ctx, log, now.holder.Boot, a)
}

// responseTo returns the response for an error of the file that has a status.
func responseTo(err error) error {
	var refused interface {
		error
		HTTPStatus() int
	}
	var problem *wire.Error
	if errors.As(err, &problem) || !errors.As(err, &refused) {
		return err
	}
	return wire.Errorf(refused.HTTPStatus(), "%s: %v", wire.NothingAppended, refused)
}
