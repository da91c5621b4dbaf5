package doctor

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A Config says what to examine. URL must be set.
type Config struct {
	// URL is that of a stream, or the root of an rstream server.
	URL *url.URL
	// Topic is what is read of an rstream server whose root URL is. The zero Topic is
	// everything.
	Topic event.Topic
	// Header goes with every request, but not to another origin.
	Header http.Header
	// Listen is how long to listen to the stream. If not positive, 20 seconds, which
	// is a heartbeat and a bit.
	Listen time.Duration
	// MaxBytes is how much of a stream is read. If not positive, 64 MiB.
	MaxBytes int64
	// Dial makes connections. If nil, a net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// OnFinding is called with each finding as soon as it is known. It may be nil.
	OnFinding func(Finding)
}

// How long the requests besides the first listen.
const (
	answerTime = 10 * time.Second // to an answer that is no stream
	resumeTime = 5 * time.Second  // to a stream that must go on
	glanceTime = 3 * time.Second  // to one of which the beginning is enough
)

// An exam is one examination.
type exam struct {
	cfg    Config
	probe  *probe
	report Report
	target *url.URL      // of the stream
	late   time.Duration // how late its head was, and those of other streams may be
	root   *Transcript   // of an rstream server, if it is one and was asked
}

// Examine listens to the stream and says all that it finds. It returns the error of ctx
// if that is done before the end, with what was found until then.
func Examine(ctx context.Context, cfg Config) (Report, error) {
	if cfg.Listen <= 0 {
		cfg.Listen = 20 * time.Second
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 64 << 20
	}
	e := &exam{cfg: cfg, probe: newProbe(&cfg), target: cfg.URL}
	defer e.probe.Close()
	e.run(ctx)
	e.report.Requests = e.probe.requests
	return e.report, ctx.Err()
}

func (e *exam) run(ctx context.Context) {
	if path := e.cfg.URL.Path; path == "" || strings.HasSuffix(path, "/") {
		if !e.findServer(ctx) {
			return
		}
	}
	first := e.listen(ctx)
	if ctx.Err() != nil || !e.answered(first) {
		return
	}
	e.late = min(first.Answered, answerTime)
	e.found(checkHead(first))
	e.found(checkLength(first)...)
	e.found(checkEncoding(first)...)
	e.found(checkCaching(first), checkProxies(first))
	e.found(checkClock(first)...)
	e.found(checkFormat(first)...)
	e.found(checkBuffered(first))
	e.found(checkHeartbeat(first)...)
	e.found(checkEnd(first))
	e.found(checkIDs(first)...)
	e.found(checkRetry(first)...)
	e.comeBack(ctx, first)
	e.compress(ctx, first)
	if first.isOurs() {
		e.examineOurs(ctx, first)
	}
}

func (e *exam) found(all ...Finding) {
	for _, f := range all {
		e.report.Findings = append(e.report.Findings, f)
		e.report.Severity = max(e.report.Severity, f.Severity)
		if e.cfg.OnFinding != nil {
			e.cfg.OnFinding(f)
		}
	}
}

// findServer asks what is at the root. If it is an rstream server, the stream is the
// newest events of the topic. It reports whether anyone answered.
func (e *exam) findServer(ctx context.Context) bool {
	t := e.probe.do(ctx, ask{url: e.cfg.URL, accept: wire.JSON, listen: answerTime,
		stop: func(*Transcript, []Frame) bool { return true }})
	if ctx.Err() != nil {
		return false
	}
	if t.Err != nil && t.Address == "" {
		return e.answered(t)
	}
	if t.Err == nil && t.Status == http.StatusOK && t.isOurs() {
		e.root = t
		e.target = e.at("events")
		topic := e.cfg.Topic
		if topic == (event.Topic{}) {
			topic = event.All
		}
		e.target.RawQuery = url.Values{"topic": {topic.String()}, "last": {newest}}.Encode()
	}
	return true
}

// newest is how many events of our own servers are enough.
const newest = "100"

// at returns the URL of something beside the root of the server.
func (e *exam) at(name string) *url.URL {
	u := *e.cfg.URL
	u.RawQuery, u.Fragment, u.RawPath = "", "", ""
	u.Path = u.Path[:strings.LastIndex(u.Path, "/")+1] + name
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	return &u
}

// listen records the stream. All of an rstream log is not wanted: its newest events are
// enough.
func (e *exam) listen(ctx context.Context) *Transcript {
	whole := func(t *Transcript, _ []Frame) bool { return t.isOurs() && isUnbounded(t.URL) }
	t := e.probe.do(ctx, ask{url: e.target, accept: wire.SSE, listen: e.cfg.Listen, stop: whole})
	if t.IsStream && sameOrigin(t.URL, e.target) {
		target := *t.URL // no redirect is followed twice
		target.User = e.target.User
		e.target = &target
	}
	if ctx.Err() != nil || !t.IsStream || !whole(t, nil) {
		return t
	}
	target, q := *e.target, e.target.Query()
	q.Set("last", newest)
	target.RawQuery = q.Encode()
	e.target = &target
	return e.probe.do(ctx, ask{url: e.target, accept: wire.SSE, listen: e.cfg.Listen})
}

func isUnbounded(u *url.URL) bool {
	q := u.Query()
	return !q.Has("since") && !q.Has("last") && !q.Has("until")
}

// answered says how the request was answered and reports whether there is a stream.
func (e *exam) answered(t *Transcript) bool {
	e.found(checkReach(t))
	if t.Err != nil {
		e.report.Unreachable = len(t.Hops) <= maxHops && !(t.Address != "" && isTimeout(t.Err))
		return false
	}
	e.found(checkRedirects(t, e.cfg.URL)...)
	e.found(checkTLS(t)...)
	e.found(checkStatus(t))
	switch t.Status {
	case http.StatusOK:
		e.found(checkType(t))
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		e.report.Refused = true
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		e.report.Unreachable = true
	}
	return t.IsStream
}

// comeBack reconnects twice: with the id of an event that came, and with one that cannot
// be.
func (e *exam) comeBack(ctx context.Context, first *Transcript) {
	r, can := comeBack(first.places())
	if !can || ctx.Err() != nil {
		return
	}
	t := e.reconnect(ctx, r.id, resumeTime)
	if ctx.Err() == nil {
		e.found(checkResume(r, t))
	}
	if !first.isOurs() && ctx.Err() == nil {
		if t = e.reconnect(ctx, noSuchID, glanceTime); ctx.Err() == nil {
			e.found(checkStrangeID(t, first))
		}
	}
}

// reconnect listens until one event has come.
func (e *exam) reconnect(ctx context.Context, id string, listen time.Duration) *Transcript {
	return e.probe.do(ctx, ask{url: e.target, accept: wire.SSE, cursor: id, listen: e.late + listen, stop: hasEvent})
}

func hasEvent(_ *Transcript, frames []Frame) bool {
	return slices.ContainsFunc(frames, func(f Frame) bool { return f.IsEvent() })
}

// compress asks for the stream once more, compressed.
func (e *exam) compress(ctx context.Context, plain *Transcript) {
	if ctx.Err() != nil || plain.Header.Get("Content-Encoding") != "" {
		return
	}
	t := e.probe.do(ctx, ask{url: e.target, accept: wire.SSE, encoding: gzipAnswers, listen: e.late + glanceTime,
		stop: func(_ *Transcript, frames []Frame) bool { return len(frames) > 0 }})
	if ctx.Err() == nil {
		e.found(checkCompression(t, plain))
	}
}
