package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

// A Peer is another server that may have a room: a board to which this one reports.
type Peer struct {
	URL string
	// HTTP makes the requests. It follows no redirects.
	HTTP *http.Client
	// Header has the headers of all requests, such as those that a proxy asks for. They are sent
	// with the requests of anybody, so they must be no credentials for what the peer serves.
	Header http.Header
}

// peerWait is how long another server may take to begin its answer.
const peerWait = 2 * time.Second

// newNodeClient returns the client that asks the nodes of the board. Their addresses come from
// reports.
func newNodeClient(secure *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: peerWait}).DialContext, TLSClientConfig: secure, TLSHandshakeTimeout: peerWait, ResponseHeaderTimeout: peerWait,
			MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: 90 * time.Second, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// askPeer asks another server for the room of r, with the token of the request and never with one of
// this server. It returns neither a response nor an error if that has no such room for the bearer, and
// an error if nobody knows.
func (s *Server) askPeer(w http.ResponseWriter, r *http.Request, peer *Peer, ask string) (*http.Response, error) {
	token := s.tokenFor(w, r)
	if token != "" && !isPrivate(peer.URL) {
		s.peerTroubles.tell(s.cfg.Logger, peer.URL, "a room is not asked for without TLS", nil)
		return nil, nil
	}
	resp, err := s.requestRoom(r, peer, ask, token)
	if err == nil {
		err = checkAnswer(resp)
	}
	if err != nil && r.Context().Err() != nil {
		return nil, err // the client is gone
	}
	if err != nil {
		s.peerTroubles.tell(s.cfg.Logger, peer.URL, "no answer about a room", err)
		return nil, err
	}
	s.peerTroubles.tell(s.cfg.Logger, peer.URL, "", nil)
	if !isRoom(resp) {
		_ = resp.Body.Close()
		return nil, nil
	}
	return resp, nil
}

// requestRoom sends the request for the room of r to another server.
func (s *Server) requestRoom(r *http.Request, peer *Peer, ask, token string) (*http.Response, error) {
	target := peer.URL + rawPath(r)
	if r.URL.RawQuery != "" {
		target += "?" + r.URL.RawQuery
	}
	ctx, cancel := context.WithCancel(r.Context())
	req, err := http.NewRequestWithContext(ctx, r.Method, target, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("User-Agent", "rstream")
	maps.Copy(req.Header, peer.Header)
	for _, name := range []string{"Accept", wire.HeaderLastEventID} {
		if values := r.Header.Values(name); len(values) > 0 {
			req.Header[name] = values
		}
	}
	req.Header.Set(wire.HeaderAsk, ask)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := peer.HTTP.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &endedBody{resp.Body, cancel}
	return resp, nil
}

// checkAnswer returns an error, and closes the body, if a response does not say whether the other
// server has the room. A refusal by an rstream server says that it has none for this bearer; one by a
// proxy says nothing.
func checkAnswer(resp *http.Response) (err error) {
	status := resp.StatusCode
	isRefusal := status >= http.StatusBadRequest && status < http.StatusInternalServerError
	switch status {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusTooEarly:
		isRefusal = false
	}
	switch {
	case status < http.StatusMultipleChoices && !isRoom(resp):
		err = errors.New("the answer is not one of an rstream server")
	case status >= http.StatusMultipleChoices && (!isRefusal || wire.LogOf(resp.Header) == ""):
		err = fmt.Errorf("the answer is %d", status)
	}
	if err != nil {
		_ = resp.Body.Close()
	}
	return err
}

// isRoom reports whether a response is a room. No other type is passed on: HTML would be a page of
// this server's origin.
func isRoom(resp *http.Response) bool {
	switch {
	case wire.LogOf(resp.Header) == "", resp.Header.Get("Content-Encoding") != "":
		return false
	case resp.StatusCode == http.StatusNoContent:
		return true
	}
	kind := resp.Header.Get("Content-Type")
	return resp.StatusCode == http.StatusOK && (kind == wire.JSON || kind == wire.SSE)
}

// peerTroubles are the last failures of other servers by URL, so that each is logged once.
type peerTroubles struct {
	mu   sync.Mutex
	said map[string]string
}

// maxTroubles bounds the failures that are kept: the URLs of nodes come from reports.
const maxTroubles = 1000

// tell logs what is wrong with the server at a URL, unless that was logged last. If trouble is "",
// nothing is wrong any more.
func (p *peerTroubles) tell(logger *slog.Logger, at, trouble string, err error) {
	args := []any{"url", wire.RedactURL(at)}
	said := trouble
	if err != nil {
		var of *url.Error // its text has the topic
		if errors.As(err, &of) {
			err = of.Err
		}
		text := wire.Redact(wire.SteadyText(err))
		said, args = said+": "+text, append(args, "error", text)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.said[at] == said {
		return
	}
	if trouble == "" {
		delete(p.said, at)
		return
	}
	if p.said == nil || len(p.said) >= maxTroubles {
		p.said = map[string]string{}
	}
	p.said[at] = said
	logger.Warn(trouble, args...)
}

// An endedBody ends its request when it is closed, also while it is read.
type endedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *endedBody) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}

// tokenFor returns the token of a request that was admitted with it.
func (s *Server) tokenFor(w http.ResponseWriter, r *http.Request) string {
	rec := recorderOf(w)
	if rec.grant == nil || rec.grant.IsPublic() {
		return ""
	}
	token, _ := bearerToken(r)
	if rec.byCookie {
		token, _ = s.cookieToken(r)
	}
	return token
}

// isPrivate reports whether nobody on the way to a URL can read a token.
func isPrivate(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "https" {
		return err == nil
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
}
