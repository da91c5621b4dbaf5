package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A serverAnswer is the response of one of the servers.
type serverAnswer struct {
	*http.Response
	base string // of the server
}

// askServers makes a request that changes nothing, of one or several servers, and returns the
// first answer. The caller closes its body.
func (c *Client) askServers(ctx context.Context, method, path string, header http.Header, body []byte) (*serverAnswer, error) {
	r := race[*http.Response]{c: c, drop: closeBody, status: refusedStatus,
		subject: func() string { return subjectOf(path, header.Get("Content-Type"), body) },
		ask: func(ctx context.Context, base string) (*http.Response, error) {
			return c.doRequest(ctx, method, base, path, header, bytes.NewReader(body))
		}}
	a := r.run(ctx)
	if a.err != nil {
		a.release()
		return nil, a.err
	}
	if len(c.cfg.Servers) > 1 {
		a.got.Body = c.newPacedBody(ctx, a.got.Body, a.server, r.subject, a.release)
	}
	return &serverAnswer{a.got, a.base}, nil
}

func closeBody(resp *http.Response) { _ = resp.Body.Close() }

// refusedStatus returns the status of a response that refuses a request, or 0.
func refusedStatus(resp *http.Response) int {
	if resp.StatusCode < http.StatusBadRequest {
		return 0
	}
	return resp.StatusCode
}

// doRequest makes one request of one server and checks that the response is from our log. The
// caller closes the body, which fails after cfg.Idle without a byte.
func (c *Client) doRequest(ctx context.Context, method, base, path string, header http.Header, body io.Reader) (*http.Response, error) {
	traced, sent := traceSent(ctx)
	req, err := http.NewRequestWithContext(traced, method, base+path, body)
	if err != nil {
		return nil, storeError(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	newest, err := c.addHeaders(ctx, base, req.Header)
	if err != nil {
		return nil, err
	}
	c.countRequest(base)
	answered := c.watchSilence(base)
	resp, err := c.http.Do(req)
	answered()
	if err != nil {
		return nil, c.noAnswer(ctx, base, err, sent.Load())
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

// addHeaders adds the header fields of every request: the user agent, those of Config.Header,
// the token and the newest position of the copy, which it also returns.
func (c *Client) addHeaders(ctx context.Context, base string, header http.Header) (cache.Newest, error) {
	header.Set("User-Agent", "rstream")
	maps.Copy(header, c.extraHeaders(base))
	if c.cfg.Token != nil {
		token, err := c.cfg.Token(ctx, base)
		if err != nil {
			return cache.Newest{}, c.noToken(ctx, err)
		}
		if token != "" {
			header.Set("Authorization", "Bearer "+token)
		}
	}
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
	if pause := wire.RetryAfter(resp.Header); pause > 0 && resp.StatusCode >= http.StatusBadRequest {
		c.recordRest(base, pause)
	}
	if err := c.checkAnswer(base, method, resp, newest); err != nil {
		return err
	}
	head, _ := wire.PositionIn(resp.Header, wire.HeaderHead)
	c.recordContact(base, head)
	return c.checkToken(resp)
}

// tokenPatience is how long a Client that was admitted keeps trying with a token that is
// refused: what renews it may be late.
const tokenPatience = 5 * time.Minute

// checkToken returns a StatusError for a response that refuses the token, if another one
// may come. It leaves the first such response of a Client to its caller.
func (c *Client) checkToken(resp *http.Response) error {
	if resp.StatusCode < http.StatusBadRequest {
		c.admitted.Store(true)
		c.refused.Store(0)
		return nil
	}
	if resp.StatusCode != http.StatusUnauthorized || c.cfg.Token == nil || !c.admitted.Load() {
		return nil
	}
	if !c.mayRenew() {
		return nil
	}
	e := readStatus(resp)
	e.late = e.Topic == nil // or no token was sent, and the topic is not public
	return e
}

// mayRenew reports whether another token may come: what renews it is late, but not by
// tokenPatience yet.
func (c *Client) mayRenew() bool {
	now := time.Now()
	c.refused.CompareAndSwap(0, now.UnixNano())
	return now.Sub(time.Unix(0, c.refused.Load())) < tokenPatience
}

// A tokenError is an error of Config.Token. Nothing was sent.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return e.err.Error() }

func (e *tokenError) Unwrap() error { return e.err }

// noToken returns the error of a request for which there is no token. It is final for a
// Client that was never admitted; later, what renews the token may be late.
func (c *Client) noToken(ctx context.Context, err error) error {
	if c.admitted.Load() && ctx.Err() == nil && c.mayRenew() {
		return &tokenError{err}
	}
	return storeError(&tokenError{err})
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
func (c *Client) askEvents(ctx context.Context, params string, header http.Header) (*serverAnswer, error) {
	const path = "/events"
	if !slices.ContainsFunc(c.cfg.Servers, func(base string) bool { return !fitsURL(base+path, params) }) {
		return c.askServers(ctx, http.MethodGet, path+"?"+params, header, nil)
	}
	header.Set("Content-Type", wire.FormData)
	return c.askServers(ctx, http.MethodPost, path, header, []byte(params))
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
