package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

const (
	keepTime  = 200 * time.Millisecond // how far a cursor lags its reader
	renewTime = 15 * time.Second       // how often an unchanged cursor is renewed
	leaveTime = 100 * time.Millisecond // how long a signalled program waits for its reader to end too
	endTime   = 5 * time.Second        // how long the last update of a cursor may take
	drainPoll = 10 * time.Millisecond
)

// A keeper moves a named cursor as the reader of the output advances: to the last line
// that the reader has taken or, if the system does not tell, that was written keepTime
// ago.
//
// It sits between the output and the file to count bytes, and writes whole lines. A nil
// keeper does nothing.
type keeper struct {
	out    *output
	outlet outlet
	to     io.Writer
	fail   context.CancelCauseFunc
	quit   chan struct{}
	ended  sync.WaitGroup

	// Owned by the goroutine that prints.
	rest []byte // the beginning of an incomplete line
	in   int64  // offset of the end of all input, rest included
	half bool   // the output still ends in half a line of a predecessor; set before run

	mu     sync.Mutex
	ledger ledger
	long   bool  // a line has been written in more than one piece
	late   int64 // bytes written when the cursor was last moved

	saving sync.Mutex // guards the fields below
	cursor *cache.Cursor
	saved  time.Time
	lost   error // why the cursor cannot be moved any longer
}

// startKeeper starts to move the cursor, and releases it at the end or if keep fails. The
// returned context ends with parent, and if the cursor cannot be moved.
func (a *app) startKeeper(parent context.Context, cursor *cache.Cursor) (*keeper, context.Context, error) {
	ctx, fail := context.WithCancelCause(parent)
	k := &keeper{out: a.out, outlet: newOutlet(a.out.file), fail: fail, cursor: cursor, quit: make(chan struct{}), saved: time.Now()}
	k.to = &pipeWriter{to: &interruptible{ctx: ctx, file: a.out.file}, around: a.out.pipe.around}
	k.ledger = ledger{back: k.outlet.back(), start: cursor.Position()}
	before := decodeState(cursor.State())
	same := before.Output == k.outlet.id && k.outlet.id != ""
	if same && k.outlet.kept && before.Pipe != nil {
		if l := before.Pipe.ledger(k.outlet.back()); l.positionAt(l.taken) == cursor.Position() {
			k.ledger = l
		}
	}
	k.in = k.ledger.written
	a.out.divert(k)
	if err := k.openOutput(ctx, same && !k.outlet.kept, same && before.Cut || k.outlet.endsInLine()); err != nil {
		return nil, nil, k.endOutput(parent, err)
	}
	k.ended.Go(k.keepCursor)
	return k, ctx, nil
}

// openOutput waits until a predecessor's bytes have been read, if there may be some and
// their lines are not known: otherwise restarts could add lines faster than the reader
// takes them. It ends a partial line that a killed predecessor may have left.
func (k *keeper) openOutput(ctx context.Context, wait, cut bool) error {
	if wait && k.outlet.measured {
		if err := k.awaitReader(ctx, true); err != nil {
			return err
		}
	}
	if !cut {
		return nil
	}
	k.half = true
	if err := errors.Join(k.out.printf("\n"), k.out.flush()); err != nil {
		return err
	}
	k.half = false
	return nil
}

// resumePosition returns the position to resume from: after the last line written.
func (k *keeper) resumePosition() event.ID {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ledger.positionAt(k.ledger.written)
}

// recordPrinted records that the line just printed moves the position to at.
func (k *keeper) recordPrinted(at event.ID) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ledger.addWritten(k.in+int64(k.out.w.Buffered()), at)
}

// recordReached records that nothing more will be printed up to at.
func (k *keeper) recordReached(at event.ID) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ledger.raisePosition(at)
}

// Write writes the whole lines of the output's buffer and keeps the rest.
func (k *keeper) Write(p []byte) (int, error) {
	k.in += int64(len(p))
	k.rest = append(k.rest, p...)
	lines := k.rest[:bytes.LastIndexByte(k.rest, '\n')+1]
	for done := 0; done < len(lines); {
		n, err := k.writeSome(lines[done:])
		if err != nil {
			return 0, err
		}
		done += n
	}
	k.rest = append(k.rest[:0], k.rest[len(lines):]...)
	return len(p), nil
}

// writeSome writes as many lines as fit into one piece, or a piece of a longer line.
func (k *keeper) writeSome(lines []byte) (int, error) {
	piece := lines[:min(len(lines), k.outlet.piece())]
	if end := bytes.LastIndexByte(piece, '\n') + 1; end > 0 {
		piece = piece[:end]
	} else if err := k.beginLong(); err != nil {
		return 0, err
	}
	n, err := k.to.Write(piece)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ledger.written += int64(n)
	return n, err
}

// beginLong stores, once, that a line is written in pieces: if the process is killed,
// half a line may be left in the outlet, and the next process has to end it.
func (k *keeper) beginLong() error {
	k.mu.Lock()
	known := k.long || !k.outlet.mayQueue()
	k.long = true
	k.mu.Unlock()
	if known {
		return nil
	}
	return k.savePosition(true)
}

