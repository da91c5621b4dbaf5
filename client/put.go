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
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Put appends drafts in order, all or none, and returns their receipts. It may send them
// more than once, also to the next of several servers while one is silent. Equal drafts are
// always the same event, so drafts that are meant to be different events need different keys,
// and a receipt may say that an event is a duplicate of the one that the same call has sent
// before. If the error is an *UnknownOutcomeError the drafts may have been appended; after any
// other error they were not.
func (c *Client) Put(ctx context.Context, drafts []event.Draft) ([]event.Receipt, error) {
	size := 0
	for i := range drafts {
		if err := drafts[i].Check(); err != nil {
			return nil, fmt.Errorf("put: %w", err)
		}
		size += jsonLen(&drafts[i])
	}
	p := putting{c: c, putRequest: putRequest{drafts: drafts, body: make([]byte, 0, size), hashes: make([]event.Hash, len(drafts))}}
	for i := range drafts {
		p.body = append(drafts[i].AppendJSON(p.body), '\n')
	}
	p.hashing.Go(p.hashDrafts)
	defer p.hashing.Wait()
	var receipts []event.Receipt
	err := c.tryServers(ctx, func(ctx context.Context) (err error) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		receipts, err = p.askServers(ctx)
		return err
	})
	if err == nil {
		return receipts, nil
	}
	err = fmt.Errorf("put: %w", err)
	if p.unknown.Load() {
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

const (
	// putHedgeTime is how long a server may be silent after an append before the next one gets it,
	// too. A mirror waits for its upstream, and a disk may be busy.
	putHedgeTime = 2 * time.Second
	// leastUpload is the slowest upload, in bytes a second, of which nobody says that it is stuck.
	leastUpload = 512 << 10
)

// A putting is one call of Put.
type putting struct {
	putRequest
	c       *Client
	unknown atomic.Bool // stays true: a later refusal does not tell the outcome of an earlier request

	latest atomic.Pointer[upload]
}

// An upload is a request with drafts.
type upload struct {
	began time.Time
	sent  atomic.Int64 // when all of it was sent, in Unix nanoseconds, or 0
}

// askServers appends the drafts by one or several servers. The log takes each only once, by its
// hash, whoever passes it on, so the next server is asked, too, while one is silent: either of
// them appends the drafts, and the other one finds that they are there.
func (p *putting) askServers(ctx context.Context) ([]event.Receipt, error) {
	none := func([]event.Receipt) {}
	r := race[[]event.Receipt]{c: p.c, drop: none, status: func([]event.Receipt) int { return 0 }, ask: p.askServer,
		subject: func() string { return storagesSubject(p.drafts) },
		hedge:   putHedgeTime, patience: p.patience, decides: func(err error) bool { return permanent(err) && !isAboutServer(err) }}
	a := r.run(ctx)
	a.release()
	return a.got, a.err
}

// patience returns how long the server that was asked last may still take.
func (p *putting) patience() time.Duration {
	up := p.latest.Load()
	if up == nil {
		return 0
	}
	if sent := up.sent.Load(); sent != 0 {
		return time.Until(time.Unix(0, sent).Add(putHedgeTime))
	}
	return time.Until(up.began.Add(putHedgeTime + time.Duration(len(p.body))*time.Second/leastUpload))
}

// askServer appends the drafts by one server.
func (p *putting) askServer(ctx context.Context, base string) ([]event.Receipt, error) {
	up := &upload{began: time.Now()}
	p.latest.Store(up)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { up.sent.Store(time.Now().UnixNano()) },
	})
	traced, left := watchConn(ctx)
	receipts, err := p.c.putBody(traced, base, &p.putRequest)
	if p.c.isOtherLog(err) {
		receipts, err = p.c.putBody(traced, base, &p.putRequest)
	}
	if err != nil && left() && !refusedByLog(err) && !wasUnread(err) {
		p.unknown.Store(true)
	}
	return receipts, err
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
