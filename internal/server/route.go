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
	w, end := compressed(s.withDeadlines(w, r), r)
	h := w.Header()
	h.Set(wire.HeaderLog, s.log.Log())
	h.Set(wire.HeaderHead, s.log.Head().String())
	h.Set("X-Content-Type-Options", "nosniff")
	h.Add("Vary", "Origin")
	problem := s.guard(w, r)
	if problem == nil {
		problem = s.route(w, r)
	}
	if problem != nil {
		problem.Write(w)
	}
	end()
}

// route finds what answers a request.
func (s *Server) route(w http.ResponseWriter, r *http.Request) *wire.Error {
	switch path := rawPath(r); {
	case path == "/":
		return on(w, r, methods{http.MethodGet: bare(s.info)})
	case path == "/healthz":
		return on(w, r, methods{http.MethodGet: bare(s.health)})
	case path == "/readyz":
		return on(w, r, methods{http.MethodGet: bare(s.ready)})
	case path == "/set":
		return on(w, r, methods{http.MethodPost: bare(s.setBatch)})
	case strings.HasPrefix(path, "/set/"):
		return on(w, r, methods{http.MethodPost: bare(s.setOne)})
	case path == "/events":
		return on(w, r, methods{http.MethodGet: s.reads(s.events)})
	case path == "/windows":
		return on(w, r, methods{http.MethodGet: s.windows})
	case path == "/snapshot":
		return on(w, r, methods{http.MethodGet: s.snapshot})
	case path == "/bloom":
		return on(w, r, methods{http.MethodGet: s.getBloom, http.MethodPost: s.postBloom})
	case path == "/get":
		return on(w, r, methods{http.MethodGet: s.reads(s.get), http.MethodPost: s.postGet})
	default:
		return wire.Errorf(http.StatusNotFound, "%.80q is not a path of this server; there are /, /events, /windows, /snapshot, /bloom, /get, /set, /healthz and /readyz", path)
	}
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

// on picks the handler of r's method.
func on(w http.ResponseWriter, r *http.Request, ms methods) *wire.Error {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves the body out
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

// bare refuses parameters: h knows none.
func bare(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) *wire.Error {
		if r.URL.RawQuery != "" {
			return wire.Errorf(http.StatusBadRequest, "query: no parameters are known here")
		}
		return h(w, r)
	}
}

// withDeadlines bounds how long a client may take to send its request's body,
// whether or not anyone reads it, and to take each piece of the answer. net/http
// takes the first deadline away once the body has been read, and both after the
// request.
func (s *Server) withDeadlines(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	rc := http.NewResponseController(w)
	// Errors only mean that the connection has no deadlines.
	_ = rc.SetWriteDeadline(time.Now().Add(s.cfg.BodyTimeout + s.cfg.WriteTimeout))
	if r.ContentLength != 0 {
		_ = rc.SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout))
	}
	return &patientWriter{w, rc, s.cfg.WriteTimeout}
}

// A patientWriter gives a client time for each piece of what is written, so that a
// slow one is served and only one that takes nothing is cut.
type patientWriter struct {
	http.ResponseWriter
	rc       *http.ResponseController
	patience time.Duration
}

// maxPiece is small enough for a slow line to take it within the write timeout.
const maxPiece = 16 << 10

func (w *patientWriter) Write(b []byte) (n int, err error) {
	for {
		_ = w.rc.SetWriteDeadline(time.Now().Add(w.patience))
		k, err := w.ResponseWriter.Write(b[n:min(n+maxPiece, len(b))])
		if n += k; err != nil || n == len(b) {
			return n, err
		}
	}
}

// Unwrap is for http.ResponseController.
func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
