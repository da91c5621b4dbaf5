package sse

import (
	"cmp"
	"io"
	"net/http"
	"strings"
)

// A connection is the transport of one Session. It sends requests that the library
// cannot, and limits the silence of every body, also that of a redirect.
type connection struct {
	base http.RoundTripper
	cfg  *Config

	body   *IdleBody   // of the last response
	stream *normalizer // reads body, once it is accepted as an event stream
}

func newConnection(cfg *Config) *connection { return &connection{cfg: cfg} }

// clientOver returns h with its requests sent over c.
func (c *connection) clientOver(h *http.Client) *http.Client {
	if h == nil {
		h = http.DefaultClient
	}
	over := *h
	if c.base = h.Transport; c.base == nil {
		c.base = http.DefaultTransport
	}
	over.Transport = c
	return &over
}

// RoundTrip sends a request of the library.
func (c *connection) RoundTrip(req *http.Request) (*http.Response, error) {
	if c.cfg.Form != "" && keepsMethod(req) {
		req = asPost(req, c.cfg.Form)
	}
	resp, err := c.base.RoundTrip(req)
	if err != nil || resp == nil {
		return nil, err
	}
	// Transports of tests leave these out, and http.Client tolerates it.
	resp.Request = cmp.Or(resp.Request, req)
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	c.body = NewIdleBody(resp.Body, c.cfg.Idle)
	resp.Body = c.body
	return resp, nil
}

// normalizeBody makes the body of resp an event stream in normal form. It always ends at
// the end of a block, however the connection ends. A redirect's body is never normalized:
// http.Client reads a little of it, and without a blank line would wait for all of it.
func (c *connection) normalizeBody(resp *http.Response) {
	c.stream = newNormalizer(c.body, c.cfg.MaxEvent)
	c.stream.id = append(c.stream.id, c.cfg.Cursor...)
	resp.Body = struct {
		io.Reader
		io.Closer
	}{c.stream, resp.Body}
}

// keepsMethod reports whether all the redirects to req ask for the same method and
// body again. Any other redirect turns a POST into a GET.
func keepsMethod(req *http.Request) bool {
	for r := req.Response; r != nil; r = r.Request.Response {
		if r.StatusCode != http.StatusTemporaryRedirect && r.StatusCode != http.StatusPermanentRedirect {
			return false
		}
	}
	return true
}

// asPost returns req as a POST of form.
func asPost(req *http.Request, form string) *http.Request {
	req = req.Clone(req.Context())
	req.Method = http.MethodPost
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.ContentLength = int64(len(form))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(form)), nil }
	req.Body, _ = req.GetBody()
	return req
}
