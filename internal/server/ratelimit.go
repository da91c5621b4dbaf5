package server

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Kinds of limits, for metrics.
const (
	limitedRequests = "requests"
	limitedEvents   = "events"
	limitedBytes    = "bytes"
	limitedStreams  = "streams"
	limitedTokens   = "tokens" // requests with tokens that are not valid
)

// burst is how many seconds of its rate a client may use at once, after a pause.
const burst = 10

// badTokenRate is how many invalid tokens an address may try per second. Each costs the
// verification of a signature.
const badTokenRate = 10

// maxClients is how many clients are remembered before those are forgotten that have used
// nothing for a while.
const maxClients = 10_000

// limits limit the clients of a server.
type limits struct {
	rates wire.Rates

	mu      sync.Mutex
	clients map[string]*clientLimits
}

// clientLimits are what one client has left. Most clients only read: a limiter is made when it is
// first used.
type clientLimits struct {
	requests, events, bytes, badTokens lazyLimiter
	refused                            lazyLimiter // requests that are refused without a valid token
	streams, downloads                 int         // guarded by limits.mu: open ones
}

// A lazyLimiter is a limiter of which all is left until it is used.
type lazyLimiter struct{ atomic.Pointer[rate.Limiter] }

// limiter returns the limiter, which then has a rate and lets through most at once.
func (l *lazyLimiter) limiter(perSecond float64, most int) *rate.Limiter {
	if lim := l.Load(); lim != nil {
		return lim
	}
	l.CompareAndSwap(nil, newLimiter(perSecond, most))
	return l.Load()
}

// isFull reports whether all is left.
func (l *lazyLimiter) isFull(now time.Time) bool {
	lim := l.Load()
	return lim == nil || lim.Limit() == rate.Inf || lim.TokensAt(now) >= float64(lim.Burst())
}

func newLimits(r wire.Rates) *limits { return &limits{rates: r, clients: map[string]*clientLimits{}} }

// of returns the limits of a client.
func (l *limits) of(client string) *clientLimits {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ofLocked(client)
}

func (l *limits) ofLocked(client string) *clientLimits {
	if c := l.clients[client]; c != nil {
		return c
	}
	if len(l.clients) >= maxClients {
		l.forgetIdle()
	}
	c := &clientLimits{}
	l.clients[client] = c
	return c
}

func (l *limits) requestsOf(c *clientLimits) *rate.Limiter {
	return c.requests.limiter(l.rates.Requests, 1)
}

func (l *limits) refusedOf(c *clientLimits) *rate.Limiter {
	return c.refused.limiter(l.rates.Requests, 1)
}

func (l *limits) eventsOf(c *clientLimits) *rate.Limiter {
	return c.events.limiter(l.rates.Events, wire.MaxBatchLen)
}

func (l *limits) bytesOf(c *clientLimits) *rate.Limiter {
	return c.bytes.limiter(l.rates.Bytes, wire.MaxBatch)
}

func (l *limits) badTokensOf(c *clientLimits) *rate.Limiter {
	return c.badTokens.limiter(badTokenRate, 1)
}

// newLimiter returns a limiter that also lets through most at once: the most that one
// request can have.
func newLimiter(perSecond float64, most int) *rate.Limiter {
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(int(perSecond*burst), most))
}

// forgetIdle forgets the clients that have all of their rates left, which is as if they
// were new.
func (l *limits) forgetIdle() {
	now := time.Now()
	for name, c := range l.clients {
		if c.streams == 0 && c.downloads == 0 && c.areFull(now) {
			delete(l.clients, name)
		}
	}
}

// areFull reports whether all of each rate is left.
func (c *clientLimits) areFull(now time.Time) bool {
	for _, l := range []*lazyLimiter{&c.requests, &c.refused, &c.events, &c.bytes, &c.badTokens} {
		if !l.isFull(now) {
			return false
		}
	}
	return true
}

// clientOf names the client of a request: the subject of its token or, without one, its
// address. Addresses of IPv6 share a limit if they are in the same network of 64 bits,
// which is what one customer has.
func (s *Server) clientOf(rec *recorder, r *http.Request) string {
	if g := rec.grant; g != nil && !g.IsPublic() {
		return "subject " + g.Subject
	}
	return s.addressOf(r)
}

// addressOf names the network of a client.
func (s *Server) addressOf(r *http.Request) string {
	if a := s.clientAddr(r); a.Is6() {
		if network, err := a.Prefix(64); err == nil {
			return "address " + network.String()
		}
	}
	return "address " + s.clientHost(r)
}

// take takes n of a limiter, or returns the response to a request that has to wait. It
// takes nothing then.
func (s *Server) take(lim *rate.Limiter, n int, kind string) *wire.Error {
	_, problem := s.reserve(time.Now(), lim, n, kind)
	return problem
}

