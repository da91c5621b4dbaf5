package client

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client/internal/imports"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// adoptImported makes imported events held and proven, if they and the stored events are
// all that the server has in a range.
func (c *Client) adoptImported(ctx context.Context, topic event.Topic, w wire.Window, s *Synced, fresh func([]event.Event) error) (ok bool, err error) {
	for {
		imported, err := c.store.CandidateSpan(ctx, topic, w.Span())
		if err != nil || imported.Empty() {
			return false, storeError(err)
		}
		leaves, err := c.store.ImportedLeaves(ctx, topic, w.Span())
		if err != nil {
			return false, storeError(err)
		}
		if digest, count := window.DigestOf(leaves); digest != w.Digest || count != w.Count {
			return false, nil
		}
		err = c.store.PromoteCandidates(ctx, topic, w.Span(), leaves, func(evs []event.Event) error {
			s.Imported += len(evs)
			return fresh(evs)
		})
		if !errors.Is(err, cache.ErrLost) {
			return err == nil, storeError(err)
		}
	}
}

// importer returns an Importer for the Client's store and servers.
func (c *Client) importer() *imports.Importer {
	return &imports.Importer{Store: c.store, Server: importServer{Client: c, asked: &atomic.Value{}}, Reconcile: c.cfg.Reconcile,
		PageLimit: c.cfg.PageLimit, PageBytes: maxPageBytes}
}

// An importServer is a Client as an imports.Server.
type importServer struct {
	*Client
	asked *atomic.Value // the URL of the server that answered the last comparison
}

func (s importServer) Peer(topic event.Topic) reconcile.Peer {
	return framePeer{s.Client, topic, s.asked}
}

func (s importServer) Stubs(ctx context.Context, hashes []event.Hash, round *reconcile.Round) ([]wire.Stub, error) {
	return s.requestStubs(ctx, hashes, round)
}

func (s importServer) Sum(ctx context.Context, topic event.Topic, span window.Span) (wire.Window, error) {
	until := s.momentAt(span.To)
	return s.requestSum(ctx, topic, Range{Since: s.momentAt(span.From), Until: &until})
}

func (s importServer) Status(err error) int {
	var status *StatusError
	if errors.As(err, &status) {
		return status.Status
	}
	return 0
}

func (s importServer) WrongAnswer(reason string) error {
	base, known := s.asked.Load().(string)
	if !known {
		base = s.cfg.Servers[0]
	}
	return &ProtocolError{base, reason}
}
