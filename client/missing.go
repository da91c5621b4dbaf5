package client

import (
	"context"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// OldestMissing returns the oldest event that the server has of topics after the end of what
// is held of each of them and the position at which it starts if it is followed, or nil if there is
// none. It stores nothing. Ranges that are missing before the end of the held range do not count.
func (c *Client) OldestMissing(ctx context.Context, topics ...event.Topic) (*event.Event, error) {
	ev, err := c.oldestMissing(ctx, topics)
	if err != nil {
		return nil, fmt.Errorf("compare the end of the copy: %w", err)
	}
	return ev, nil
}

func (c *Client) oldestMissing(ctx context.Context, topics []event.Topic) (oldest *event.Event, err error) {
	if err := c.needCopy(); err != nil {
		return nil, err
	}
	info, err := c.Info(ctx)
	if err != nil {
		return nil, err
	}
	ends := map[event.ID][]event.Topic{}
	for _, t := range topics {
		held, err := c.store.Held(ctx, t)
		if err != nil {
			return nil, storeError(err)
		}
		end, err := c.store.FollowedSince(ctx, t)
		if err != nil {
			return nil, storeError(err)
		}
		if len(held) > 0 {
			end = max(end, held[len(held)-1].To)
		}
		ends[end] = append(ends[end], t)
	}
	for end, topics := range ends {
		for some := range slices.Chunk(topics, wire.MaxTopics) {
			ev, err := c.firstEvent(ctx, some, window.Span{From: end, To: info.Head.ID})
			if err != nil {
				return nil, err
			}
			if ev != nil && (oldest == nil || ev.ID < oldest.ID) {
				oldest = ev
			}
		}
	}
	return oldest, nil
}

// firstEvent returns the server's first event of topics in span, or nil.
func (c *Client) firstEvent(ctx context.Context, topics []event.Topic, span window.Span) (first *event.Event, err error) {
	one, until := 1, c.momentAt(span.To)
	for !span.Empty() && first == nil {
		err := c.tryServers(ctx, func(ctx context.Context) error {
			q := wire.Query{Topics: topics, Since: c.momentAt(span.From), Until: &until, Limit: &one}
			p, err := c.readPage(c.requestPageAs(ctx, &q, span, wire.JSON))
			if err != nil {
				return err
			}
			if len(p.events) > 0 {
				first = &p.events[0]
			}
			span.From = p.next.ID
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return first, nil
}
