package server

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/wire"
)

// admit checks the token of a request, whatever it asks for. The paths of health checks
// and CORS preflights need none.
func (s *Server) admit(rec *recorder, r *http.Request) *wire.Error {
	rec.ruled = s.cfg.Guard == nil || needsNoToken(r)
	if rec.ruled {
		return nil
	}
	if path := rawPath(r); path == "/login" || path == "/logout" {
		return nil // they bring the token in their own way, and need no right
	}
	token, problem := bearerToken(r)
	if problem == nil && token == "" { // the header beats the cookie
		token, problem = s.cookieToken(r)
		rec.byCookie = token != ""
	}
	if problem != nil {
		return problem
	}
	problem = s.admitToken(rec, r, token)
	if rec.byCookie && problem != nil && problem.Status == http.StatusUnauthorized {
		s.setCookie(rec, r, "", 0) // else public topics would be closed to this browser
	}
	return problem
}

// needsNoToken reports whether a request is a health check or a CORS preflight.
func needsNoToken(r *http.Request) bool {
	path := rawPath(r)
	return r.Method == http.MethodOptions || path == "/healthz" || path == "/readyz"
}

// admitToken checks a token, and sets what it allows.
func (s *Server) admitToken(rec *recorder, r *http.Request, token string) *wire.Error {
	var err error
	if rec.grant = s.cfg.Guard.Known(token); rec.grant != nil {
		err = rec.grant.Err()
	} else {
		if token != "" {
			if problem := s.limitBadTokens(r); problem != nil {
				return problem
			}
		}
		rec.grant, err = s.cfg.Guard.Check(r.Context(), token)
	}
	if err != nil {
		rec.grant = nil
		if errors.As(err, new(*auth.InvalidError)) { // not if none can be verified
			s.noteBadToken(r)
		}
		return tokenProblem(rec.Header(), err)
	}
	return nil
}

// bearerToken returns the token of a request, "" if it has none. Credentials of other
// schemes are for a proxy.
func bearerToken(r *http.Request) (string, *wire.Error) {
	values := r.Header.Values("Authorization")
	if len(values) > 1 {
		return "", wire.Errorf(http.StatusBadRequest, "Authorization is given %d times", len(values))
	}
	if len(values) == 0 {
		return "", nil
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nil
	}
	if token = strings.TrimSpace(token); token == "" {
		return "", wire.Errorf(http.StatusBadRequest, "Authorization has no token")
	}
	return token, nil
}

// challenge is the value of WWW-Authenticate of a request without a token (RFC 6750). With
// one, the error code follows.
const challenge = `Bearer realm="rstream"`

// tokenProblem returns the response to a request whose token is missing or not valid.
func tokenProblem(h http.Header, err error) *wire.Error {
	var invalid *auth.InvalidError
	switch {
	case errors.As(err, &invalid):
		h.Set("WWW-Authenticate", challenge+`, error="invalid_token"`)
		return wire.Errorf(http.StatusUnauthorized, "%v", invalid)
	case errors.Is(err, auth.ErrNoToken):
		h.Set("WWW-Authenticate", challenge)
		return wire.Errorf(http.StatusUnauthorized, "a token is needed: Authorization: Bearer TOKEN")
	}
	problem := wire.Errorf(http.StatusServiceUnavailable, "no token can be verified: %v", err)
	problem.RetryAfter = time.Second
	return problem
}

// mayRead refuses a request that reads a topic which its token does not cover, or which a mirror
// does not have.
func (s *Server) mayRead(w http.ResponseWriter, topics ...event.Topic) *wire.Error {
	rec := recorderOf(w)
	if rec.grant == nil { // without a Guard
		return s.hasTopics(topics)
	}
	for _, t := range topics {
		if !rec.grant.CanRead(t) {
			return missingRight(rec, "read", t)
		}
	}
	rec.ruled = true
	return s.hasTopics(topics)
}

// mayWrite refuses a request that appends to a storage which its token does not cover.
func (s *Server) mayWrite(w http.ResponseWriter, r *http.Request, drafts []event.Draft) *wire.Error {
	rec := recorderOf(w)
	if rec.grant == nil {
		return nil
	}
	if problem := s.mayWriteByCookie(rec, r); problem != nil {
		return problem
	}
	for i := range drafts {
		if d := &drafts[i]; !rec.grant.MatchesWrite(d.User, d.Path) {
			return missingRight(rec, "append to", event.Exactly(d.Storage()))
		}
	}
	rec.ruled = true
	return nil
}

