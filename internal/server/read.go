package server

import (
	"errors"
	"mime"
	"net/http"
	"strings"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A reading parses a request to read events.
type reading func(w http.ResponseWriter, r *http.Request) (*wire.Query, *wire.Error)

// serveRead is the middleware of all reads. parse only returns topics and a range;
// serveRead alone decides whether the response is a page, lines or a stream.
func (s *Server) serveRead(parse reading) handler {
	return func(w http.ResponseWriter, r *http.Request) *wire.Error {
		w.Header().Add("Vary", "Accept")
		form, ok := wire.NegotiateForm(r.Header.Values("Accept"))
		if !ok {
			return wire.Errorf(http.StatusNotAcceptable, "Accept must allow %s, %s or %s", wire.JSON, wire.NDJSON, wire.SSE)
		}
		q, problem := parse(w, r)
		if problem != nil {
			return problem
		}
		if problem := s.mayRead(w, q.Topics...); problem != nil {
			return problem
		}
		st, problem := s.resolveQuery(r, q, form)
		switch {
		case problem != nil:
			return problem
		case form == wire.Stream:
			return s.prepareStream(w, r, &st)
		}
		return s.whileOpen(w, r, func() *wire.Error {
			if form == wire.Page || q.Limit != nil {
				return s.sendPage(w, r, st, form, q.Limit)
			}
			return s.sendPageLines(w, r, st)
		})
	}
}

// parseGetEvents parses a read of topics: GET /events.
func (s *Server) parseGetEvents(_ http.ResponseWriter, r *http.Request) (*wire.Query, *wire.Error) {
	return badRequest(wire.ParseEvents(r.URL.RawQuery))
}

// parsePostEvents parses a read of topics that do not fit into a URL: POST and QUERY /events. The
// parameters in the body and in the URL are one form.
func (s *Server) parsePostEvents(w http.ResponseWriter, r *http.Request) (*wire.Query, *wire.Error) {
	body, problem := readBody(w, r, wire.MaxForm)
	if problem != nil {
		return nil, problem
	}
	if problem := checkForm(r, body, wire.FormData); problem != nil {
		return nil, problem
	}
	if problem := s.awaitPosition(w, r, s.newestParam(string(body))); problem != nil {
		return nil, problem
	}
	return badRequest(wire.ParseEvents(strings.Trim(r.URL.RawQuery+"&"+string(body), "&")))
}

// checkForm refuses a body that is not a form. RFC 10008 forbids guessing its type. want names all
// types that may be sent instead.
func checkForm(r *http.Request, body []byte, want string) *wire.Error {
	kind := r.Header.Get("Content-Type")
	if len(body) == 0 && kind == "" {
		return nil
	}
	if kind == "" {
		return wire.Errorf(http.StatusBadRequest, "Content-Type is missing; want %s", want)
	}
	if got, _, err := mime.ParseMediaType(kind); err != nil || got != wire.FormData {
		return wire.Errorf(http.StatusUnsupportedMediaType, "Content-Type %.80q is not supported; want %s", kind, want)
	}
	return nil
}

// parseGetStorages parses a read of storages: GET /get.
func (s *Server) parseGetStorages(_ http.ResponseWriter, r *http.Request) (*wire.Query, *wire.Error) {
	return badRequest(wire.ParseGet(r.URL.RawQuery))
}

// maxGetBody is the most bytes of the body of POST /get: MaxTopics of the longest names,
// escaped.
const maxGetBody = 8 << 20

// postGet reads the storages in the body, or the events with the hashes in it: POST /get.
func (s *Server) postGet(w http.ResponseWriter, r *http.Request) *wire.Error {
	body, problem := readBody(w, r, maxGetBody)
	if problem != nil {
		return problem
	}
	if hashes, form, err := wire.ParseHashes(r.URL.RawQuery, body); err != nil {
		return badParameters(err)
	} else if form != nil {
		return s.byHash(w, r, hashes, &resolvedQuery{stubs: form.Stubs, notices: form.Notices})
	}
	return s.serveRead(func(_ http.ResponseWriter, r *http.Request) (*wire.Query, *wire.Error) {
		return badRequest(wire.ParsePostGet(r.URL.RawQuery, body))
	})(w, r)
}

// byHash sends the events with the given hashes, of any topic, in the form of st.
func (s *Server) byHash(w http.ResponseWriter, r *http.Request, hashes []event.Hash, st *resolvedQuery) *wire.Error {
	w.Header().Add("Vary", "Accept")
	form, ok := wire.NegotiateForm(r.Header.Values("Accept"))
	if !ok || form == wire.Stream {
		return wire.Errorf(http.StatusNotAcceptable, "Accept must allow %s or %s", wire.JSON, wire.NDJSON)
	}
	if problem := s.hasHashes(w, r, hashes); problem != nil {
		return problem
	}
	out := eventWriter{w: w, form: form, before: `{"events":[`, line: st.appendEvent}
	send := filterReadable(w, out.writeEvent)
	return s.whileOpen(w, r, func() *wire.Error {
		return s.writeEvents(r, &out, func() error { return s.log.ByHash(r.Context(), hashes, send) })
	})
}

func badRequest(q *wire.Query, err error) (*wire.Query, *wire.Error) {
	if err != nil {
		return nil, badParameters(err)
	}
	return q, nil
}

// badParameters returns the response to a request that cannot be parsed.
func badParameters(err error) *wire.Error {
	var large *wire.TooLargeError
	if errors.As(err, &large) {
		return wire.Errorf(http.StatusRequestEntityTooLarge, "%s", large.Detail)
	}
	return wire.Errorf(http.StatusBadRequest, "%v", err)
}
