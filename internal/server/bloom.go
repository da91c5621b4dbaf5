package server

import (
	"errors"
	"mime"
	"net/http"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// maxBloomBody bounds the body of POST /bloom: what reconcile lets a request be.
const maxBloomBody = 8 << 20

// postBloom says what two sides lack of each other: POST /bloom. What it is asked in
// is told by the Content-Type, and nothing is kept between two requests.
func (s *Server) postBloom(w http.ResponseWriter, r *http.Request) *wire.Error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && kind == wire.Frames {
		return s.negotiate(w, r)
	}
	return s.listBloom(w, r)
}

// negotiate answers one request of package reconcile.
func (s *Server) negotiate(w http.ResponseWriter, r *http.Request) *wire.Error {
	topic, err := wire.ParseNegotiation(r.URL.RawQuery)
	if err != nil {
		return badParameters(err)
	}
	body, problem := readBody(w, r, maxBloomBody)
	if problem != nil {
		return problem
	}
	leave, problem := s.waitForTurn(r)
	if problem != nil {
		return problem
	}
	defer leave()
	if reconcile.IsStubRequest(body) {
		return s.locateEvents(w, r, topic, body)
	}
	req, err := reconcile.ParseRequest(body, reconcile.Limits{})
	if err != nil {
		return s.setProblem(r, err)
	}
	head := s.log.HeadPoint()
	span := req.Span
	if span.To == event.MaxID {
		span.To = head.ID
	}
	if problem := s.checkComparable(r, span, head.ID); problem != nil {
		return problem
	}
	set, err := s.setFor(r, topic, req, span)
	if err != nil {
		return s.setProblem(r, err)
	}
	resp, err := reconcile.Answer(set, req, reconcile.Limits{})
	if err != nil {
		return s.setProblem(r, err)
	}
	s.metrics.rounds.WithLabelValues(req.Strategy().String()).Inc()
	if problem := s.announceSpan(w, r, head, window.Span{From: req.Span.From, To: resp.To}, wire.Frames); problem != nil {
		return problem
	}
	_, _ = w.Write(resp.AppendTo(nil, req.Shared)) // the client may have gone
	return nil
}

// locateEvents says where events stand: to who has them from another log.
func (s *Server) locateEvents(w http.ResponseWriter, r *http.Request, topic event.Topic, body []byte) *wire.Error {
	req, err := reconcile.ParseStubRequest(body, reconcile.Limits{})
	if err != nil {
		return s.setProblem(r, err)
	}
	head := s.log.HeadPoint()
	if problem := s.checkComparable(r, req.Span, head.ID); problem != nil {
		return problem
	}
	set := logSet{ctx: r.Context(), log: s.log, topics: []event.Topic{topic}, span: req.Span, hashed: true}
	resp, err := reconcile.AnswerStubs(&set, req, reconcile.Limits{})
	if err != nil {
		return s.setProblem(r, err)
	}
	if problem := s.announceSpan(w, r, head, req.Span, wire.Frames); problem != nil {
		return problem
	}
	_, _ = w.Write(resp.AppendTo(nil, req.Width)) // the client may have gone
	return nil
}

// checkComparable refuses to compare a stretch that the log does not have all of.
func (s *Server) checkComparable(r *http.Request, span window.Span, head event.ID) *wire.Error {
	horizon, err := s.log.Horizon(r.Context())
	switch {
	case err != nil:
		return s.internalProblem(r, err)
	case span.From > head || span.To > head:
		return s.setProblem(r, reconcile.ErrAhead)
	case span.From < horizon:
		return gone(span.From, horizon)
	}
	return nil
}

// setFor returns what the log has in span, the stretch of req with its end pinned.
func (s *Server) setFor(r *http.Request, topic event.Topic, req *reconcile.Request, span window.Span) (reconcile.Set, error) {
	set := logSet{ctx: r.Context(), log: s.log, topics: []event.Topic{topic}, span: span}
	if req.Shared {
		return &set, nil
	}
	hashes, err := set.hashes(maxHashes)
	return reconcile.FromHashes(span, hashes), err
}

// setProblem is the answer to an error of comparing sets.
func (s *Server) setProblem(r *http.Request, err error) *wire.Error {
	var frame *reconcile.FrameError
	switch {
	case errors.As(err, &frame) && frame.TooLarge:
		return wire.Errorf(http.StatusRequestEntityTooLarge, "%s", frame.Detail)
	case errors.As(err, &frame):
		return wire.Errorf(http.StatusBadRequest, "%s", frame.Detail)
	case errors.Is(err, reconcile.ErrAhead):
		head := s.log.HeadPoint()
		return s.conflict(wire.ReasonAhead, head, "the request is ahead of this log, whose head is %s: it is of another log, or this one was put back to an older state", head.ID)
	}
	return s.readProblem(r, err)
}

// maxComparing is how many comparisons of sets are made at a time. Each may read
// millions of events, and hold maxHashes of them.
const maxComparing = 4

// compareWait is how long one waits for its turn before it is sent away. It is a
// variable for the tests.
var compareWait = time.Second

// waitForTurn waits for a turn to compare sets, and returns what ends it.
func (s *Server) waitForTurn(r *http.Request) (leave func(), problem *wire.Error) {
	timer := time.NewTimer(compareWait)
	defer timer.Stop()
	select {
	case s.comparing <- struct{}{}:
		return func() { <-s.comparing }, nil
	case <-r.Context().Done():
	case <-timer.C:
	}
	problem = wire.Errorf(http.StatusTooManyRequests, "%d comparisons are under way; ask again", maxComparing)
	problem.RetryAfter = compareWait
	return nil, problem
}
