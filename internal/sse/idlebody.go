package sse

import (
	"errors"
	"io"
	"sync"
	"time"
)

// ErrIdle is the error of reads from a connection that was silent for too long.
var ErrIdle = errors.New("silent for too long")

// An IdleBody is a body whose reads fail once one of them has waited for idle without
// receiving a byte. Time between reads does not count: a slow reader says nothing
// about the connection.
type IdleBody struct {
	body io.Reader
	idle time.Duration
	shut func() error // closes body, once

	timers sync.WaitGroup // armed timers that have neither been stopped nor run

	mu    sync.Mutex
	timer *time.Timer
	since time.Time // when the read under way began; zero between reads
	ended error     // why reads fail, once they do
}

// NewIdleBody returns body with reads that fail with ErrIdle after idle without a byte.
func NewIdleBody(body io.ReadCloser, idle time.Duration) *IdleBody {
	return &IdleBody{body: body, idle: idle, shut: sync.OnceValue(body.Close)}
}

func (b *IdleBody) Read(p []byte) (int, error) {
	if err := b.startTimer(); err != nil {
		return 0, err
	}
	n, err := b.body.Read(p)
	// A body that was closed here may fail in any way, including io.EOF.
	if ended := b.endRead(); ended != nil && err != nil {
		err = ended
	}
	return n, err
}

// Close closes the body and waits for the timer function if it is running.
func (b *IdleBody) Close() error {
	b.mu.Lock()
	if b.ended == nil {
		b.ended = ErrClosed
	}
	b.stopTimer()
	b.mu.Unlock()
	err := b.shut()
	b.timers.Wait()
	return err
}

func (b *IdleBody) startTimer() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended != nil {
		return b.ended
	}
	b.timers.Add(1)
	b.since = time.Now()
	if b.timer == nil {
		b.timer = time.AfterFunc(b.idle, b.expireRead)
	} else {
		b.timer.Reset(b.idle)
	}
	return nil
}

func (b *IdleBody) endRead() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.since = time.Time{}
	b.stopTimer()
	return b.ended
}

// stopTimer is called with mu held.
func (b *IdleBody) stopTimer() {
	if b.timer != nil && b.timer.Stop() {
		b.timers.Done()
	}
}

// expireRead runs when the timer fires. It may have fired too late to be stopped, when its
// read is over and another has begun. That read has its own timer.
func (b *IdleBody) expireRead() {
	defer b.timers.Done()
	if b.isOverdue() {
		_ = b.shut()
	}
}

func (b *IdleBody) isOverdue() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended != nil || b.since.IsZero() || time.Since(b.since) < b.idle {
		return false
	}
	b.ended = ErrIdle
	return true
}
