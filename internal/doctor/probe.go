package doctor

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

const (
	dialTime    = 10 * time.Second // to connect, and again for TLS
	maxHops     = 5                // redirects to follow
	maxHeader   = 64 << 10         // bytes of a response head
	userAgent   = "rstream-doctor"
	gzipAnswers = "gzip"
)

// A probe makes requests. It is not safe for concurrent use.
type probe struct {
	transport *http.Transport
	elsewhere *http.Transport // to other origins
	header    http.Header     // of all requests, but not those to other origins
	most      int64           // bytes of a stream to read
	requests  int
}

func newProbe(cfg *Config) *probe {
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTime}).DialContext
	}
	p := &probe{header: cfg.Header, most: cfg.MaxBytes, transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial,
		TLSClientConfig:        cfg.TLS,
		TLSHandshakeTimeout:    dialTime,
		MaxResponseHeaderBytes: maxHeader,
		ReadBufferSize:         32 << 10,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
	}}
	p.elsewhere = p.transport.Clone()
	if cfg.TLS != nil {
		p.elsewhere.TLSClientConfig.Certificates = nil
	}
	return p
}

// Close closes the idle connections.
func (p *probe) Close() {
	p.transport.CloseIdleConnections()
	p.elsewhere.CloseIdleConnections()
}

// An ask describes one request.
type ask struct {
	url      *url.URL
	accept   string
	encoding string // if empty, none
	cursor   string
	listen   time.Duration // from the start of the request
	// stop is called after each read and ends a stream early. It may be nil.
	stop func(*Transcript, []Frame) bool
	// limit is how many bytes of the body to read. If not positive, only the general
	// limits apply.
	limit int64
}

// errTimeUp is the cause of a request that ends because its listening time is over.
var errTimeUp = errors.New("time is up")

// recordAnswer makes a request and records the response for as long as a.listen.
func (p *probe) recordAnswer(ctx context.Context, a ask) *Transcript {
	t := &Transcript{Began: time.Now(), URL: a.url, Length: -1, most: p.most}
	ctx, cancel := context.WithTimeoutCause(ctx, a.listen, errTimeUp)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
		t.Connected, t.Address = t.elapsed(), c.Conn.RemoteAddr().String()
	}})
	resp, err := p.followRedirects(ctx, a, t)
	if err != nil {
		t.Err, t.Ended = err, t.elapsed()
		return t
	}
	defer resp.Body.Close()
	t.readAnswer(resp, a, func() bool { return ctx.Err() != nil })
	return t
}

// followRedirects makes the request and follows redirects.
func (p *probe) followRedirects(ctx context.Context, a ask, t *Transcript) (*http.Response, error) {
	for at := a.url; ; {
		t.URL, t.Address, t.Connected = at, "", 0 // of the last host only
		req, err := p.buildRequest(ctx, a, at)
		if err != nil {
			return nil, err
		}
		p.requests++
		transport := p.transport
		if !hasSameOrigin(at, a.url) {
			transport = p.elsewhere
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		t.Answered = t.elapsed()
		next, err := resp.Location()
		if err != nil || !isRedirect(resp.StatusCode) {
			return resp, nil
		}
		resp.Body.Close()
		t.Hops = append(t.Hops, shownURL(next))
		if len(t.Hops) > maxHops {
			return nil, fmt.Errorf("stopped after %d redirects", maxHops)
		}
		if next.Scheme != "http" && next.Scheme != "https" {
			return nil, fmt.Errorf("redirected to %s", shortenLine(shownURL(next)))
		}
		at = next
	}
}

// shownURL returns a URL without its user, password and parameters, which may be secret.
func shownURL(u *url.URL) string {
	bare := *u
	bare.User, bare.RawQuery, bare.Fragment, bare.RawFragment = nil, "", "", ""
	if u.RawQuery != "" {
		return bare.String() + "?…"
	}
	return bare.String()
}

func isRedirect(status int) bool {
	return status == 301 || status == 302 || status == 303 || status == 307 || status == 308
}

func (p *probe) buildRequest(ctx context.Context, a ask, at *url.URL) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept", a.accept)
	req.Header.Set("Accept-Encoding", "identity")
	if a.encoding != "" {
		req.Header.Set("Accept-Encoding", a.encoding)
	}
	if a.accept == wire.SSE {
		req.Header.Set("Cache-Control", "no-cache") // as browsers do
	}
	if a.cursor != "" {
		req.Header.Set(wire.HeaderLastEventID, a.cursor)
	}
	if hasSameOrigin(at, a.url) {
		p.addPrivateHeaders(req, a.url.User)
	}
	return req, nil
}

// addPrivateHeaders adds the credentials and headers that only the requested origin may see.
func (p *probe) addPrivateHeaders(req *http.Request, user *url.Userinfo) {
	if user != nil {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	for name, values := range p.header {
		if http.CanonicalHeaderKey(name) == "Host" {
			req.Host = values[0]
			continue
		}
		req.Header[name] = values
	}
}

func hasSameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}

// readAnswer records the response.
func (t *Transcript) readAnswer(resp *http.Response, a ask, done func() bool) {
	t.Proto, t.Status, t.Header, t.Length = resp.Proto, resp.StatusCode, resp.Header, resp.ContentLength
	t.Chunked = len(resp.TransferEncoding) > 0
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		t.TLSUntil = resp.TLS.PeerCertificates[0].NotAfter
	}
	var body io.Reader = resp.Body
	if resp.Header.Get("Content-Encoding") == gzipAnswers {
		body = &gunzip{src: body}
	}
	if a.limit > 0 {
		body = io.LimitReader(body, a.limit)
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if t.IsStream = resp.StatusCode == http.StatusOK && media == wire.SSE; t.IsStream {
		t.record(body, done, a.stop)
		return
	}
	limit := int64(maxBody)
	if media == wire.NDJSON {
		limit = maxStretch
	}
	t.Body, t.Cause = io.ReadAll(io.LimitReader(body, limit))
	t.Ended = t.elapsed()
}

// A gunzip decompresses gzip as it arrives. It reads the gzip header in the first Read,
// so that creating one never blocks.
type gunzip struct {
	src io.Reader
	z   *gzip.Reader
}

func (g *gunzip) Read(p []byte) (n int, err error) {
	if g.z == nil {
		if g.z, err = gzip.NewReader(g.src); err != nil {
			g.z = nil
			return 0, err
		}
	}
	return g.z.Read(p)
}
