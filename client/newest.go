package client

import (
	"context"
	"net/http"
	"strings"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/wire"
)

// newestHeld returns the newest position of the copy. Each request names it and each
// response is compared with it: events of a log that was rolled back must never be mixed
// with held ones, whatever the request.
func (c *Client) newestHeld(ctx context.Context) (n cache.Newest, err error) {
	switch {
	case c.otherLog.Load():
		return n, nil
	case c.store == nil:
		return c.cfg.Newest, nil
	}
	n, err = c.store.Newest(ctx)
	return n, storeError(err)
}

// isBehind reports whether resp answers an append by way of a mirror that has not received the
// events yet. It compares its own history with that of the log's server.
func isBehind(resp *http.Response) bool {
	return resp.StatusCode < 300 && resp.Request != nil && strings.HasSuffix(resp.Request.URL.Path, "/set") && resp.Header.Get(wire.HeaderBehind) != ""
}

// checkHistory returns an error if the server's log does not continue the history of the
// copy, whose newest position was newest when the request was made. Since then the log
// can only have grown. It also returns the error of a 409.
func checkHistory(base string, resp *http.Response, newest cache.Newest) error {
	head, told := wire.CursorIn(resp.Header, wire.HeaderHead)
	told = told && wire.LogOf(resp.Header) == newest.Log
	back := &RolledBackError{URL: base, Held: newest.Marked.ID, Head: head.ID, refused: resp.StatusCode == http.StatusConflict}
	switch {
	case told && head.ID < newest.Held && !isBehind(resp):
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
