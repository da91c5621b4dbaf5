package main

import (
	"context"
	"os"
	"time"
)

// An interruptible writes to a file, and stops waiting for room there once ctx has
// ended. Otherwise the program could not be interrupted while its reader has stopped
// reading.
type interruptible struct {
	ctx   context.Context
	file  *os.File
	stuck bool // a write was abandoned
}

const (
	// waitTime is how long to wait for room before checking the context again.
	waitTime = 50 * time.Millisecond
	// graceTime is how long a write may take after the context has ended. The write
	// began with room for it, so it takes long only if others write there too.
	graceTime = time.Second
)

// Write writes p to the file. An abandoned write may still happen later, with the bytes
// that p has then, so the caller must not change p. It counts as zero bytes, as does
// every later write.
func (w *interruptible) Write(p []byte) (int, error) {
	for !w.stuck && !hasRoom(w.file, waitTime) {
		w.stuck = w.ctx.Err() != nil
	}
	if w.stuck {
		return 0, context.Cause(w.ctx)
	}
	var n int
	var err error
	done := make(chan struct{})
	go func() {
		n, err = w.file.Write(p)
		close(done)
	}()
	select {
	case <-done:
		return n, err
	case <-w.ctx.Done():
	}
	select {
	case <-done:
		return n, err
	case <-time.After(graceTime):
		w.stuck = true
		return 0, context.Cause(w.ctx)
	}
}
