package doctor

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A Config configures an examination. Only URL is required.
type Config struct {
	// URL is the URL of a stream, or the root of an rstream server.
	URL *url.URL
	// Topic is the topic to read if URL is the root of an rstream server. The zero
	// Topic is everything.
	Topic event.Topic
	// Header is sent with every request to the origin of URL, and to no other origin.
	Header http.Header
	// TLS says how to check certificates, and which one to send to the origin of URL. If nil,
	// as the system does.
	TLS *tls.Config
	// Listen is how long to listen to the stream. If not positive, 20 seconds, which
	// is a little longer than the usual heartbeat.
	Listen time.Duration
	// MaxBytes bounds how much of a stream is read. If not positive, 64 MiB.
	MaxBytes int64
	// Dial opens connections. If nil, a net.Dialer is used.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// OnFinding is called with each finding as it is made. It may be nil.
	OnFinding func(Finding)
}

// How long the requests after the first one listen.
const (
	answerTime = 10 * time.Second // to a response that is not a stream
	resumeTime = 5 * time.Second  // to a stream that must resume
	glanceTime = 3 * time.Second  // to a stream of which only the beginning matters
)

// An exam is one examination.
type exam struct {
	cfg    Config
	probe  *probe
	report Report
	target *url.URL      // of the stream
	late   time.Duration // how late its head was; later heads may take as long
	root   *Transcript   // the response of an rstream server's root, if it was requested
}

// Examine examines the stream and reports its findings. If ctx is done first, it returns
// the findings so far and the error of ctx.
func Examine(ctx context.Context, cfg Config) (Report, error) {
	if cfg.Listen <= 0 {
		cfg.Listen = 20 * time.Second
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 64 << 20
	}
	e := &exam{cfg: cfg, probe: newProbe(&cfg), target: cfg.URL}
	defer e.probe.Close()
	e.examine(ctx)
	e.report.Requests = e.probe.requests
	return e.report, ctx.Err()
}

func (e *exam) examine(ctx context.Context) {
	if path := e.cfg.URL.Path; path == "" || strings.HasSuffix(path, "/") {
		if !e.findServer(ctx) {
			return
		}
	}
	first := e.recordStream(ctx)
	if ctx.Err() != nil || !e.judgeAnswer(first) {
		return
	}
	e.late = min(first.Answered, answerTime)
	e.addFindings(checkHead(first))
	e.addFindings(checkLength(first)...)
	e.addFindings(checkEncoding(first)...)
	e.addFindings(checkCaching(first), checkProxies(first))
	e.addFindings(checkClock(first)...)
	e.addFindings(checkFormat(first)...)
	e.addFindings(checkBuffered(first))
	e.addFindings(checkHeartbeat(first)...)
	e.addFindings(checkEnd(first))
	e.addFindings(checkIDs(first)...)
	e.addFindings(checkRetry(first)...)
	e.checkReconnects(ctx, first)
	e.tryCompression(ctx, first)
	if first.isOurs() {
		e.examineOurs(ctx, first)
	}
}

func (e *exam) addFindings(all ...Finding) {
	for _, f := range all {
		e.report.Findings = append(e.report.Findings, f)
		e.report.Severity = max(e.report.Severity, f.Severity)
		if e.cfg.OnFinding != nil {
			e.cfg.OnFinding(f)
		}
	}
}

// findServer requests the root. If an rstream server answers, the target becomes the
// stream of the newest events of the topic. It reports whether there was a response.
func (e *exam) findServer(ctx context.Context) bool {
	t := e.probe.recordAnswer(ctx, ask{url: e.cfg.URL, accept: wire.JSON, listen: answerTime,
		stop: func(*Transcript, []Frame) bool { return true }})
	if ctx.Err() != nil {
		return false
	}
	if t.Err != nil && t.Address == "" {
		return e.judgeAnswer(t)
	}
	if _, isInfo := t.serverInfo(); isInfo && t.Status == http.StatusOK && t.isOurs() {
		e.root = t
		e.target = e.urlOf("events")
		topic := e.cfg.Topic
		if topic == (event.Topic{}) {
			topic = event.All
		}
		e.target.RawQuery = url.Values{"topic": {topic.String()}, "last": {newest}}.Encode()
	}
	return true
}