// keepCursor moves the cursor until the keeper ends.
func (k *keeper) keepCursor() {
	tick := time.NewTicker(keepTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			k.measureReader()
			if err := k.savePosition(false); err != nil {
				k.fail(err)
				return
			}
		case <-k.quit:
			return
		}
	}
}

// measureReader determines how much the reader has taken, and returns how many bytes
// wait for it, -1 if that is not known.
//
// It counts all waiting bytes as ours, and samples the bytes written first: then other
// writers, and a reader that reads in between, can only make the position too low.
func (k *keeper) measureReader() (queued int64) {
	k.mu.Lock()
	written := k.ledger.written
	k.mu.Unlock()
	taken, queued := k.late, int64(-1)
	if k.outlet.measured {
		n, ok := k.outlet.queued()
		if !ok {
			n = written // nothing more is known
		}
		taken, queued = written-n, n
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ledger.takeWritten(taken)
	k.late = written
	return queued
}

// savePosition stores the position of the reader as last seen; with now, even if nothing has
// changed.
func (k *keeper) savePosition(now bool) error {
	k.saving.Lock()
	defer k.saving.Unlock()
	k.mu.Lock()
	at, state := k.ledger.positionAt(k.ledger.taken), cursorState{Output: k.outlet.id, Cut: k.long || k.half}
	if k.outlet.kept {
		state.Pipe = k.ledger.pipe()
	}
	k.mu.Unlock()
	return k.moveCursor(at, state.encodeState(), now)
}

// moveCursor moves the cursor. The caller holds saving.
func (k *keeper) moveCursor(at event.ID, state []byte, now bool) error {
	if k.lost != nil {
		return k.lost
	}
	if !now && at == k.cursor.Position() && bytes.Equal(state, k.cursor.State()) && time.Since(k.saved) < renewTime {
		return nil
	}
	// The signal that ended the program must not abort this.
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	k.lost = k.cursor.Move(ctx, at, state)
	k.saved = time.Now()
	return k.lost
}

// awaitReader waits until the reader has taken everything that was written; with empty,
// until no bytes wait at all. It returns errClosedStdout if the reader leaves, and an
// error if ctx ends. If others write to the same outlet the answer may never be known,
// so it then waits only a few seconds.
func (k *keeper) awaitReader(ctx context.Context, empty bool) error {
	begun, others := time.Now(), false
	for last := int64(-1); ; {
		queued := k.measureReader()
		k.mu.Lock()
		done := queued <= 0 || !empty && k.ledger.taken >= k.ledger.written
		k.mu.Unlock()
		others = others || last >= 0 && queued > last
		last = queued
		switch {
		case done || others && time.Since(begun) > endTime:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case readerLeaves(k.outlet.file, drainPoll):
			return errClosedStdout
		}
	}
}

// endOutput stores the position of the reader after printing has ended with err, and
// releases the cursor. It waits for the reader unless a signal ended the program.
func (k *keeper) endOutput(ctx context.Context, err error) error {
	if k == nil {
		return err
	}
	gone := errors.Is(err, errClosedStdout)
	if ctx.Err() == nil && !gone && k.cursorFailure() == nil {
		k.out.flush() // a write error is in err already
		waited := k.awaitReader(ctx, false)
		gone = errors.Is(waited, errClosedStdout)
		if err == nil {
			err = waited
		}
	}
	close(k.quit)
	k.ended.Wait()
	k.out.divert(nil)
	defer k.fail(nil)
	if !gone && k.outlet.mayQueue() && ctx.Err() != nil {
		gone = readerLeaves(k.outlet.file, leaveTime) // a signal often ends both
	}
	// Whatever else has failed, a cursor at the wrong position matters most.
	if lost := errors.Join(k.saveLast(err, gone), k.releaseCursor()); lost != nil {
		return lost
	}
	return err
}

// cursorFailure returns why the cursor cannot be moved any longer.
func (k *keeper) cursorFailure() error {
	k.saving.Lock()
	defer k.saving.Unlock()
	return k.lost
}

// saveLast stores the last position. A reader that has left may not have processed all
// that it read.
func (k *keeper) saveLast(err error, gone bool) error {
	k.measureReader()
	k.mu.Lock()
	k.long = k.ledger.endsWithinLine()
	if !k.outlet.measured && (err == nil || !k.outlet.mayQueue()) {
		k.ledger.takeWritten(k.ledger.written) // it is in the file, or on the screen
	}
	back := k.ledger.positionAt(k.ledger.taken - k.outlet.back())
	k.mu.Unlock()
	if !gone {
		return k.savePosition(true)
	}
	k.saving.Lock()
	defer k.saving.Unlock()
	return k.moveCursor(back, nil, true)
}

func (k *keeper) releaseCursor() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	if err := k.cursor.Release(ctx); err != nil {
		return fmt.Errorf("release the cursor: %w", err)
	}
	return nil
}
