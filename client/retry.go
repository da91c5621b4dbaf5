package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"
)

// serverURL returns the URL of the server in use.
func (c *Client) serverURL() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg.Servers[c.current]
}

// recordFailure records that a request to base failed and moves on to the next server,
// unless another goroutine has done so. It returns how long that server asked to wait.
func (c *Client) recordFailure(base string, cause error) (rest time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.cfg.Servers, base)
	var status *StatusError
	if errors.As(cause, &status) && status.RetryAfter > 0 {
		c.resting[i] = time.Now().Add(status.RetryAfter)
	}
	if c.current == i {
		c.current = (i + 1) % len(c.cfg.Servers)
	}
	return max(0, time.Until(c.resting[c.current]))
}

// recordContact records that a server has been reached. From now on a failed connection is
// retried, even the first one of a call.
func (c *Client) recordContact() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reached = true
}

func (c *Client) everReached() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reached
}

// tryServers calls fn with the servers in turn until it succeeds or fails for good.
func (c *Client) tryServers(ctx context.Context, fn func(ctx context.Context, base string) error) error {
	return c.retryWith(ctx, c.newBackoff(), fn)
}

// retryWith is retry with a backoff that fn may reset when it has made progress.
func (c *Client) retryWith(ctx context.Context, b *backoff, fn func(ctx context.Context, base string) error) error {
	if err := c.ensureOneLog(ctx); err != nil {
		return err
	}
	return c.retryEach(ctx, b, fn)
}

// retryEach is retryWith for servers that may serve different logs. As long as no server
// has ever answered the number of attempts is limited, unless Config.Wait is set.
func (c *Client) retryEach(ctx context.Context, b *backoff, fn func(ctx context.Context, base string) error) error {
	for tries := 1; ; tries++ {
		base := c.serverURL()
		err := fn(ctx, base)
		if err == nil || ctx.Err() != nil || permanent(err) {
			return orCause(ctx, err)
		}
		if errors.As(err, new(*ShortenedError)) {
			if b.shortened++; b.shortened >= maxShortened*len(c.cfg.Servers) {
				return err
			}
		}
		if !c.everReached() && !c.cfg.Wait {
			if tries >= c.firstTries(err) {
				return err
			}
			if tries < len(c.cfg.Servers) {
				c.recordFailure(base, err)
				continue // the next one may be up
			}
		}
		if err := c.pauseAfter(ctx, b, base, err); err != nil {
			return err
		}
	}
}

// firstTries is how many attempts a first connection gets: one with each server, or a
// few if the request may have arrived and only the response was lost.
func (c *Client) firstTries(err error) int {
	var unreachable *UnreachableError
	if errors.As(err, &unreachable) && !unreachable.sent {
		return len(c.cfg.Servers)
	}
	return 3 * len(c.cfg.Servers)
}

// orCause returns the cause for which ctx ended, if it has, in place of the error that
// this caused in a request.
func orCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// pauseAfter moves on to the next server and waits before the next attempt. It returns an
// error only if ctx ends or there was no progress for too long.
func (c *Client) pauseAfter(ctx context.Context, b *backoff, base string, cause error) error {
	d := b.nextPause(c.recordFailure(base, cause))
	if most := c.cfg.Timeout; most > 0 {
		left := most - time.Since(b.moved)
		if d >= left {
			if err := waitFor(ctx, max(0, left)); err != nil {
				return err
			}
			return &TimeoutError{After: most, Err: cause}
		}
	}
	c.stats.retries.Add(1)
	c.cfg.OnRetry(cause, d)
	return waitFor(ctx, d)
}

// pauseIdle is pauseAfter when nothing has failed: OnRetry is not called, and the
// server stays.
func (c *Client) pauseIdle(ctx context.Context, b *backoff) error {
	return waitFor(ctx, b.nextPause(0))
}

// A backoff determines the pauses between attempts. Each is twice as long as the last,
// plus a random part of up to half of that, so that a thousand clients of a restarted
// server do not reconnect at once. The jitter is only added, so that a pause is never
// shorter than the server asked.
type backoff struct {
	cfg      *Config
	base     time.Duration // the delay in the stream's retry field, zero if it had none
	failures int
	moved    time.Time // when there was progress last

	shortened int // shortened responses in a row
}

func (c *Client) newBackoff() *backoff { return &backoff{cfg: &c.cfg, moved: time.Now()} }

// maxRetryDelay bounds the delay of a retry field, so that a server's mistake does not
// make a client sleep forever.
const maxRetryDelay = 5 * time.Minute

func (b *backoff) resetPauses() { b.failures, b.shortened, b.moved = 0, 0, time.Now() }

// nextPause returns the next pause. It is no shorter than rest, which a server has
// asked for, nor than the delay in its retry field.
func (b *backoff) nextPause(rest time.Duration) time.Duration {
	d := max(min(b.base, maxRetryDelay), min(b.cfg.RetryMin, b.cfg.RetryMax))
	most := max(d, b.cfg.RetryMax*2/3) // RetryMax, including the longest jitter
	for range b.failures {
		if d *= 2; d >= most {
			d = most
			break
		}
	}
	b.failures++
	return max(d, rest) + rand.N(d/2+1)
}

func waitFor(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
