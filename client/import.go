package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// adoptImported has events that came by file become held, as far as they and what is
// stored agree with the server: all of a stretch by the digest that is known already,
// or else block by block.
func (c *Client) adoptImported(ctx context.Context, topic event.Topic, sum wire.Window, s *Synced, fresh func([]event.Event) error) error {
	imported, err := c.store.CandidateSpan(ctx, topic, sum.Span())
	if err != nil || imported.Empty() {
		return inStore(err)
	}
	if ok, err := c.adoptWindow(ctx, topic, sum, s, fresh); ok || err != nil {
		return err
	}
	for !imported.Empty() {
		list, err := c.windows(ctx, topic, imported)
		if err != nil {
			return err
		}
		for _, w := range list.Windows {
			if _, err := c.adoptWindow(ctx, topic, w, s, fresh); err != nil {
				return err
			}
		}
		imported.From = list.Next
	}
	return nil
}

// adoptWindow is adoptImported for one stretch, as a whole.
func (c *Client) adoptWindow(ctx context.Context, topic event.Topic, w wire.Window, s *Synced, fresh func([]event.Event) error) (ok bool, err error) {
	for {
		imported, err := c.store.CandidateSpan(ctx, topic, w.Span())
		if err != nil || imported.Empty() {
			return false, inStore(err)
		}
		leaves, err := c.store.ImportedLeaves(ctx, topic, w.Span())
		if err != nil {
			return false, inStore(err)
		}
		if digest, count := window.DigestOf(leaves); digest != w.Digest || count != w.Count {
			return false, nil
		}
		err = c.store.AdoptCandidates(ctx, topic, w.Span(), leaves, func(evs []event.Event) error {
			s.Imported += len(evs)
			return fresh(evs)
		})
		if !errors.Is(err, cache.ErrLost) {
			return err == nil, inStore(err)
		}
	}
}

// windows asks for the windows of a stretch: as many as one answer tells.
func (c *Client) windows(ctx context.Context, topic event.Topic, span window.Span) (list wire.WindowList, err error) {
	until := c.at(span.To)
	q := wire.WindowQuery{Topic: topic, Since: c.at(span.From), Until: &until}
	if err := c.ask(ctx, "/windows", q.Values(), &list); err != nil {
		return list, err
	}
	at := span.From
	for i := range list.Windows {
		w := &list.Windows[i]
		if w.From < at || w.To <= w.From || w.To > list.Next {
			return list, &ProtocolError{c.base(), fmt.Sprintf("was asked for the windows of %s and answered %s", span, w.Span())}
		}
		at = w.To
	}
	if list.Next <= span.From || list.Next > span.To {
		return list, &ProtocolError{c.base(), fmt.Sprintf("was asked for the windows of %s and answered some up to %s", span, list.Next)}
	}
	return list, nil
}