// reserve is take whose result can give back what was taken.
func (s *Server) reserve(now time.Time, lim *rate.Limiter, n int, kind string) (*rate.Reservation, *wire.Error) {
	res := lim.ReserveN(now, n)
	if wait := res.DelayFrom(now); !res.OK() || wait > 0 {
		res.CancelAt(now)
		return nil, s.limited(kind, wait)
	}
	return res, nil
}

// limited returns the response to a request beyond a limit.
func (s *Server) limited(kind string, wait time.Duration) *wire.Error {
	s.metrics.limited.WithLabelValues(kind).Inc()
	problem := wire.Errorf(http.StatusTooManyRequests, "too many %s; nothing was done", kind)
	problem.RetryAfter = max(wait, time.Second)
	return problem
}

// limitRequest counts a request against its client's rate. One that is refused without a valid token counts
// against a rate of its own, which leaves logins and public reads of the same address alone.
func (s *Server) limitRequest(rec *recorder, r *http.Request) *wire.Error {
	if s.limits == nil || needsNoToken(r) {
		return nil
	}
	rateOf := s.limits.requestsOf
	if problem := rec.problem; problem != nil && rec.grant == nil && s.cfg.Guard != nil && !asksForPage(r) {
		if problem.Status == http.StatusTooManyRequests {
			return nil // it was counted
		}
		rateOf = s.limits.refusedOf
	}
	return s.take(rateOf(s.limits.of(s.clientOf(rec, r))), 1, limitedRequests)
}

// asksForPage reports whether a request is for a page that offers a login to strangers.
func asksForPage(r *http.Request) bool {
	return (isFront(r) || isDashboard(r)) && wire.PrefersHTML(r.Header.Values("Accept"))
}

// limitBadTokens refuses a request with a token from an address that has sent too many
// that were not valid.
func (s *Server) limitBadTokens(r *http.Request) *wire.Error {
	if s.limits == nil {
		return nil
	}
	if s.limits.badTokensOf(s.limits.of(s.addressOf(r))).TokensAt(time.Now()) < 1 {
		return s.limited(limitedTokens, time.Second)
	}
	return nil
}

// noteBadToken counts a token that was not valid.
func (s *Server) noteBadToken(r *http.Request) {
	if s.limits != nil {
		s.limits.badTokensOf(s.limits.of(s.addressOf(r))).Allow()
	}
}

// limitAppend counts drafts against the rates of their client.
func (s *Server) limitAppend(w http.ResponseWriter, r *http.Request, drafts []event.Draft) *wire.Error {
	if s.limits == nil {
		return nil
	}
	size := 0
	for i := range drafts {
		size += len(drafts[i].Value)
	}
	c := s.limits.of(s.clientOf(recorderOf(w), r))
	now := time.Now()
	events, problem := s.reserve(now, s.limits.eventsOf(c), len(drafts), limitedEvents)
	if problem != nil {
		return problem
	}
	if problem = s.take(s.limits.bytesOf(c), size, limitedBytes); problem != nil {
		events.CancelAt(now)
	}
	return problem
}

// openStream counts a stream against the limit of its client, until done.
func (s *Server) openStream(w http.ResponseWriter, r *http.Request) (done func(), problem *wire.Error) {
	return s.takePlace(w, r, func(c *clientLimits) *int { return &c.streams }, 1)
}

// minDownloads is how many responses with events a client may receive at a time, however few streams:
// it has to fetch what its streams do not bring.
const minDownloads = 16

// whileOpen calls send, which writes a response with events. Like a stream, it has memory of its own for
// as long as its reader likes. So a client has as many of them at a time as streams.
func (s *Server) whileOpen(w http.ResponseWriter, r *http.Request, send func() *wire.Error) *wire.Error {
	done, problem := s.takePlace(w, r, func(c *clientLimits) *int { return &c.downloads }, minDownloads)
	if problem != nil {
		return problem
	}
	defer done()
	return send()
}

// asDownload wraps a handler whose whole response is as long as one with events.
func (s *Server) asDownload(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) *wire.Error {
		return s.whileOpen(w, r, func() *wire.Error { return h(w, r) })
	}
}

// takePlace increases one of the counts of a client, until done, unless there are as many as streams
// may be open, and least.
func (s *Server) takePlace(w http.ResponseWriter, r *http.Request, countOf func(*clientLimits) *int, least int) (done func(), problem *wire.Error) {
	l := s.limits
	if l == nil || l.rates.Streams <= 0 {
		return func() {}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := countOf(l.ofLocked(s.clientOf(recorderOf(w), r)))
	if *n >= max(l.rates.Streams, least) {
		return nil, s.limited(limitedStreams, time.Second)
	}
	*n++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		*n--
	}, nil
}
