package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
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

// doRequest makes one request and checks that the response is from our log. The caller
// closes the body, which fails after cfg.Idle without a byte.
func (c *Client) doRequest(ctx context.Context, method, base, path string, header http.Header, body io.Reader) (*http.Response, error) {
	traced, sent := traceSent(ctx)
	req, err := http.NewRequestWithContext(traced, method, base+path, body)
	if err != nil {
		return nil, storeError(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	newest, err := c.addHeaders(ctx, req.Header)
	if err != nil {
		return nil, err
	}
	c.stats.requests.Add(1)
	answered := c.watchSilence(base)
	resp, err := c.http.Do(req)
	answered()
	if err != nil {
		return nil, c.noAnswer(base, err, sent.Load())
	}
	if err := c.checkResponse(base, method, resp, newest); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// traceSent returns a context for a request, and a value that is set once the request
// has been sent.
func traceSent(ctx context.Context) (traced context.Context, sent *atomic.Bool) {
	sent = new(atomic.Bool)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(info httptrace.WroteRequestInfo) { sent.Store(true) },
	}), sent
}

// addHeaders adds the header fields of every request: the user agent and the newest
// position of the copy, which it also returns.
func (c *Client) addHeaders(ctx context.Context, header http.Header) (cache.Newest, error) {
	header.Set("User-Agent", "rstream")
	newest, err := c.newestHeld(ctx)
	if err == nil && newest.Marked.Mark != 0 && header.Get(wire.HeaderHeld) == "" {
		header.Set(wire.HeaderHeld, newest.Marked.Cursor(newest.Log).String())
	}
	return newest, err
}

// checkResponse limits the silence in the body of a response and checks that it is from our
// log.
func (c *Client) checkResponse(base, method string, resp *http.Response, newest cache.Newest) error {
	resp.Body = sse.NewIdleBody(resp.Body, c.longestSilence(resp))
	if err := c.checkAnswer(base, method, resp, newest); err != nil {
		return err
	}
	c.recordContact()
	return nil
}

// longestSilence returns how long the body of resp may bring no byte. A stream is silent
// between heartbeats, so Timeout does not apply to it.
func (c *Client) longestSilence(resp *http.Response) time.Duration {
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if c.cfg.Timeout > 0 && media != wire.SSE {
		return min(c.cfg.Idle, c.cfg.Timeout)
	}
	return c.cfg.Idle
}

// maxURL is the longest URL of a request, in bytes. Proxies, nginx for one, accept request
// lines of up to 8 KiB and answer longer ones with 414.
const maxURL = 4 << 10

// askEvents requests /events with parameters. They are in the URL or, if that would be too
// long, in the body of a POST, which even proxies that do not know QUERY forward.
func (c *Client) askEvents(ctx context.Context, base, params string, header http.Header) (*http.Response, error) {
	const path = "/events"
	if fitsURL(base+path, params) {
		return c.doRequest(ctx, http.MethodGet, base, path+"?"+params, header, nil)
	}
	header.Set("Content-Type", wire.FormData)
	return c.doRequest(ctx, http.MethodPost, base, path, header, strings.NewReader(params))
}

// fitsURL reports whether the URL with parameters is at most maxURL long.
func fitsURL(url, params string) bool { return len(url)+1+len(params) <= maxURL }

// checkAnswer refuses a response that is not from a server of our log, or not to the
// request that was made.
func (c *Client) checkAnswer(base, method string, resp *http.Response, newest cache.Newest) error {
	if wire.LogOf(resp.Header) == "" && fromGateway(resp.StatusCode) {
		return &UnreachableError{URL: base, Err: readStatus(resp)}
	}
	if wire.LogOf(resp.Header) == "" && fromStranger(resp.StatusCode) {
		resp.Body = sse.NewIdleBody(resp.Body, time.Second) // a stranger's body may never end
		return &ProtocolError{base, "is not an rstream server: it answers with " + readStatus(resp).Error()}
	}
	if resp.Request != nil && resp.Request.Method != method {
		return &ProtocolError{base, fmt.Sprintf("redirects a %s to %s; name that server", method, hostOf(resp.Request.URL.String()))}
	}
	err := c.checkLog(base, resp.Header)
	var other *OtherLogError
	if errors.As(err, &other) {
		other.refused = resp.StatusCode == http.StatusConflict
	}
	if err != nil {
		return err
	}
	return checkHistory(base, resp, newest)
}

// fromGateway reports whether status is one that a proxy sends when its server is down.
func fromGateway(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// checkLog refuses a response from another log. A proxy's own error page names none.
func (c *Client) checkLog(base string, h http.Header) error {
	if got, want := wire.LogOf(h), c.logName(); got != "" && want != "" && got != want {
		return &OtherLogError{URL: base, Got: got, Want: want}
	}
	return nil
}

// logName returns the name of the client's log, "" if it is not known.
func (c *Client) logName() string {
	if c.store != nil && c.store.Log() != "" {
		return c.store.Log()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.firstLog
}

// checkIsRstream refuses a 200 that does not come from an rstream server.
func (c *Client) checkIsRstream(base string, h http.Header, mediaType string) error {
	if wire.LogOf(h) == "" {
		return &ProtocolError{base, "is not an rstream server: it does not name its log"}
	}
	got, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || got != mediaType {
		return &ProtocolError{base, fmt.Sprintf("sent the content type %.60q instead of %s", h.Get("Content-Type"), mediaType)}
	}
	return nil
}

// A countingTransport counts the bytes of response bodies.
type countingTransport struct {
	base http.RoundTripper
	n    *atomic.Int64
}

func (t countingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(req)
	if err == nil {
		resp.Body = countedBody{resp.Body, t.n}
	}
	return resp, err
}

// CloseIdleConnections closes those of the base transport. It is called by http.Client.
func (t countingTransport) CloseIdleConnections() {
	if base, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// A countedBody adds the bytes that are read to n.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}
