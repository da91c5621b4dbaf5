package main

import (
	"context"
	"os"
	"time"
)

// An interruptible writes to a file. Once ctx has ended it waits no more for room there:
// otherwise a program whose reader has stopped could not be ended.
type interruptible struct {
	ctx   context.Context
	file  *os.File
	stuck bool // a write was given up
}

const (
	// waitTime is how long a wait for room lasts before the context is looked at again.
	waitTime = 50 * time.Millisecond
	// graceTime is how long a write may take after the context has ended. It has begun
	// with room for it, so it takes long only if others write there, too.
	graceTime = time.Second
)

// Write is the file's. A write that is given up may still be made, of p as it is then, so
// the caller must leave p alone. It counts as nothing, and so does each one after it.
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
