package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

const (
	keepTime  = 200 * time.Millisecond // how late a cursor follows its reader
	renewTime = 15 * time.Second       // how often one that stands still is renewed
	leaveTime = 100 * time.Millisecond // how long a signalled program waits to see its reader end, too
	endTime   = 5 * time.Second        // how long the last change of a cursor may take
	drainPoll = 10 * time.Millisecond
)

// A keeper moves a named cursor behind the reader of the output: to what it has taken,
// or, if the system does not tell, to what was written keepTime ago.
//
// It stands between the output and the file, since it counts what is written: lines go
// out whole. A nil keeper keeps nothing.
type keeper struct {
	out    *output
	outlet outlet
	to     *interruptible
	fail   context.CancelCauseFunc
	quit   chan struct{}
	ended  sync.WaitGroup

	// Of the goroutine that prints.
	rest []byte // the beginning of a line whose end has not come
	in   int64  // the offset behind all that came, rest included
	half bool   // half a line of a predecessor stands there still; set before run

	mu     sync.Mutex
	ledger ledger
	long   bool  // a line was begun that does not go out in one piece
	late   int64 // written when the cursor was moved last

	saving sync.Mutex // guards what follows
	cursor *cache.Cursor
	saved  time.Time
	lost   error // why the cursor cannot be moved any more
}

// keep begins to move the cursor, which it lets go in the end, also if it fails. The
// context ends if the cursor cannot be moved, and with parent.
func (a *app) keep(parent context.Context, cursor *cache.Cursor) (*keeper, context.Context, error) {
	ctx, fail := context.WithCancelCause(parent)
	k := &keeper{out: a.out, outlet: newOutlet(a.out.file), fail: fail, cursor: cursor, quit: make(chan struct{}), saved: time.Now()}
	k.to = &interruptible{ctx: ctx, file: a.out.file}
	k.ledger = ledger{back: k.outlet.back(), start: cursor.Position()}
	before := decodeState(cursor.State())
	same := before.Output == k.outlet.id && k.outlet.id != ""
	if same && k.outlet.kept && before.Pipe != nil {
		if l := before.Pipe.ledger(k.outlet.back()); l.position(l.taken) == cursor.Position() {
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

// openOutput waits for a predecessor's bytes to be taken, if there may be some and what they
// are is not known: written again and again, they could come faster than the reader is.
// What a killed predecessor may have left of a line is ended.
func (k *keeper) openOutput(ctx context.Context, wait, cut bool) error {
	if wait && k.outlet.measured {
		if err := k.drain(ctx, true); err != nil {
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

// position returns from where to go on: behind what was written.
func (k *keeper) position() event.ID {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ledger.position(k.ledger.written)
}

// printed says that the line just printed moves the position to at.
func (k *keeper) printed(at event.ID) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ledger.addWritten(k.in+int64(k.out.w.Buffered()), at)
}

// reached says that nothing is to come up to at but what was printed.
func (k *keeper) reached(at event.ID) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ledger.raise(at)
}

// Write takes what the output has buffered and writes the whole lines of it.
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

// writeSome writes as many lines as fit into a piece, or a piece of one that is longer.
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

// beginLong stores, once, that lines are written in pieces: of a process that is killed
// meanwhile, half a line may stand in the outlet, which the next one has to end.
func (k *keeper) beginLong() error {
	k.mu.Lock()
	known := k.long || !k.outlet.mayQueue()
	k.long = true
	k.mu.Unlock()
	if known {
		return nil
	}
	return k.save(true)
}

// keepCursor moves the cursor until the keeper ends.
func (k *keeper) keepCursor() {
	tick := time.NewTicker(keepTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			k.look()
			if err := k.save(false); err != nil {
				k.fail(err)
				return
			}
		case <-k.quit:
			return
		}
	}
}

// look finds out what the reader has taken, and returns how many bytes wait for it, -1
// if that is not known.
//
// All that waits counts as ours, and what was written is looked at first: other writers,
// and a reader that reads in between, can only make the position too low.
func (k *keeper) look() (queued int64) {
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

// save stores the cursor where the last look has seen the reader. now is whether to do so
// even if nothing has changed.
func (k *keeper) save(now bool) error {
	k.saving.Lock()
	defer k.saving.Unlock()
	k.mu.Lock()
	at, state := k.ledger.position(k.ledger.taken), cursorState{Output: k.outlet.id, Cut: k.long || k.half}
	if k.outlet.kept {
		state.Pipe = k.ledger.pipe()
	}
	k.mu.Unlock()
	return k.move(at, state.encode(), now)
}

// move moves the cursor. The caller holds saving.
func (k *keeper) move(at event.ID, state []byte, now bool) error {
	if k.lost != nil {
		return k.lost
	}
	if !now && at == k.cursor.Position() && bytes.Equal(state, k.cursor.State()) && time.Since(k.saved) < renewTime {
		return nil
	}
	// What has ended the program must not end this.
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	k.lost = k.cursor.Move(ctx, at, state)
	k.saved = time.Now()
	return k.lost
}

// drain waits until the reader has taken all that was written or, if empty is set, until
// nothing at all waits for it. It returns errClosedStdout if the reader leaves, and ends
// with ctx. If others write to the same outlet it may never be known, so then it waits a
// few seconds only.
func (k *keeper) drain(ctx context.Context, empty bool) error {
	begun, others := time.Now(), false
	for last := int64(-1); ; {
		queued := k.look()
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

// endOutput stores where the reader is, once err has ended the printing, and lets the cursor
// go. Only an end that no signal asks for waits for the reader.
func (k *keeper) endOutput(ctx context.Context, err error) error {
	if k == nil {
		return err
	}
	gone := errors.Is(err, errClosedStdout)
	if ctx.Err() == nil && !gone && k.failed() == nil {
		k.out.flush() // it says again what err does, if that is an error of writing
		waited := k.drain(ctx, false)
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
	// Whatever else has happened, a cursor that is not where it should be is the news.
	if lost := errors.Join(k.settle(err, gone), k.release()); lost != nil {
		return lost
	}
	return err
}

// failed returns why the cursor cannot be moved any more.
func (k *keeper) failed() error {
	k.saving.Lock()
	defer k.saving.Unlock()
	return k.lost
}

// settle stores the last position. A reader that has gone may have read what it has not
// used.
func (k *keeper) settle(err error, gone bool) error {
	k.look()
	k.mu.Lock()
	k.long = k.ledger.endsWithinLine()
	if !k.outlet.measured && (err == nil || !k.outlet.mayQueue()) {
		k.ledger.takeWritten(k.ledger.written) // it is in the file, or on the screen
	}
	back := k.ledger.position(k.ledger.taken - k.outlet.back())
	k.mu.Unlock()
	if !gone {
		return k.save(true)
	}
	k.saving.Lock()
	defer k.saving.Unlock()
	return k.move(back, nil, true)
}

func (k *keeper) release() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	if err := k.cursor.Release(ctx); err != nil {
		return fmt.Errorf("release the cursor: %w", err)
	}
	return nil
}
