package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Put appends drafts in their order, all or none, and returns what the log made of
// them. It may send them more than once: equal drafts are one event for ever, so those
// that are not meant to be need different keys.
func (c *Client) Put(ctx context.Context, drafts []event.Draft) ([]event.Receipt, error) {
	var body []byte
	for i := range drafts {
		if err := drafts[i].Check(); err != nil {
			return nil, fmt.Errorf("put: %w", err)
		}
		body = append(drafts[i].AppendJSON(body), '\n')
	}
	var receipts []event.Receipt
	err := c.retry(ctx, func(ctx context.Context, base string) (err error) {
		receipts, err = c.put(ctx, base, drafts, body)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("put: %w", err)
	}
	return receipts, nil
}

func (c *Client) put(ctx context.Context, base string, drafts []event.Draft, body []byte) ([]event.Receipt, error) {
	header := http.Header{"Content-Type": {wire.NDJSON}, "Accept": {wire.NDJSON}}
	if log := c.logName(); log != "" {
		header.Set(wire.HeaderLog, log) // the answer would tell too late that it is another one
	}
	resp, err := c.do(ctx, http.MethodPost, base, "/set", header, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, putRefusal(base, resp)
	}
	if err := c.ours(base, resp.Header, wire.NDJSON); err != nil {
		return nil, err
	}
	receipts := make([]event.Receipt, 0, len(drafts))
	lines := wire.NewLineReader(resp.Body, 1<<16)
	for i := range drafts {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, badLine(base, err)
		}
		var r wire.SetResult
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, &ProtocolError{base, fmt.Sprintf("answered an append with %.60q", line)}
		}
		if r.Hash != drafts[i].Hash() || r.ID == event.Beginning {
			return nil, &ProtocolError{base, fmt.Sprintf("acknowledged another event than the one sent (%s)", r.ID)}
		}
		receipts = append(receipts, receiptOf(&r, drafts[i]))
	}
	return receipts, nil
}

// receiptOf returns the receipt of a draft.
func receiptOf(r *wire.SetResult, d event.Draft) event.Receipt {
	if r.Dropped {
		return event.Receipt{Event: event.Event{ID: r.ID, Draft: d, Hash: r.Hash}, Known: true, Dropped: true}
	}
	return event.Receipt{Event: event.New(r.ID, r.Time, d, r.Hash), Known: r.Status == http.StatusOK}
}

// putRefusal tells what a server has decided about drafts from what something before
// it thinks of the request.
func putRefusal(base string, resp *http.Response) error {
	err := wire.ReadError(resp)
	if err.Status == http.StatusBadRequest && wire.LogOf(resp.Header) == "" {
		return &ProtocolError{base, fmt.Sprintf("is not an rstream server: it answers an append with %q", err.Error())}
	}
	return err
}
