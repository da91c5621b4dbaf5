package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Parted finds out how far another copy is the same as the server's log, which goes on from
// the log of the copy: the newest position known there whose mark the server's log has, too.
// It halves what the copy holds, so it asks some 40 times at most. Below the server's horizon
// nothing can be compared, and all counts as the same.
func (c *Client) Parted(ctx context.Context, old *cache.DB) (event.ID, error) {
	if err := c.needCopy(); err != nil {
		return 0, err
	}
	newest, err := old.Newest(ctx)
	if err != nil {
		return 0, storeError(err)
	}
	same, high := event.Beginning, newest.Marked.ID
	shared, err := c.shares(ctx, newest.Marked)
	if err != nil || shared {
		return high, err
	}
	for low := same; low < high; {
		mid := low + (high-low)/2
		p, err := old.LastStored(ctx, mid)
		if err != nil {
			return 0, storeError(err)
		}
		if p.ID <= same || p.Mark == 0 { // nothing can be asked of what lies up to there
			low = mid + 1
			continue
		}
		if shared, err = c.shares(ctx, p); err != nil {
			return 0, err
		}
		if shared {
			same, low = p.ID, mid+1
		} else {
			high = p.ID
		}
	}
	return same, nil
}

// shares reports whether the server's log has an event of another log at the same place.
func (c *Client) shares(ctx context.Context, p event.Point) (shared bool, err error) {
	if p.Mark == 0 {
		return p.ID == event.Beginning, nil
	}
	header := http.Header{}
	header.Set(wire.HeaderHeld, p.Cursor(c.store.Log()).String())
	err = c.retry(ctx, func(ctx context.Context, base string) error {
		resp, err := c.do(ctx, http.MethodGet, base, "/", header, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return readStatus(resp)
		}
		return nil
	})
	var back *PutBackError
	var problem *StatusError
	switch {
	case errors.As(err, &back), errors.As(err, &problem) && problem.reason == wire.ReasonAhead:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("find where the logs diverge: %w", err)
	}
	return true, nil
}
