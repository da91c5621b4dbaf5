package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/hub"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// Config says whom to ask and how patiently. The zero Config but for Servers
// works.
type Config struct {
	// Servers are the base URLs of servers of the same log. The next one is
	// asked when one fails.
	Servers []string
	// HTTP makes the requests. If nil, a client with time limits for
	// connecting and for headers, and none for bodies.
	HTTP *http.Client
	// Wait keeps trying when no server can be reached at first. Otherwise the
	// first connection must succeed.
	Wait bool
	// OnRetry is told of each failed attempt and of the pause before the next.
	// It may be called from several goroutines, and must not call the Client.
	OnRetry func(err error, pause time.Duration)
	// OnSilence is called once if a server, and none before it, has not begun to answer
	// after two seconds. The Client goes on waiting. It may be called from any goroutine.
	// If nil, nothing is called.
	OnSilence func(server string)
	// RetryMin and RetryMax bound the pause between attempts. If zero, half a
	// second and 30 seconds. A server that asks for a longer one gets it.
	RetryMin, RetryMax time.Duration
	// Timeout ends a call with a TimeoutError once it has made no progress for so long:
	// no event stored, no append answered, nothing heard of a stream that was open. If
	// zero, calls keep trying.
	Timeout time.Duration
	// Idle is the longest silence of a connection, before the answer begins as
	// well as in it. If zero, 45 seconds: three heartbeats.
	Idle time.Duration
	// PageLimit is how many events are asked for at a time. If zero, 5,000.
	PageLimit int
	// Reconcile says how it is found out which of the events that were imported the
	// log has, and what is missing besides them.
	Reconcile reconcile.Config
	// Newest is how far a copy is that somebody else has open, for a Client without
	// one: a server whose log was put back to before it takes nothing. The zero Newest
	// means that there is no copy.
	Newest cache.Newest
}

// ErrNoCopy is the error of what cannot be done without a copy.
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

	otherLog atomic.Bool // of a store that belongs to any log: the server's is not the one that it knows

	uncounted atomic.Bool // a server does not count the lines of its answers

	stats stats

	mu      sync.Mutex
	current int         // guarded by mu: the server that is asked
	reached bool        // guarded by mu: some server has answered
	resting []time.Time // guarded by mu: until when each server wants to be left alone

	firstLog string // guarded by mu: what several servers serve, "" if that is not known
	silent   bool   // guarded by mu: OnSilence was called
}

type stats struct{ events, bytes, requests, retries atomic.Int64 }

// Stats says what a Client has received so far.
type Stats struct {
	Events   int64 // events received
	Bytes    int64 // bytes of response bodies received
	Requests int64 // requests made
	Retries  int64 // attempts that failed and were made again
}

// New returns a client that keeps in db what it receives. If db is nil it keeps nothing:
// Put, Info, CheckServers and Stats work, and all else is ErrNoCopy. The caller
// closes the Client first, then db.
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

// newClient returns a client with a configuration that was checked. If st is nil it
// keeps nothing.
func newClient(st store, cfg Config) *Client {
	c := &Client{store: st, cfg: cfg, resting: make([]time.Time, len(cfg.Servers)), pending: newPending()}
	c.live.c = c
	if st != nil {
		c.hub = hub.New(patient{st}, event.Beginning, hub.Config{})
	}
	over := http.Client{Transport: newTransport(cfg.longestWait())}
	if cfg.HTTP != nil {
		over = *cfg.HTTP
	}
	if over.Transport == nil {
		over.Transport = http.DefaultTransport
	}
	over.Transport = countingTransport{over.Transport, &c.stats.bytes}
	c.http = &over
	return c
}

// needCopy returns ErrNoCopy if nothing can be kept.
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
		// What url.Parse says is wrong may be a part of a password.
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return cfg, fmt.Errorf("client: server %.80q: want a URL such as http://127.0.0.1:8420", public(s))
		}
		if u.RawQuery != "" || u.Fragment != "" {
			return cfg, fmt.Errorf("client: server %.80q: must not have a query or a fragment", public(s))
		}
		if strings.Contains(u.Path, "@") { // or half of a password would be a host and be looked up
			return cfg, fmt.Errorf("client: server %.80q: write an @ or / of a password as %%40 or %%2F", public(s))
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
	return cfg, nil
}

// longestWait is how long to wait for an answer to begin.
func (cfg *Config) longestWait() time.Duration {
	d := min(cfg.Idle, 30*time.Second)
	if cfg.Timeout > 0 {
		d = min(d, cfg.Timeout)
	}
	return d
}

// newTransport returns a transport that waits so long for an answer to begin: what
// begins is watched by an sse.IdleBody.
func newTransport(answer time.Duration) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: min(answer, 10*time.Second), KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:    min(answer, 10*time.Second),
		ResponseHeaderTimeout:  answer,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    4,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
	}
}

// Stats returns what has been received so far.
func (c *Client) Stats() Stats {
	return Stats{c.stats.events.Load(), c.stats.bytes.Load(), c.stats.requests.Load(), c.stats.retries.Load()}
}

// Close ends the live cursor and waits for it; the tails that follow it end with
// ErrClosed. What has an end of its own goes on to it. Closing twice is fine.
func (c *Client) Close() {
	c.live.close()
	c.closeIdle()
}

// closeIdle closes connections that wait for a next request, unless they belong to
// the caller.
func (c *Client) closeIdle() {
	if c.cfg.HTTP == nil {
		c.http.CloseIdleConnections()
	}
}

// patient is the store as a hub's Source: where nothing is held yet it says
// "nothing yet" and not "never", since somebody is about to fetch it.
type patient struct{ store hub.Source }

func (p patient) Read(ctx context.Context, topics []event.Topic, after, until event.ID, limit int) ([]event.Event, event.ID, error) {
	evs, next, err := p.store.Read(ctx, topics, after, until, limit)
	var hole *window.NotHeldError
	if errors.As(err, &hole) {
		return nil, after, nil
	}
	return evs, next, err
}
