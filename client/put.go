package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Put appends drafts in order, all or none, and returns their receipts. It may send them
// more than once. Equal drafts are always the same event, so drafts that are meant to be
// different events need different keys. If the error is an *UnknownOutcomeError the
// drafts may have been appended; after any other error they were not.
func (c *Client) Put(ctx context.Context, drafts []event.Draft) ([]event.Receipt, error) {
	size := 0
	for i := range drafts {
		if err := drafts[i].Check(); err != nil {
			return nil, fmt.Errorf("put: %w", err)
		}
		size += jsonLen(&drafts[i])
	}
	p := putRequest{drafts: drafts, body: make([]byte, 0, size), hashes: make([]event.Hash, len(drafts))}
	for i := range drafts {
		p.body = append(drafts[i].AppendJSON(p.body), '\n')
	}
	p.hashing.Go(p.hashDrafts)
	defer p.hashing.Wait()
	var receipts []event.Receipt
	unknown := false // stays true: a later refusal does not tell the outcome of an earlier request
	err := c.tryServers(ctx, func(ctx context.Context) (err error) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for {
			base := c.serverURL(ctx)
			traced, left := watchConn(ctx)
			receipts, err = c.putBody(traced, base, &p)
			if c.isOtherLog(err) {
				receipts, err = c.putBody(traced, base, &p)
			}
			unknown = unknown || err != nil && left() && !refusedByLog(err) && !wasUnread(err)
			// A request that was given up here says nothing about the server.
			if err != nil && ctx.Err() == nil && (!permanent(err) || isAboutServer(err)) {
				c.recordFailure(base, err)
			}
			if !isAboutServer(err) || !c.hasFresh("") {
				return err
			}
		}
	})
	if err == nil {
		return receipts, nil
	}
	err = fmt.Errorf("put: %w", err)
	if unknown {
		err = &UnknownOutcomeError{err}
	}
	return nil, err
}

// A putRequest is the drafts of a call of Put.
type putRequest struct {
	drafts  []event.Draft
	body    []byte
	hashes  []event.Hash   // of the drafts, once
	hashing sync.WaitGroup // is done: the server takes longer for the request
}

func (p *putRequest) hashDrafts() {
	for i := range p.drafts {
		p.hashes[i] = p.drafts[i].Hash()
	}
}

// jsonLen returns about how long a draft is in the body of a request.
func jsonLen(d *event.Draft) int {
	return len(`{"user":"","path":"","type":"PUT","key":"","value":}`) + len(d.User) + len(d.Path) + len(d.Key) + len(d.Value) + len("\n")
}

// isAboutServer reports whether a log has refused an append for a reason that other servers of
// the log need not have: the server does not follow the topic, or lags behind the copy.
func isAboutServer(err error) bool {
	var back *RolledBackError
	if errors.As(err, &back) {
		return back.refused
	}
	var answer *StatusError
	return errors.As(err, &answer) && answer.FromLog && answer.Status == http.StatusMisdirectedRequest
}

// watchConn returns a context for one request, and a function that reports whether any
// part of the request may have been sent. It was certainly not sent only if the transport
// asked for a connection and got none. A transport that does not report this proves
// nothing.
func watchConn(ctx context.Context) (traced context.Context, left func() bool) {
	var asked, got atomic.Bool
	traced = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { asked.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { got.Store(true) },
	})
	return traced, func() bool { return got.Load() || !asked.Load() }
}

// refusedByLog reports whether err is the answer of a log that has appended nothing. The
// answer of a proxy proves nothing: it may have forwarded the request.
func refusedByLog(err error) bool {
	var other *OtherLogError
	if errors.As(err, &other) {
		return other.refused
	}
	var back *RolledBackError
	if errors.As(err, &back) {
		return back.refused
	}
	var answer *StatusError
	return errors.As(err, &answer) && answer.notAppended()
}

// wasUnread reports whether err shows that no server has read the request, although there was a
// connection.
func wasUnread(err error) bool {
	var unreachable *UnreachableError
	return errors.As(err, new(*tokenError)) || errors.As(err, &unreachable) && unreachable.unread
}

// isOtherLog reports whether a server has refused an append because it serves another log
// than the one held, although this client is not bound to a log. From then on requests
// do not name the held log.
func (c *Client) isOtherLog(err error) bool {
	var problem *StatusError
	return c.logName() == "" && errors.As(err, &problem) && problem.reason == wire.ReasonLog && c.otherLog.CompareAndSwap(false, true)
}

func (c *Client) putBody(ctx context.Context, base string, p *putRequest) ([]event.Receipt, error) {
	header := http.Header{"Content-Type": {wire.NDJSON}, "Accept": {wire.NDJSON}}
	if log := c.logName(); log != "" {
		header.Set(wire.HeaderLog, log) // the response would tell too late that it is another log
	}
	resp, err := c.doRequest(ctx, http.MethodPost, base, "/set", header, bytes.NewReader(p.body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, putRefusal(base, resp)
	}
	if err := c.checkIsRstream(base, resp.Header, wire.NDJSON); err != nil {
		return nil, err
	}
	p.hashing.Wait()
	receipts := make([]event.Receipt, 0, len(p.drafts))
	lines := wire.NewLineReader(resp.Body, 1<<16)
	for i := range p.drafts {
		line, err := lines.Peek()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, badLine(base, err)
		}
		r, err := wire.ParseResult(line)
		if err != nil {
			return nil, &ProtocolError{base, fmt.Sprintf("sent an invalid response to an append: %.60q", line)}
		}
		if r.Hash != p.hashes[i] || r.ID == event.Beginning {
			return nil, &ProtocolError{base, fmt.Sprintf("acknowledged event %s, which is not the one sent", r.ID)}
		}
		receipts = append(receipts, receiptOf(&r, p.drafts[i]))
	}
	return receipts, nil
}

// receiptOf returns the receipt of a draft. The line of its event is not encoded yet: to print
// it may take longer than to send the next request.
func receiptOf(r *wire.SetResult, d event.Draft) event.Receipt {
	ev := event.Event{ID: r.ID, Time: r.Time, Draft: d, Hash: r.Hash}
	switch {
	case r.Dropped:
		return event.Receipt{Event: ev, Duplicate: true, Dropped: true}
	case d.IsExpiry(): // its line has a reason
		ev = event.New(r.ID, r.Time, d, r.Hash)
	}
	return event.Receipt{Event: ev, Duplicate: r.Status == http.StatusOK}
}

// putRefusal returns the error of a response that refuses drafts. A bad request without
// the name of a log does not come from an rstream server.
func putRefusal(base string, resp *http.Response) error {
	err := readStatus(resp)
	if err.Status == http.StatusBadRequest && wire.LogOf(resp.Header) == "" {
		return &ProtocolError{base, fmt.Sprintf("is not an rstream server: it answers an append with %q", err.Error())}
	}
	return err
}
