package client

import (
	"context"
	"net/http"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/wire"
)

// newest returns how far the copy is. Each request names that position, and each answer
// is compared with it: nothing of a log that was put back must come together with what
// is held, whatever was asked for.
func (c *Client) newest(ctx context.Context) (n cache.Newest, err error) {
	switch {
	case c.otherLog.Load():
		return n, nil
	case c.store == nil:
		return c.cfg.Newest, nil
	}
	n, err = c.store.Newest(ctx)
	return n, storeError(err)
}

// checkHistory refuses an answer of a log that is not the one of which the copy is as it
// was when it was asked, and what a server answers to a cursor that its log has not given.
// What happened since can only have made the log longer.
func checkHistory(base string, resp *http.Response, newest cache.Newest) error {
	head, told := wire.CursorIn(resp.Header, wire.HeaderHead)
	told = told && wire.LogOf(resp.Header) == newest.Log
	back := &PutBackError{URL: base, Held: newest.Marked.ID, Head: head.ID, refused: resp.StatusCode == http.StatusConflict}
	switch {
	case told && head.ID < newest.Held:
		back.Held = newest.Held
		return back
	case told && head.ID == newest.Marked.ID && !head.Mark.Agrees(newest.Marked.Mark):
		return back
	case resp.StatusCode != http.StatusConflict:
		return nil
	}
	problem := readStatus(resp)
	if problem.reason != wire.ReasonMark {
		return problem
	}
	return back
}
