package client

import (
	"context"
	"errors"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// adoptImported has events that came by file become held and proven, if they and what
// is stored are all that the server has of a stretch.
func (c *Client) adoptImported(ctx context.Context, topic event.Topic, w wire.Window, s *Synced, fresh func([]event.Event) error) (ok bool, err error) {
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