// newest is how many events are requested of an rstream server.
const newest = "100"

// urlOf returns the URL of the name in the server's root.
func (e *exam) urlOf(name string) *url.URL {
	u := *e.cfg.URL
	u.RawQuery, u.Fragment, u.RawPath = "", "", ""
	u.Path = rootOf(e.cfg.URL) + name
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	return &u
}

// recordStream records the stream. An rstream server would send its whole log, so of a log it
// reads only the newest events.
func (e *exam) recordStream(ctx context.Context) *Transcript {
	whole := func(t *Transcript, _ []Frame) bool { return t.isLog() && isUnbounded(t.URL) }
	t := e.probe.recordAnswer(ctx, ask{url: e.target, accept: wire.SSE, listen: e.cfg.Listen, stop: whole})
	if t.IsStream && hasSameOrigin(t.URL, e.target) {
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
	return e.probe.recordAnswer(ctx, ask{url: e.target, accept: wire.SSE, listen: e.cfg.Listen})
}

func isUnbounded(u *url.URL) bool {
	q := u.Query()
	return !q.Has("since") && !q.Has("last") && !q.Has("until")
}

// judgeAnswer adds the findings about the response and reports whether it is a stream.
func (e *exam) judgeAnswer(t *Transcript) bool {
	e.addFindings(checkReach(t))
	if t.Err != nil {
		e.report.Unreachable = len(t.Hops) <= maxHops && !(t.Address != "" && isTimeout(t.Err))
		return false
	}
	e.addFindings(checkRedirects(t, e.cfg.URL)...)
	e.addFindings(checkTLS(t)...)
	e.addFindings(checkStatus(t))
	switch t.Status {
	case http.StatusOK:
		e.addFindings(checkType(t))
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		e.report.Refused = true
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		e.report.Unreachable = true
	}
	return t.IsStream
}

// checkReconnects reconnects twice: with the id of a received event, and with an invalid id.
func (e *exam) checkReconnects(ctx context.Context, first *Transcript) {
	r, can := chooseReturn(first.positions())
	if !can || ctx.Err() != nil {
		return
	}
	t := e.reconnect(ctx, r.id, resumeTime)
	if ctx.Err() == nil {
		e.addFindings(checkResume(r, t))
	}
	if !first.isOurs() && ctx.Err() == nil {
		if t = e.reconnect(ctx, noSuchID, glanceTime); ctx.Err() == nil {
			e.addFindings(checkStrangeID(t, first))
		}
	}
}

// reconnect listens until an event arrives that shows where the stream resumes.
func (e *exam) reconnect(ctx context.Context, id string, listen time.Duration) *Transcript {
	return e.probe.recordAnswer(ctx, ask{url: e.target, accept: wire.SSE, cursor: id, listen: e.late + listen, stop: hasPosition})
}

func hasPosition(_ *Transcript, frames []Frame) bool {
	return slices.ContainsFunc(frames, func(f Frame) bool {
		_, beats := f.heartbeat()
		return f.IsEvent() && f.ID != "" && !beats
	})
}

// tryCompression requests the stream again, with compression.
func (e *exam) tryCompression(ctx context.Context, plain *Transcript) {
	if ctx.Err() != nil || plain.Header.Get("Content-Encoding") != "" {
		return
	}
	t := e.probe.recordAnswer(ctx, ask{url: e.target, accept: wire.SSE, encoding: gzipAnswers, listen: e.late + glanceTime,
		stop: func(_ *Transcript, frames []Frame) bool { return len(frames) > 0 }})
	if ctx.Err() == nil {
		e.addFindings(checkCompression(t, plain))
	}
}
