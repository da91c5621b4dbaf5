package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// nobodyThere is a client that no server lets in.
func nobodyThere() *http.Client {
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
	return &http.Client{Transport: &http.Transport{DialContext: dial}}
}

// If the error of a failed append claims that nothing was appended, the log does not have
// the events.
func TestPutOutcome(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	refuse := func(status int, named bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if named {
				w.Header().Set(wire.HeaderLog, f.db.Log())
			}
			wire.Errorf(status, "no").Write(w)
		}
	}
	// done has the server append, and then answers with what follows.
	done := func(after http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			f.srv.ServeHTTP(httptest.NewRecorder(), r)
			after(w, r)
		}
	}
	abort := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for _, c := range []struct {
		name    string
		answers []http.HandlerFunc // of one request after the other; then nobody is there
		unknown bool
		other   bool // the client is of another log
	}{
		{name: "nobody was ever there"},
		{name: "400 of the log", answers: []http.HandlerFunc{refuse(400, true)}},
		{name: "403 of the log", answers: []http.HandlerFunc{refuse(403, true)}},
		{name: "507 of the log", answers: []http.HandlerFunc{refuse(507, true)}},
		{name: "the server of another log", answers: []http.HandlerFunc{f.srv.ServeHTTP}, other: true},
		{name: "403 of a proxy", answers: []http.HandlerFunc{refuse(403, false)}, unknown: true},
		{name: "403 of a proxy that passed it on", answers: []http.HandlerFunc{done(refuse(403, false))}, unknown: true},
		{name: "507 of a proxy that passed it on", answers: []http.HandlerFunc{done(refuse(507, false))}, unknown: true},
		{name: "a page in place of an answer", answers: []http.HandlerFunc{done(func(http.ResponseWriter, *http.Request) {})}, unknown: true},
		{name: "cut before", answers: []http.HandlerFunc{abort}, unknown: true},
		{name: "cut after", answers: []http.HandlerFunc{done(abort)}, unknown: true},
		{name: "cut after, then nobody", answers: []http.HandlerFunc{done(abort), nil}, unknown: true},
		{name: "cut after, then refused", answers: []http.HandlerFunc{done(abort), refuse(403, true)}, unknown: true},
		{name: "502 after", answers: []http.HandlerFunc{done(refuse(502, false))}, unknown: true},
		{name: "500 of the log", answers: []http.HandlerFunc{done(refuse(500, true)), refuse(403, true)}, unknown: true},
		{name: "another log takes it", answers: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del(wire.HeaderLog)
			f.srv.ServeHTTP(w, r)
		}}, unknown: true, other: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := 0
			f.through(func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if n++; n > len(c.answers) || c.answers[n-1] == nil {
						panic(http.ErrAbortHandler)
					}
					c.answers[n-1](w, r)
				})
			})
			cfg := hasty(f.http.URL)
			if len(c.answers) == 0 {
				cfg.HTTP = nobodyThere()
			}
			var st store
			if c.other {
				st = namedStore{}
			}
			client := newTestClient(t, st, cfg)
			before := f.db.Head()
			_, err := client.Put(t.Context(), drafts("alice/x", c.name))
			var unknown *UnknownOutcomeError
			if err == nil || errors.As(err, &unknown) != c.unknown {
				t.Errorf("Put = %v (%T), want unknown: %v", err, err, c.unknown)
			}
			if there := f.db.Head() != before; there && !c.unknown {
				t.Errorf("Put = %v, but the event is there", err)
			}
		})
	}
}

// A context that ends while a request is under way leaves the outcome open; one that ends
// before does not.
func TestPutInterrupted(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(httptest.NewRecorder(), r)
			cancel(stop)
			<-r.Context().Done()
		})
	})
	c := newTestClient(t, nil, hasty(f.http.URL))
	var unknown *UnknownOutcomeError
	if _, err := c.Put(ctx, drafts("alice/x", "k")); !errors.As(err, &unknown) || !errors.Is(err, stop) || f.db.Head() != 1 {
		t.Errorf("Put = %v with the head at %s", err, f.db.Head())
	}
	if _, err := c.Put(ctx, drafts("alice/x", "l")); errors.As(err, &unknown) || !errors.Is(err, stop) {
		t.Errorf("afterwards: Put = %v", err)
	}
	if s := c.Servers()[0]; s.Problem != "" || !c.servers[0].failed.IsZero() {
		t.Errorf("the server has the problem %q, failed %s", s.Problem, c.servers[0].failed)
	}
}

// A transport that reports nothing of its connections proves nothing.
func TestPutOtherTransport(t *testing.T) {
	c := stubClient(t, func(*http.Request) (*http.Response, error) { return nil, errors.New("broken") })
	var unknown *UnknownOutcomeError
	if _, err := c.Put(t.Context(), []event.Draft{{User: "a", Path: "p", Type: event.Del}}); !errors.As(err, &unknown) {
		t.Errorf("Put = %v", err)
	}
}
