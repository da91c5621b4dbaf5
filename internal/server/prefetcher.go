package server

import (
	"context"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// A prefetcher reads a range in chunks, each while the previous one is being written. A
// transaction is open only while a chunk is read.
type prefetcher struct {
	s      *Server
	ctx    context.Context
	cancel context.CancelFunc
	st     *resolvedQuery
	until  event.ID
	most   int        // how many events the next piece has
	coming chan piece // nil if no piece is being read
	given  []byte     // the lines of the last piece that nextPiece returned
}

// A piece is the events of a range up to position next, in the form that the reader
// requested. The lines are valid until the next call of nextPiece.
type piece struct {
	lines []byte
	next  event.ID
	err   error
}

// prefetch starts to read the range (at, until], unless it is empty. The caller must call
// stopFetching.
func (s *Server) prefetch(ctx context.Context, st *resolvedQuery, at, until event.ID) *prefetcher {
	ctx, cancel := context.WithCancel(ctx)
	a := &prefetcher{s: s, ctx: ctx, cancel: cancel, st: st, until: until, most: chunk}
	s.prefetching.Add(1)
	a.fetchPiece(at, nil)
	return a
}

// Large pieces take less time for each event, and more memory. So the first one is small,
// and all are while many readers are prefetching.
const (
	largeChunk     = 4 * chunk
	fewPrefetching = 8
)

func (a *prefetcher) fetchPiece(at event.ID, buf []byte) {
	if at >= a.until {
		return
	}
	coming, most := make(chan piece, 1), a.most
	a.coming = coming
	go func() { coming <- a.s.readPiece(a.ctx, buf, a.st, at, a.until, most) }()
	if a.most = chunk; a.s.prefetching.Load() <= fewPrefetching {
		a.most = largeChunk
	}
}

// nextPiece returns the next piece and starts to read the one after it, into the buffer of the
// previous piece, which the caller must no longer use.
func (a *prefetcher) nextPiece() piece {
	p := <-a.coming
	a.coming = nil
	if p.err == nil {
		a.fetchPiece(p.next, a.given[:0])
	}
	a.given = p.lines
	return p
}

// stopFetching cancels the current read and waits for it.
func (a *prefetcher) stopFetching() {
	a.cancel()
	a.s.prefetching.Add(-1)
	if a.coming != nil {
		<-a.coming
	}
}

// readPiece reads the next events, at most most, of a range of which the log has everything
// up to until.
func (s *Server) readPiece(ctx context.Context, buf []byte, st *resolvedQuery, at, until event.ID, most int) (p piece) {
	p.lines, p.next, p.err = s.readChunk(ctx, buf, st, at, until, most)
	if p.err == nil && p.next <= at && at < until {
		p.err = fmt.Errorf("the log ends at %s, before %s", at, until)
	}
	return p
}
