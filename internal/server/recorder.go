package server

import (
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A recorder records the response to a request, for the metrics and the log.
type recorder struct {
	http.ResponseWriter
	s        *Server
	began    time.Time
	bodiless bool // of a HEAD request: the body is not sent
	status   int  // 0 if nothing was written
	problem  *wire.Error
	stream   stream // the stream that sends the body, or nil

	grant    *auth.Grant // what the token of the request allows; nil without a Guard
	ruled    bool        // the request was found to be allowed
	byCookie bool        // the token came in a cookie

	bytes   int64    // bytes of the body as sent
	counted int64    // bytes that delivered has counted
	to      delivery // zero if the body has no events

	held int64 // bytes of the request's body that count as held
}

// A stream sends the body of a response after its headers.
type stream interface{ runStream() }

// recorderOf returns the recorder of w.
func recorderOf(w http.ResponseWriter) *recorder {
	for {
		if rec, ok := w.(*recorder); ok {
			return rec
		}
		w = w.(interface{ Unwrap() http.ResponseWriter }).Unwrap()
	}
}

// WriteHeader records the first final status.
func (rec *recorder) WriteHeader(status int) {
	rec.mustBeRuled(status)
	if rec.status == 0 && status >= http.StatusOK {
		rec.status = status
		rec.releaseBody()
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *recorder) Write(b []byte) (int, error) {
	if rec.status == 0 {
		rec.mustBeRuled(http.StatusOK)
		rec.status = http.StatusOK
		rec.releaseBody()
	}
	n, err := rec.ResponseWriter.Write(b)
	if !rec.bodiless {
		rec.bytes += int64(n)
	}
	return n, err
}

// mustBeRuled aborts a response to a request that no rule has allowed: a handler has
// forgotten to ask.
func (rec *recorder) mustBeRuled(status int) {
	if !rec.ruled && status < http.StatusBadRequest && rec.problem == nil {
		rec.s.cfg.Logger.Error("no rule allows the request; the response was aborted")
		panic(http.ErrAbortHandler)
	}
}

// releaseBody releases the held bytes of the request's body.
func (rec *recorder) releaseBody() {
	rec.s.holding.Add(-rec.held)
	rec.held = 0
}

// Unwrap implements the interface of http.ResponseController.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

// delivered counts events that were written, and the bytes sent since the last call.
func (rec *recorder) delivered(events int) {
	if rec.bodiless {
		return
	}
	if rec.to.events == nil {
		h := rec.Header()
		rec.to = rec.s.metrics.deliveries(h.Get("Content-Type"), h.Get("Content-Encoding"))
	}
	rec.to.events.Add(float64(events))
	rec.to.bytes.Add(float64(rec.bytes - rec.counted))
	rec.counted = rec.bytes
}

// statusLeft is the status in metrics and logs of a response that no client received,
// because it was gone. Other servers use the same number.
const statusLeft = 499

// observe counts and logs a finished request.
func (s *Server) observe(rec *recorder, r *http.Request) {
	rec.releaseBody()
	status := rec.status
	if status == 0 {
		status = http.StatusOK
	}
	if status >= http.StatusInternalServerError && r.Context().Err() != nil {
		rec.problem, status = nil, statusLeft // the client left; nothing else failed
	}
	if rec.to.events != nil {
		rec.delivered(0) // the last bytes of the encoder
	}
	took := time.Since(rec.began)
	route, method := routeOf(rawPath(r)), methodOf(r.Method)
	s.metrics.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	if rec.Header().Get("Content-Type") != wire.SSE {
		s.metrics.durations.WithLabelValues(route, method).Observe(took.Seconds())
	}
	level, said, others := slog.LevelDebug, "request", int64(0)
	if e := rec.problem; e != nil {
		s.metrics.problems.WithLabelValues(e.Title).Inc()
		if level = slog.LevelWarn; status < http.StatusInternalServerError {
			said = "request refused"
		}
		switch {
		case status == http.StatusMisdirectedRequest:
			level = slog.LevelDebug // status asks every server for its sources
		case status == http.StatusTooManyRequests && (rec.grant == nil || rec.grant.IsPublic()):
			level, others = s.busyLevel(time.Now())
		}
	}
	if !s.cfg.Logger.Enabled(r.Context(), level) {
		return
	}
	args := append([]any{"method", loggedText(r.Method, maxLogged), "path", loggedText(r.URL.Path, maxLogged), "status", status, "bytes", rec.bytes, "took_ms", milliseconds(took)}, rec.clientArgs(r)...)
	if rec.problem != nil {
		args = append(args, "detail", loggedText(rec.problem.Detail, maxDetail))
	}
	if others > 0 {
		args = append(args, "others", others)
	}
	s.cfg.Logger.Log(r.Context(), level, said, args...)
}

// busyLevel returns the level at which a request beyond a limit is logged whose client has no token. Strangers
// can send any number of them, so there is one warning a second at most. It comes with the number of
// those since the last one that have none.
func (s *Server) busyLevel(now time.Time) (level slog.Level, others int64) {
	last := s.busyTold.Load()
	since := now.Sub(time.Unix(0, last)) // is negative after the clock was set back
	if since >= 0 && since < time.Second || !s.busyTold.CompareAndSwap(last, now.UnixNano()) {
		s.busyMore.Add(1)
		return slog.LevelDebug, 0
	}
	return slog.LevelWarn, s.busyMore.Swap(0)
}

// maxLogged is how many bytes of a text of a request the log has, and maxDetail of a problem: a stranger
// can send 64 KiB.
const maxLogged, maxDetail = 200, 1000

// loggedText returns the beginning of a text as the log has it.
func loggedText(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// clientArgs returns the attributes of log messages that say who made a request: the address
// and, if there was a valid token, its subject.
func (rec *recorder) clientArgs(r *http.Request) []any {
	args := []any{"address", rec.s.clientHost(r)}
	if g := rec.grant; g != nil && !g.IsPublic() {
		args = append(args, "subject", g.Subject)
	}
	return args
}

// milliseconds returns d as log messages have it, to the microsecond.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// routeOf returns the label of a path. Unknown paths share one, so that clients cannot
// create labels.
func routeOf(path string) string {
	switch path {
	case "/", "/healthz", "/readyz", "/metrics", "/set", "/events", "/windows", "/snapshot", "/storages", "/sources", "/origin", "/bloom", "/get", "/login", "/logout",
		wire.PathConnections, wire.PathChanges, wire.PathLooks, wire.PathReports, pathDashboard:
		return path
	}
	if strings.HasPrefix(path, "/set/") {
		return "/set/"
	}
	if strings.HasPrefix(path, wire.PathRoom) {
		return wire.PathRoom
	}
	return "other"
}

func methodOf(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodOptions, wire.MethodQuery:
		return method
	}
	return "other"
}
