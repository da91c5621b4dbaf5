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
	if a.coming != nil {
		<-a.coming
	}
}

// readPiece reads the next events of a range of which the log has everything up to until.
func (s *Server) readPiece(ctx context.Context, buf []byte, st *resolvedQuery, at, until event.ID) (p piece) {
	p.lines, p.next, p.err = s.readChunk(ctx, buf, st, at, until, chunk)
	if p.err == nil && p.next <= at && at < until {
		p.err = fmt.Errorf("the log ends at %s, before %s", at, until)
	}
	return p
}
