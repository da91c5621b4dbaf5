package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// getInfo returns the server information, to browsers as a page: GET /.
func (s *Server) getInfo(w http.ResponseWriter, r *http.Request) *wire.Error {
	head := s.log.HeadPoint()
	at, err := s.log.Horizon(r.Context())
	if err != nil {
		return s.internalProblem(r, err)
	}
	horizon, err := s.markedPoint(r.Context(), at, head)
	if err != nil {
		return s.readProblem(r, err)
	}
	log := s.log.Log()
	info := wire.Info{
		Name: "rstream", Version: s.cfg.Version, Log: log, Head: head.Cursor(log), Horizon: horizon.Cursor(log), Salt: s.salt,
		Limits: wire.Limits{Value: wire.MaxValue, Batch: wire.MaxBatch, Page: wire.MaxLimit, Topics: wire.MaxTopics},
	}
	if s.limits != nil {
		info.Rates = &s.limits.rates
	}
	parent, parted, err := s.log.Parent(r.Context())
	if err != nil {
		return s.internalProblem(r, err)
	}
	if parent != "" {
		info.Parent = &wire.Parent{Log: parent}
		if parted != event.MaxID {
			info.Parent.Head = &parted
		}
	}
	s.setPosition(w.Header(), wire.HeaderHead, head)
	if s.cfg.Mirror != nil {
		report := s.cfg.Mirror.Report()
		w.Header().Set(wire.HeaderVia, report.Via)
		info.Topics = report.Topics
	}
	if wire.PrefersHTML(r.Header.Values("Accept")) {
		s.writeFront(w, r, &info)
		return nil
	}
	return writeJSON(w, info)
}

// getHealth reports that the process is running: GET /healthz.
func (s *Server) getHealth(w http.ResponseWriter, _ *http.Request) *wire.Error {
	return writeJSON(w, map[string]string{"status": "ok"})
}

// getReady reports whether the log can be read and the server accepts streams: GET /readyz.
func (s *Server) getReady(w http.ResponseWriter, r *http.Request) *wire.Error {
	if s.isStopped() {
		return wire.Errorf(http.StatusServiceUnavailable, "%v", ErrStopped)
	}
	if _, _, err := s.log.Parent(r.Context()); err != nil { // which is in the file alone
		s.internalProblem(r, err)
		return wire.Errorf(http.StatusServiceUnavailable, "the log cannot be read")
	}
	if s.cfg.Mirror != nil {
		if err := s.cfg.Mirror.Ready(); err != nil {
			return wire.Errorf(http.StatusServiceUnavailable, "%v", err)
		}
	}
	return writeJSON(w, map[string]string{"status": "ready"})
}

func writeJSON(w http.ResponseWriter, v any) *wire.Error {
	w.Header().Set("Cache-Control", "no-store")
	return writeFresh(w, v)
}

// writeFresh is writeJSON for a response that may be cached.
func writeFresh(w http.ResponseWriter, v any) *wire.Error {
	b, err := json.Marshal(v)
	if err != nil { // cannot happen: every field of v can be marshaled
		panic(err)
	}
	w.Header().Set("Content-Type", wire.JSON)
	_, _ = w.Write(append(b, '\n')) // fails only if the client is gone
	return nil
}

// internalProblem returns the response to an error of the log. The error may name files, so only the
// server's own log has it. A temporary error, such as too many open files, is 503.
func (s *Server) internalProblem(r *http.Request, err error) *wire.Error {
	if gone := r.Context().Err(); gone == nil || !errors.Is(err, gone) { // else the client left, and nothing failed
		s.cfg.Logger.Error("request failed", "method", loggedText(r.Method, maxLogged), "path", loggedText(r.URL.Path, maxLogged), "error", err)
	}
	var refused Refused
	if errors.As(err, &refused) && refused.HTTPStatus() == http.StatusServiceUnavailable {
		problem := wire.Errorf(http.StatusServiceUnavailable, "%v", refused)
		problem.RetryAfter = time.Second
		return problem
	}
	return wire.Errorf(http.StatusInternalServerError, "internal error; see the server's log")
}
