package server

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

// A handler answers a request or returns what is wrong with it, having written
// nothing.
type handler func(w http.ResponseWriter, r *http.Request) *wire.Error

// ServeHTTP routes by the raw path. It never redirects: a cleaned path would be
// another name.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.boundBody(w, r)
	rec := &recorder{ResponseWriter: w, s: s, began: time.Now(), bodiless: r.Method == http.MethodHead}
	defer s.observe(rec, r) // also where the answer is cut
	end := s.answerRequest(rec, r)
	if rec.stream != nil {
		rec.stream.runStream()
	}
	end()
}

// answerRequest answers r, or makes the stream that does. end must be called when all is
// written. A stream runs only after this has returned: while it waits, its goroutine
// keeps the frames of all that have not.
func (s *Server) answerRequest(rec *recorder, r *http.Request) (end func()) {
	w, end := compressed(rec, r)
	h := w.Header()
	h.Set(wire.HeaderLog, s.log.Log())
	s.setPosition(h, wire.HeaderHead, s.log.HeadPoint())
	h.Set("X-Content-Type-Options", "nosniff")
	h.Add("Vary", "Origin")
	rec.problem = s.checkOrigin(w, r)
	if rec.problem == nil {
		rec.problem = s.checkHeld(r)
	}
	if rec.problem == nil {
		rec.problem = s.route(w, r)
	}
	if rec.problem != nil {
		rec.problem.Write(w)
	}
	return end
}

// routes returns what answers at each path.
func (s *Server) routes() map[string]methods {
	form := s.reads(s.parsePostEvents)
	return map[string]methods{
		"/":         {http.MethodGet: noParams(s.getInfo)},
		"/healthz":  {http.MethodGet: noParams(s.getHealth)},
		"/readyz":   {http.MethodGet: noParams(s.getReady)},
		"/metrics":  {http.MethodGet: noParams(s.getMetrics)},
		"/set":      {http.MethodPost: noParams(s.setBatch)},
		"/set/":     {http.MethodPost: noParams(s.setOne)},
		"/events":   {http.MethodGet: s.reads(s.parseGetEvents), http.MethodPost: form, wire.MethodQuery: form},
		"/windows":  {http.MethodGet: s.getWindows},
		"/snapshot": {http.MethodGet: s.getSnapshot},
		"/bloom":    {http.MethodGet: s.getBloom, http.MethodPost: s.postBloom},
		"/get":      {http.MethodGet: s.reads(s.parseGetStorages), http.MethodPost: s.postGet},
	}
}

// route finds what answers a request.
func (s *Server) route(w http.ResponseWriter, r *http.Request) *wire.Error {
	path := rawPath(r)
	if ms, ok := s.paths[routeOf(path)]; ok {
		return pickMethod(w, r, ms)
	}
	return wire.Errorf(http.StatusNotFound, "%.80q is not a path of this server; there are /, /events, /windows, /snapshot, /bloom, /get, /set, /metrics, /healthz and /readyz", path)
}

// rawPath returns the path as it stands in the request. r.URL will not do: where
// the path has a byte that should have been escaped, EscapedPath has lost which
// slashes were written %2F.
func rawPath(r *http.Request) string {
	target, _, _ := strings.Cut(r.RequestURI, "?")
	if strings.HasPrefix(target, "/") {
		return target
	}
	_, rest, absolute := strings.Cut(target, "://") // as to a proxy
	if !absolute {
		return target // of CONNECT
	}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[i:]
	}
	return "/"
}

// methods are what a path answers to. GET stands for HEAD, too.
type methods map[string]handler

// pickMethod picks the handler of r's method.
func pickMethod(w http.ResponseWriter, r *http.Request, ms methods) *wire.Error {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves the body out
	}
	if _, ok := ms[wire.MethodQuery]; ok && method != http.MethodGet {
		w.Header().Set(wire.HeaderAcceptQuery, wire.FormData)
	}
	if h, ok := ms[method]; ok {
		if method == http.MethodGet && r.ContentLength != 0 {
			return wire.Errorf(http.StatusBadRequest, "body: a %s has none", r.Method)
		}
		return h(w, r)
	}
	allow := strings.Join(ms.allowed(), ", ")
	w.Header().Set("Allow", allow)
	if method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return wire.Errorf(http.StatusMethodNotAllowed, "%.20q is not allowed here; there are %s", r.Method, allow)
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

// noParams refuses parameters: h knows none.
func noParams(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) *wire.Error {
		if r.URL.RawQuery != "" {
			return wire.Errorf(http.StatusBadRequest, "query: no parameters are known here")
		}
		return h(w, r)
	}
}

// boundBody bounds how long a client may take to send its request's body, whether or
// not anyone reads it. net/http takes the deadline away once the body has been read.
func (s *Server) boundBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// An error only means that the connection has no deadlines.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout))
	}
}
