package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

func (c *Client) everReached() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reached
}

// tryServers calls fn, which asks servers, until it succeeds or fails for good.
func (c *Client) tryServers(ctx context.Context, fn func(ctx context.Context) error) error {
	return c.retryWith(ctx, c.newBackoff(), fn)
}

// retryWith is tryServers with a backoff that fn may reset when it has made progress.
func (c *Client) retryWith(ctx context.Context, b *backoff, fn func(ctx context.Context) error) error {
	if err := c.ensureOneLog(ctx); err != nil {
		return err
	}
	return c.retryEach(ctx, b, fn)
}

// retryEach is retryWith for servers that may serve different logs. As long as no server
// has ever answered the number of attempts is limited, unless Config.Wait is set.
func (c *Client) retryEach(ctx context.Context, b *backoff, fn func(ctx context.Context) error) error {
	for tries, hops := 1, 0; ; {
		err := fn(ctx)
		if only, _ := onlyOf(ctx); err == nil || ctx.Err() != nil || only != "" {
			return orCause(ctx, err)
		}
		final := permanent(err)
		if c.leaveServer(err) && (final || hops < maxHops*len(c.cfg.Servers)) {
			hops++
			continue
		}
		if final {
			return err
		}
		if errors.As(err, new(*ShortenedError)) {
			if b.shortened++; b.shortened >= maxShortened*len(c.cfg.Servers) {
				return err
			}
		}
		if !c.everReached() && !c.cfg.Wait && tries >= firstTries(err) {
			return err
		}
		tries, hops = tries+1, 0
		if err := c.pauseAfter(ctx, b, err); err != nil {
			return err
		}
	}
}

// maxHops is how often each server may take over from another one without a pause.
const maxHops = 3

// firstTries is how many attempts with each server a first connection gets: one, or a few
// if the request may have arrived and only the response was lost.
func firstTries(err error) int {
	var unreachable *UnreachableError
	if errors.As(err, &unreachable) && !unreachable.sent {
		return 1
	}
	return 3
}

// orCause returns the cause for which ctx ended, if it has, in place of the error that
// this caused in a request.
func orCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// causeIfEnded returns the cause for which ctx ended if err says, in whatever words, that it has.
func causeIfEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// pauseAfter waits before the next attempt. It returns an error only if ctx ends or there
// was no progress for too long.
func (c *Client) pauseAfter(ctx context.Context, b *backoff, cause error) error {
	d := b.nextPause(c.restTime())
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