// mayViewBoard refuses a request to see the board whose token does not allow it. The view has
// the connections of topics that the bearer could read as well, and says nothing of others.
func (s *Server) mayViewBoard(w http.ResponseWriter) (board.View, *wire.Error) {
	rec := recorderOf(w)
	if rec.grant == nil {
		return board.View{}, nil
	}
	if rec.grant.Board != auth.BoardRead {
		return board.View{}, missingBoardRight(rec, "see the board")
	}
	rec.ruled = true
	if rec.grant.CanRead(event.All) {
		return board.View{}, nil
	}
	return board.View{Veiled: true, Sees: func(c *board.Connection) bool {
		return !slices.ContainsFunc(c.Topics, func(t event.Topic) bool { return !rec.grant.CanRead(t) })
	}}, nil
}

// missingBoardRight returns the response to a request whose token does not allow what it
// does with the board.
func missingBoardRight(rec *recorder, verb string) *wire.Error {
	if rec.grant.IsPublic() {
		rec.Header().Set("WWW-Authenticate", challenge)
		return wire.Errorf(http.StatusUnauthorized, "a token is needed to %s: Authorization: Bearer TOKEN", verb)
	}
	rec.Header().Set("WWW-Authenticate", challenge+`, error="insufficient_scope"`)
	return wire.Errorf(http.StatusForbidden, "the token does not allow to %s", verb)
}

// missingRight returns the response to a request whose token, or the lack of one, does not
// cover a topic. It is the same whether the log has events of the topic or not.
func missingRight(rec *recorder, verb string, t event.Topic) *wire.Error {
	var problem *wire.Error
	if rec.grant.IsPublic() {
		rec.Header().Set("WWW-Authenticate", challenge)
		problem = wire.Errorf(http.StatusUnauthorized, "a token is needed to %s %s: Authorization: Bearer TOKEN", verb, t)
	} else {
		rec.Header().Set("WWW-Authenticate", challenge+`, error="insufficient_scope"`)
		problem = wire.Errorf(http.StatusForbidden, "the token does not allow to %s %s", verb, t)
	}
	problem.Topic = &t
	return problem
}

// anyBearer wraps a handler that needs a token, but none of its topics.
func anyBearer(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) *wire.Error {
		recorderOf(w).ruled = true
		return h(w, r)
	}
}

// filterReadable wraps fn to skip events that the token of the request does not cover, as
// if the log did not have them. Only reads by hash need that: they name no topic.
func filterReadable(w http.ResponseWriter, fn func(*event.Event) error) func(*event.Event) error {
	rec := recorderOf(w)
	if rec.grant == nil {
		return fn
	}
	rec.ruled = true
	return func(ev *event.Event) error {
		if !rec.grant.MatchesRead(ev.User, ev.Path) {
			return nil
		}
		return fn(ev)
	}
}

// errUnauthorized reports that a response ends because its token has expired or was
// revoked.
var errUnauthorized = errors.New("the token is no longer valid")

// checkGrant returns errUnauthorized once the token of a response is no longer valid.
func (rec *recorder) checkGrant() error {
	if rec.grant != nil && rec.grant.Err() != nil {
		return errUnauthorized
	}
	return nil
}

// barredWait is how long a response may take to end after its token has ended, if its reader
// does not take the rest of an event.
const barredWait = 10 * time.Second

// farExpiry is a time for which no response lasts. Times that are much later do not fit
// into the nanoseconds of deadlines.
const farExpiry = 365 * 24 * time.Hour

// limitWrites makes checkGrant notice that the token of a long response is revoked, and ends
// writes that are waiting then or when the token expires, until stop. It calls wake when the token
// is revoked, unless wake is nil.
func (rec *recorder) limitWrites(wake func()) (stop func()) {
	g := rec.grant
	if g == nil {
		return func() {}
	}
	rc := http.NewResponseController(rec)
	limit := func(left time.Duration) {
		// An error only means that the connection has no deadlines.
		_ = rc.SetWriteDeadline(time.Now().Add(left + barredWait))
	}
	if left := g.Left(); left < farExpiry {
		limit(max(left, 0))
	}
	unwatch := g.Watch(func() {
		limit(0)
		if wake != nil {
			wake()
		}
	})
	return func() {
		unwatch()
		_ = rc.SetWriteDeadline(time.Time{}) // the connection may be used again
	}
}
