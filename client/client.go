package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/hub"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// Config configures a Client. Only Servers is required.
type Config struct {
	// Servers are the base URLs of servers of the same log, the preferred one first. A
	// request for events goes to the next one, too, if a server fails, refuses it or does
	// not answer within a second; the first answer wins. An append, too, goes to the next one if a
	// server is silent after it got it: the log takes an event only once.
	Servers []string
	// HTTP makes the requests. If nil, a client with time limits for connections and
	// headers, and none for bodies.
	HTTP *http.Client
	// TLS says how to check the certificates of https:// servers, and which one to send, if
	// HTTP is nil. If nil, as the system does.
	TLS *tls.Config
	// Token returns the token to send to a server, "" for none. It is called before each
	// request, from any goroutine. If nil, none is sent. Redirects to another host do not
	// get it.
	Token func(ctx context.Context, server string) (string, error)
	// Header returns more header fields for the requests to a server, for proxies that want
	// some. It is called before each request, from any goroutine. Fields that the Client sets
	// itself stay as they are, and Token takes the place of Authorization. If nil, there are
	// no more. Redirects to another host do not get them.
	Header func(server string) http.Header
	// Wait keeps trying while no server has been reached yet. If false, the first
	// connection must succeed.
	Wait bool
	// OnRetry is called after each failed attempt, with the pause before the next. It
	// may be called from several goroutines and must not call the Client. If nil,
	// nothing is called.
	OnRetry func(err error, pause time.Duration)
	// OnReconnect is called when the live connection has been made again after it was
	// lost, with the number of events that were fetched to catch up. It may be called
	// from any goroutine and must not call the Client. If nil, nothing is called.
	OnReconnect func(server string, missed int)
	// OnSilence is called once, when a server has not begun to answer within two seconds
	// and none has answered before. The Client keeps waiting. It may be called from any
	// goroutine. If nil, nothing is called.
	OnSilence func(server string)
	// OnAside is called when one of several servers has sent a wrong answer. It is not asked
	// for ten minutes, and the Client continues with the others. It may be called from any
	// goroutine and must not call the Client. If nil, nothing is called.
	OnAside func(server string, cause error)
	// OnLeave is called when one of several servers does not answer, fails or is slow, and another
	// one is asked: once in ten minutes for each server. It may be called from any goroutine and
	// must not call the Client. If nil, nothing is called.
	OnLeave func(server string, cause error)
	// OnProgress is called while Sync fetches events that are not held, and while Verify
	// compares the held ones: when the range is known, and then with each part. It is
	// called by the goroutine that calls Sync or Verify, which waits for it. If nil,
	// nothing is called.
	OnProgress func(SyncProgress)
	// RetryMin and RetryMax bound the pause between attempts. If zero, half a second and
	// 30 seconds. If a server asks for a longer pause, the Client waits that long.
	RetryMin, RetryMax time.Duration
	// Timeout ends a call with a TimeoutError once it has made no progress for this long:
	// no event stored, no append answered, nothing received on an open stream or within a
	// response. It bounds silence, not duration: a server that sends a byte now and then
	// keeps a call waiting, until its context ends. If zero, calls keep trying.
	Timeout time.Duration
	// Idle is how long a connection may be silent, before the response begins as well as
	// within it. If zero, 45 seconds: three heartbeats.
	Idle time.Duration
	// PageLimit is how many events to request at a time. If zero, 5,000.
	PageLimit int
	// Reconcile configures how the Client determines which imported events the log has
	// and which others are missing.
	Reconcile reconcile.Config
	// Newest is the newest position of a copy that another process has open, for a
	// Client without a copy: a server whose log was rolled back to before that position
	// takes nothing. If zero, there is no copy.
	Newest cache.Newest
}

// A SyncProgress reports how far a Sync or a Verify is.
type SyncProgress struct {
	Topic event.Topic
	Span  window.Span // the range that is fetched or compared
	Done  uint64      // events of the range that are held, or that were compared
	Total uint64      // events of the range that the server has; 0 if that is not known yet
	// Reached is the position in the range up to which Sync has fetched events, or Verify
	// has compared them.
	Reached event.ID
}

// ErrNoCopy is the error of calls that need a copy, on a Client without one.
var ErrNoCopy = errors.New("client has no copy")

// A Client keeps a local copy of a remote event stream.
type Client struct {
	// Set once by New.
	store store // nil: nothing is kept
	cfg   Config
	http  *http.Client
	hub   *hub.Hub
	live  liveCursor

	pending pendingWindow
	agreed  agreement

	admitted atomic.Bool  // a server has accepted a request
	refused  atomic.Int64 // when the token was refused first since then, in Unix nanoseconds, or 0

	otherLog atomic.Bool // the store is not bound to a log, and the server's is not the one it knows

	uncounted atomic.Bool // a server does not count the lines of its responses

	stats stats

	noting sync.Mutex
	noted  []cache.ServerNote // guarded by noting: what the copy has been given

	mu      sync.Mutex
	current int           // guarded by mu: the index of the server to ask first
	reached bool          // guarded by mu: some server has answered
	servers []serverState // guarded by mu
	credit  time.Duration // guarded by mu: how long pages may wait for digests

	firstLog string // guarded by mu: the log that several servers serve, "" if not known
	silent   bool   // guarded by mu: OnSilence was called
}

type stats struct{ events, bytes, requests, retries atomic.Int64 }

// Stats counts the traffic of a Client so far.
type Stats struct {
	Events   int64 // events received
	Bytes    int64 // bytes of response bodies received
	Requests int64 // requests made
	Retries  int64 // failed attempts that were repeated
}

