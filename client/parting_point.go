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

// Parted returns the position where the server's log diverges from the log of old,
// another copy, which the server's log continues: the newest position of old whose mark
// the server's log has, too. It searches by bisection, so it makes some 40 requests at
// most. Positions below the server's horizon cannot be compared and count as the same.
func (c *Client) Parted(ctx context.Context, old *cache.DB) (event.ID, error) {
	if err := c.needCopy(); err != nil {
		return 0, err
	}
	newest, err := old.Newest(ctx)
	if err != nil {
		return 0, storeError(err)
	}
	same, high := event.Beginning, newest.Marked.ID
	shared, err := c.sharesEvent(ctx, newest.Marked)
	if err != nil || shared {
		return high, err
	}
	for low := same; low < high; {
		mid := low + (high-low)/2
		p, err := old.LastStored(ctx, mid)
		if err != nil {
			return 0, storeError(err)
		}
		if p.ID <= same || p.Mark == 0 { // no event up to there has a mark to compare
			low = mid + 1
			continue
		}
		if shared, err = c.sharesEvent(ctx, p); err != nil {
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

// sharesEvent reports whether the server's log has the same event at position p as the
// copy's log.
func (c *Client) sharesEvent(ctx context.Context, p event.Point) (shared bool, err error) {
	if p.Mark == 0 {
		return p.ID == event.Beginning, nil
	}
	header := http.Header{}
	header.Set(wire.HeaderHeld, p.Cursor(c.store.Log()).String())
	err = c.tryServers(ctx, func(ctx context.Context) error {
		resp, err := c.askServers(ctx, http.MethodGet, "/", header, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return readStatus(resp.Response)
		}
		return nil
	})
	var back *RolledBackError
	var problem *StatusError
	switch {
	case errors.As(err, &back), errors.As(err, &problem) && problem.reason == wire.ReasonAhead:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("find where the logs diverge: %w", err)
	}
	return true, nil
}
