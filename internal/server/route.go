package server

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

// A handler sends the response to a request, or returns a problem before it writes anything.
type handler func(w http.ResponseWriter, r *http.Request) *wire.Error

// ServeHTTP handles a request. It routes by the raw path and never redirects, since a cleaned
// path would be another name.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.boundBody(w, r)
	w = s.patientWriter(w, r)
	rec := &recorder{ResponseWriter: w, s: s, began: time.Now(), bodiless: r.Method == http.MethodHead}
	defer s.observe(rec, r) // even if the response is aborted
	if p, ok := w.(*patientStream); ok {
		defer p.end(r)
	}
	end := s.answerRequest(rec, r)
	if rec.stream != nil {
		forgetToken(r)
		rec.stream.runStream()
	}
	end()
}

// forgetToken removes the token of a request that was admitted, and cookies. A stream would keep it
// in memory for as long as it lives.
func forgetToken(r *http.Request) {
	for _, name := range []string{"Authorization", "Cookie"} {
		clear(r.Header[name]) // which may be a part of an array of all values
		r.Header.Del(name)
	}
}

// answerRequest sends the response to r, or creates its stream. end must be called after the
// response. A stream runs only after answerRequest has returned, because while it waits,
// its goroutine's stack keeps the frames of all functions that have not.
func (s *Server) answerRequest(rec *recorder, r *http.Request) (end func()) {
	w, end := compressedWriter(rec, r)
	h := w.Header()
	h.Set(wire.HeaderLog, s.log.Log())
	h.Set("X-Content-Type-Options", "nosniff")
	h.Add("Vary", "Origin")
	if isFront(r) || isDashboard(r) {
		h.Add("Vary", "Accept")
	}
	rec.problem = s.checkOrigin(w, r)
	if rec.problem == nil {
		rec.problem = s.admit(rec, r)
	}
	stranger := rec.grant == nil && s.cfg.Guard != nil
	if !stranger { // strangers do not learn how long the log is
		s.setPosition(h, wire.HeaderHead, s.log.HeadPoint())
	}
	if limited := s.limitRequest(rec, r); limited != nil { // also of strangers
		rec.problem = limited
	}
	if rec.problem == nil && !stranger {
		rec.problem = s.awaitCursors(w, r)
	}
	if rec.problem == nil && !stranger {
		rec.problem = s.checkHeld(r)
	}
	if rec.problem == nil {
		rec.problem = s.route(w, r)
	}
	if rec.problem != nil && !s.offerFrontLogin(w, r, rec.problem) && !s.offerDashboardLogin(w, r, rec.problem) {
		rec.problem.Write(w)
	}
	return end
}

// routes returns the handlers of each path.
func (s *Server) routes() map[string]methods {
	form := s.serveRead(s.parsePostEvents)
	paths := map[string]methods{
		"/":         {http.MethodGet: anyBearer(noParams(s.getInfo))},
		"/healthz":  {http.MethodGet: noParams(s.getHealth)},
		"/readyz":   {http.MethodGet: noParams(s.getReady)},
		"/metrics":  {http.MethodGet: noParams(s.getPublicMetrics)},
		"/set":      {http.MethodPost: noParams(s.setBatch)},
		"/set/":     {http.MethodPost: noParams(s.setOne)},
		"/events":   {http.MethodGet: s.serveRead(s.parseGetEvents), http.MethodPost: form, wire.MethodQuery: form},
		"/windows":  {http.MethodGet: s.asDownload(s.getWindows)},
		"/snapshot": {http.MethodGet: s.getSnapshot},
		"/storages": {http.MethodGet: s.asDownload(s.getStorages)},
		"/sources":  {http.MethodGet: s.notMirrored(noParams(s.getSources))},
		"/origin":   {http.MethodGet: s.notMirrored(s.getOrigin)},
		"/bloom":    {http.MethodGet: s.asDownload(s.getBloom), http.MethodPost: s.asDownload(s.postBloom)},
		"/login":    {http.MethodPost: noParams(s.postLogin)},
		"/logout":   {http.MethodPost: noParams(s.postLogout)},
		"/get":      {http.MethodGet: s.serveRead(s.parseGetStorages), http.MethodPost: s.postGet},

		wire.PathConnections: {http.MethodGet: s.getConnections},
		wire.PathChanges:     {http.MethodGet: s.getChanges},
		wire.PathRoom:        {http.MethodGet: s.getRoom},
		wire.PathLooks:       {http.MethodGet: s.getLooks},
		wire.PathReports:     {http.MethodPost: noParams(s.postReport)},
	}
	if !s.cfg.NoDashboard {
		paths[pathDashboard] = methods{http.MethodGet: noParams(s.getDashboard)}
	}
	return paths
}

// route passes a request to its handler.
func (s *Server) route(w http.ResponseWriter, r *http.Request) *wire.Error {
	path := rawPath(r)
	if ms, ok := s.paths[routeOf(path)]; ok {
		return serveMethod(w, r, ms)
	}
	return wire.Errorf(http.StatusNotFound, "unknown path %.80q; docs/protocol.md lists the paths", path)
}

// rawPath returns the path as written in the request. r.URL is not enough: if the path has a
// byte that should have been escaped, EscapedPath has lost which slashes were %2F.
func rawPath(r *http.Request) string {
	target, _, _ := strings.Cut(r.RequestURI, "?")
	if strings.HasPrefix(target, "/") {
		return target
	}
	_, rest, absolute := strings.Cut(target, "://") // an absolute URL, as sent to proxies
	if !absolute {
		return target // a CONNECT request
	}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[i:]
	}
	return "/"
}

// methods are the handlers of a path by method. GET also handles HEAD.
type methods map[string]handler

// serveMethod calls the handler of r's method.
func serveMethod(w http.ResponseWriter, r *http.Request, ms methods) *wire.Error {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http does not send the body
	}
	if _, ok := ms[wire.MethodQuery]; ok && method != http.MethodGet {
		w.Header().Set(wire.HeaderAcceptQuery, wire.FormData)
	}
	if h, ok := ms[method]; ok {
		if method == http.MethodGet && r.ContentLength != 0 {
			return wire.Errorf(http.StatusBadRequest, "a %s request must not have a body", r.Method)
		}
		return h(w, r)
	}
	allow := strings.Join(ms.allowed(), ", ")
	w.Header().Set("Allow", allow)
	if method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return wire.Errorf(http.StatusMethodNotAllowed, "method %.20q is not allowed here; want one of %s", r.Method, allow)
}

func (ms methods) allowed() []string {
	allow := []string{http.MethodOptions}
	for m := range ms {
		allow = append(allow, m)
		if m == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	slices.Sort(allow)
	return allow
}

// noParams wraps h and refuses parameters.
func noParams(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) *wire.Error {
		if r.URL.RawQuery != "" {
			return wire.Errorf(http.StatusBadRequest, "this path takes no parameters")
		}
		return h(w, r)
	}
}

// boundBody limits how long a client may take to send the body of its request, even if no
// handler reads it. net/http removes the deadline after the body was read.
func (s *Server) boundBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// An error only means that the connection has no deadlines.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout))
	}
}