// New returns a Client that stores the events it receives in db. If db is nil it stores
// nothing: Put, Info, CheckServers and Stats work, and other calls return ErrNoCopy.
// New returns an error if cfg is invalid. The caller closes the Client first, then db.
func New(db *cache.DB, cfg Config) (*Client, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, err
	}
	if db == nil {
		return newClient(nil, cfg), nil
	}
	return newClient(storeOf(db), cfg), nil
}

// newClient returns a Client with a checked configuration. If st is nil it stores
// nothing.
func newClient(st store, cfg Config) *Client {
	c := &Client{store: st, cfg: cfg, servers: make([]serverState, len(cfg.Servers)), noted: make([]cache.ServerNote, len(cfg.Servers)), pending: newPending(), credit: firstCredit}
	c.live.c, c.live.came = c, newArrival()
	if st != nil {
		c.hub = hub.New(st, event.Beginning, hub.Config{})
	}
	over := http.Client{Transport: sse.NewTransport(cfg.longestWait(), cfg.TLS), CheckRedirect: sse.CheckRedirect}
	if cfg.HTTP != nil {
		over = *cfg.HTTP
	}
	over.CheckRedirect = sse.RedirectPolicy(c.secretHeaders, over.CheckRedirect)
	if over.Transport == nil {
		over.Transport = http.DefaultTransport
	}
	over.Transport = countingTransport{over.Transport, &c.stats.bytes}
	c.http = &over
	return c
}

// extraHeaders returns the fields of Config.Header that the Client does not set itself.
func (c *Client) extraHeaders(server string) http.Header {
	if c.cfg.Header == nil {
		return nil
	}
	extra := http.Header{}
	for name, values := range c.cfg.Header(server) {
		if name = http.CanonicalHeaderKey(name); !wire.IsOwnHeader(name) {
			extra[name] = slices.Clone(values)
		}
	}
	return extra
}

// secretHeaders returns the extra headers of requests that began at a URL.
func (c *Client) secretHeaders(of *url.URL) http.Header {
	for _, base := range c.cfg.Servers {
		if u, err := url.Parse(base); err == nil && u.Host == of.Host && u.Scheme == of.Scheme && strings.HasPrefix(of.Path, u.Path) {
			return c.extraHeaders(base)
		}
	}
	return nil
}

// needCopy returns ErrNoCopy if the Client has no copy.
func (c *Client) needCopy() error {
	if c.store == nil {
		return ErrNoCopy
	}
	return nil
}

func (cfg Config) checked() (Config, error) {
	if len(cfg.Servers) == 0 {
		return cfg, errors.New("client: no server is given")
	}
	servers := make([]string, len(cfg.Servers))
	for i, s := range cfg.Servers {
		u, err := url.Parse(s)
		// The error of url.Parse may quote a part of a password.
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return cfg, fmt.Errorf("client: server %.80q: want a URL such as http://127.0.0.1:8420", publicURL(s))
		}
		if u.RawQuery != "" || u.Fragment != "" {
			return cfg, fmt.Errorf("client: server %.80q: must not have a query or a fragment", publicURL(s))
		}
		if strings.Contains(u.Path, "@") { // or half of a password would be looked up as a host
			return cfg, fmt.Errorf("client: server %.80q: write an @ or / of a password as %%40 or %%2F", publicURL(s))
		}
		servers[i] = strings.TrimSuffix(u.String(), "/")
	}
	cfg.Servers = servers
	for d, otherwise := range map[*time.Duration]time.Duration{
		&cfg.RetryMin: 500 * time.Millisecond, &cfg.RetryMax: 30 * time.Second, &cfg.Idle: 45 * time.Second} {
		if *d < 0 {
			return cfg, errors.New("client: a duration must not be negative")
		}
		if *d == 0 {
			*d = otherwise
		}
	}
	if cfg.Timeout < 0 {
		return cfg, errors.New("client: a duration must not be negative")
	}
	if cfg.PageLimit == 0 {
		cfg.PageLimit = 5000
	}
	if cfg.PageLimit < 1 || cfg.PageLimit > wire.MaxLimit {
		return cfg, fmt.Errorf("client: page limit %d: want 1 to %d", cfg.PageLimit, wire.MaxLimit)
	}
	if cfg.OnRetry == nil {
		cfg.OnRetry = func(error, time.Duration) {}
	}
	if cfg.OnProgress == nil {
		cfg.OnProgress = func(SyncProgress) {}
	}
	if cfg.OnReconnect == nil {
		cfg.OnReconnect = func(string, int) {}
	}
	return cfg, nil
}

// longestWait is how long to wait for a response to begin.
func (cfg *Config) longestWait() time.Duration {
	d := min(cfg.Idle, 30*time.Second)
	if cfg.Timeout > 0 {
		d = min(d, cfg.Timeout)
	}
	return d
}

// Stats returns the traffic so far.
func (c *Client) Stats() Stats {
	return Stats{c.stats.events.Load(), c.stats.bytes.Load(), c.stats.requests.Load(), c.stats.retries.Load()}
}

// Close ends the live cursor and waits for it. Tails that follow it end with ErrClosed.
// Calls with an end of their own, like Sync, go on until they reach it. Closing twice is
// fine.
func (c *Client) Close() {
	c.live.closeCursor()
	c.noteServers()
	c.closeIdle()
}

// closeIdle closes idle connections, unless they belong to the caller.
func (c *Client) closeIdle() {
	if c.cfg.HTTP == nil {
		c.http.CloseIdleConnections()
	}
}
