package client

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
)

// openStream opens one connection for the events of q, which follow cursor. check is
// called with a response that is otherwise valid, and may refuse it.
func (c *Client) openStream(ctx context.Context, base string, q *wire.Query, cursor event.Cursor, check func(*http.Response) error) (*sse.Session, error) {
	traced, sent := traceSent(ctx)
	header := http.Header{}
	newest, err := c.addHeaders(ctx, base, header)
	if err != nil {
		return nil, err
	}
	cfg := sse.Config{URL: base + "/events", HTTP: c.http, Header: header, Cursor: cursor.String(),
		MaxEvent: 2 * wire.MaxLine, Idle: c.cfg.Idle}
	method := http.MethodGet
	if params := q.Values().Encode(); fitsURL(cfg.URL, params) {
		cfg.URL += "?" + params
	} else {
		cfg.Form, method = params, http.MethodPost
	}
	c.countRequest(base)
	heard, answered := c.watchSilence(base), false
	cfg.Check = func(resp *http.Response) error {
		heard()
		answered = true
		if err := c.checkResponse(base, method, resp, newest); err != nil {
			return err
		}
		err := c.checkEvents(base, q, wire.SSE, resp)
		switch {
		case err == nil:
			return check(resp)
		case resp.StatusCode == http.StatusOK && isStandIn(resp):
			return &UnreachableError{URL: base, Err: errStandIn}
		}
		return err
	}
	s, err := sse.Open(traced, cfg)
	heard()
	if err != nil && !answered {
		return nil, c.noAnswer(ctx, base, err, sent.Load())
	}
	return s, err
}

// errStandIn reports a proxy's response in place of a server that is down: an event
// stream without events, meant for browsers, which do not reconnect after a 502.
var errStandIn = errors.New("a proxy answered that the server is unavailable")

// standInTime is how long a stand-in for a stream may take to end.
const standInTime = time.Second

// isStandIn reports whether a response is a stream that names no log and ends without an
// event.
func isStandIn(resp *http.Response) bool {
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || media != wire.SSE || wire.LogOf(resp.Header) != "" {
		return false
	}
	stop := time.AfterFunc(standInTime, func() { resp.Body.Close() })
	defer stop.Stop()
	const most = 1 << 10
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil || len(body) == most {
		return false
	}
	for line := range strings.Lines(string(body)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" && line[0] != ':' && !strings.HasPrefix(line, "retry:") {
			return false
		}
	}
	return true
}
