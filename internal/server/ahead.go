package server

import (
	"context"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// A reader ahead reads a stretch in chunks, the next while the last one is being
// written. No transaction is open meanwhile but that of the chunk's own reading.
type ahead struct {
	s      *Server
	ctx    context.Context
	cancel context.CancelFunc
	st     *stretch
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

// readAhead begins to read (at, until] of a stretch, if that is not empty. The caller
// must call end.
func (s *Server) readAhead(ctx context.Context, st *stretch, at, until event.ID) *ahead {
	ctx, cancel := context.WithCancel(ctx)
	a := &ahead{s: s, ctx: ctx, cancel: cancel, st: st, until: until}
	a.begin(at, nil)
	return a
}

func (a *ahead) begin(at event.ID, buf []byte) {
	if at >= a.until {
		return
	}
	coming := make(chan piece, 1)
	a.coming = coming
	go func() { coming <- a.s.readPiece(a.ctx, buf, a.st, at, a.until) }()
}

// next returns the next piece and begins to read the one after it, into the buffer of
// the last, with which the caller is done.
func (a *ahead) next() piece {
	p := <-a.coming
	a.coming = nil
	if p.err == nil {
		a.begin(p.next, a.given[:0])
	}
	a.given = p.lines
	return p
}

// end waits for what is being read, which nobody wants any more.
func (a *ahead) end() {
	a.cancel()
	if a.coming != nil {
		<-a.coming
	}
}

// readPiece reads the next events of a stretch that is known to reach until.
func (s *Server) readPiece(ctx context.Context, buf []byte, st *stretch, at, until event.ID) (p piece) {
	p.lines, p.next, p.err = s.readLines(ctx, buf, st, at, until, chunk)
	if p.err == nil && p.next <= at && at < until {
		p.err = fmt.Errorf("the log ends at %s, before %s", at, until)
	}
	return p
}
