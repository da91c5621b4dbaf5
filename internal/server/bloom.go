package server

import (
	"errors"
	"mime"
	"net/http"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// maxBloomBody is the most bytes of the body of POST /bloom, as the limits of reconcile.
const maxBloomBody = 8 << 20

// postBloom compares sets: POST /bloom. The Content-Type selects frames or JSON. It keeps
// nothing between requests.
func (s *Server) postBloom(w http.ResponseWriter, r *http.Request) *wire.Error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && kind == wire.Frames {
		return s.negotiate(w, r)
	}
	return s.listBloom(w, r)
}

// negotiate sends the response to a request of package reconcile.
func (s *Server) negotiate(w http.ResponseWriter, r *http.Request) *wire.Error {
	topic, err := wire.ParseNegotiation(r.URL.RawQuery)
	if err != nil {
		return badParameters(err)
	}
	if problem := s.mayRead(w, topic); problem != nil {
		return problem
	}
	body, problem := readBody(w, r, maxBloomBody)
	if problem != nil {
		return problem
	}
	if reconcile.IsStubRequest(body) {
		return s.locateEvents(w, r, topic, body)
	}
	req, err := reconcile.ParseRequest(body, reconcile.Limits{})
	if err != nil {
		return s.setProblem(r, err)
	}
	leave, problem := s.waitForTurnAt(w, r, req.Span)
	if problem != nil {
		return problem
	}
	defer leave()
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
	leave()                                        // a slow reader keeps nobody else waiting
	_, _ = w.Write(resp.AppendTo(nil, req.Shared)) // fails only if the client is gone
	return nil
}

// locateEvents sends the places of events to a client that has them from another log.
func (s *Server) locateEvents(w http.ResponseWriter, r *http.Request, topic event.Topic, body []byte) *wire.Error {
	req, err := reconcile.ParseStubRequest(body, reconcile.Limits{})
	if err != nil {
		return s.setProblem(r, err)
	}
	leave, problem := s.waitForTurnAt(w, r, req.Span)
	if problem != nil {
		return problem
	}
	defer leave()
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
	leave()                                       // a slow reader keeps nobody else waiting
	_, _ = w.Write(resp.AppendTo(nil, req.Width)) // fails only if the client is gone
	return nil
}

// checkComparable refuses a range that the log does not have as a whole.
func (s *Server) checkComparable(r *http.Request, span window.Span, head event.ID) *wire.Error {
	horizon, err := s.log.Horizon(r.Context())
	switch {
	case err != nil:
		return s.internalProblem(r, err)
	case span.From > head || span.To > head:
		return s.setProblem(r, reconcile.ErrAhead)
	case span.From < horizon:
		return goneError(span.From, horizon)
	}
	return nil
}

// setFor returns the set of the log's events in span, the range of req with a fixed end.
func (s *Server) setFor(r *http.Request, topic event.Topic, req *reconcile.Request, span window.Span) (reconcile.Set, error) {
	set := logSet{ctx: r.Context(), log: s.log, topics: []event.Topic{topic}, span: span}
	if req.Shared {
		return &set, nil
	}
	hashes, err := set.hashes(maxHashes)
	return reconcile.FromHashes(span, hashes), err
}

// setProblem returns the response to an error in a comparison.
func (s *Server) setProblem(r *http.Request, err error) *wire.Error {
	var frame *reconcile.FrameError
	switch {
	case errors.As(err, &frame) && frame.TooLarge:
		return wire.Errorf(http.StatusRequestEntityTooLarge, "%s", frame.Detail)
	case errors.As(err, &frame):
		return wire.Errorf(http.StatusBadRequest, "%s", frame.Detail)
	case errors.Is(err, reconcile.ErrAhead):
		head := s.log.HeadPoint()
		return s.conflictError(wire.ReasonAhead, head, "the request is ahead of this log, whose head is %s: it is for another log, or this log was rolled back to an older state", head.ID)
	}
	return s.readProblem(r, err)
}

// maxComparing is how many comparisons run at a time. Each may read millions of events, and
// keep maxHashes hashes in memory.
const maxComparing = 4

// maxOwnComparing is how many of them may be of one client, on a server that limits its clients. On
// others, all may be one: they have the address of their proxy.
const maxOwnComparing = 2

// compareWait is how long a comparison waits for its turn before it is refused. It is a
// variable for the tests.
var compareWait = time.Second

// waitForTurnAt is waitForTurn for a request about a range, which a mirror may have to wait for.
func (s *Server) waitForTurnAt(w http.ResponseWriter, r *http.Request, span window.Span) (leave func(), problem *wire.Error) {
	if problem := s.awaitSpan(w, r, span); problem != nil {
		return nil, problem
	}
	return s.waitForTurn(w, r)
}

// waitForTurn waits for a turn to compare sets, and returns a function that ends the turn. It
// should end before the response is written, which takes as long as its reader likes.
func (s *Server) waitForTurn(w http.ResponseWriter, r *http.Request) (leave func(), problem *wire.Error) {
	timer := time.NewTimer(compareWait)
	defer timer.Stop()
	leave, all := func() {}, []chan struct{}{s.comparing}
	if s.limits != nil {
		own, part := s.comparers.join(s.clientOf(recorderOf(w), r))
		leave, all = part, []chan struct{}{own, s.comparing}
	}
	for _, turns := range all {
		rest := leave
		select {
		case turns <- struct{}{}:
			leave = func() { <-turns; rest() }
			continue
		case <-r.Context().Done():
		case <-timer.C:
		}
		leave()
		problem = wire.Errorf(http.StatusTooManyRequests, "%d comparisons are running; try again", cap(turns))
		problem.RetryAfter = compareWait
		return nil, problem
	}
	return sync.OnceFunc(leave), nil
}

// comparers are the clients that compare sets or wait for their turn. Each has a part of the turns, so
// that one client keeps nobody else waiting.
type comparers struct {
	mu sync.Mutex
	of map[string]*comparer
}

type comparer struct {
	turns    chan struct{}
	requests int // that use it
}

// join returns the turns of a client, which are kept until part.
func (c *comparers) join(client string) (turns chan struct{}, part func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.of[client]
	if one == nil {
		if c.of == nil {
			c.of = map[string]*comparer{}
		}
		one = &comparer{turns: make(chan struct{}, maxOwnComparing)}
		c.of[client] = one
	}
	one.requests++
	return one.turns, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if one.requests--; one.requests == 0 {
			delete(c.of, client)
		}
	}
}
