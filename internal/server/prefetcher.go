package server

import (
	"context"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// A prefetcher reads a stretch in chunks, the next while the last one is being
// written. No transaction is open meanwhile but that of the chunk's own reading.
type prefetcher struct {
	s      *Server
	ctx    context.Context
	cancel context.CancelFunc
	st     *resolvedQuery
	until  event.ID
	coming chan piece // nil: nothing is being read
	given  []byte     // the lines that next has returned
}

// A piece is some events as their reader wants them, with all up to next. The lines
// are valid until the next one is asked for.
type piece struct {
	lines []byte
	next  event.ID
	err   error
}

// prefetch begins to read (at, until] of a stretch, if that is not empty. The caller
// must call end.
func (s *Server) prefetch(ctx context.Context, st *resolvedQuery, at, until event.ID) *prefetcher {
	ctx, cancel := context.WithCancel(ctx)
	a := &prefetcher{s: s, ctx: ctx, cancel: cancel, st: st, until: until}
	a.fetchPiece(at, nil)
	return a
}

func (a *prefetcher) fetchPiece(at event.ID, buf []byte) {
	if at >= a.until {
		return
	}
	coming := make(chan piece, 1)
	a.coming = coming
	go func() { coming <- a.s.readPiece(a.ctx, buf, a.st, at, a.until) }()
}

// nextPiece returns the next piece and begins to read the one after it, into the buffer of
// the last, with which the caller is done.
func (a *prefetcher) nextPiece() piece {
	p := <-a.coming
	a.coming = nil
	if p.err == nil {
		a.fetchPiece(p.next, a.given[:0])
	}
	a.given = p.lines
	return p
}

// stopFetching waits for what is being read, which nobody wants any more.
func (a *prefetcher) stopFetching() {
	a.cancel()
	if a.coming != nil {
		<-a.coming
	}
}

// readPiece reads the next events of a stretch that is known to reach until.
func (s *Server) readPiece(ctx context.Context, buf []byte, st *resolvedQuery, at, until event.ID) (p piece) {
	p.lines, p.next, p.err = s.readChunk(ctx, buf, st, at, until, chunk)
	if p.err == nil && p.next <= at && at < until {
		p.err = fmt.Errorf("the log ends at %s, before %s", at, until)
	}
	return p
}
