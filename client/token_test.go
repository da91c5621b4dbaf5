package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

// A gatekeeper lets requests with one token through.
type gatekeeper struct {
	accepted atomic.Pointer[string]
	f        *fixture
}

func newGatekeeper(f *fixture, token string) *gatekeeper {
	g := &gatekeeper{f: f}
	g.accept(token)
	f.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer "+*g.accepted.Load() {
				w.Header().Set(wire.HeaderLog, f.db.Log())
				wire.Errorf(http.StatusUnauthorized, "token was revoked").Write(w)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	return g
}

func (g *gatekeeper) accept(token string) { g.accepted.Store(&token) }

// withToken returns a configuration whose token is what current has.
func withToken(f *fixture, current *atomic.Pointer[string]) Config {
	cfg := hasty(f.http.URL)
	cfg.Token = func(context.Context, string) (string, error) { return *current.Load(), nil }
	return cfg
}

func isUnauthorized(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Status == http.StatusUnauthorized
}

// TestFirstTokenIsWrong: a token that was never accepted is not tried again.
func TestFirstTokenIsWrong(t *testing.T) {
	f := newFixture(t)
	f.put("alice/a", 3)
	newGatekeeper(f, "good")
	var token atomic.Pointer[string]
	for _, text := range []string{"bad", ""} {
		token.Store(&text)
		cfg := withToken(f, &token)
		cfg.OnRetry = func(err error, _ time.Duration) { t.Errorf("retried after %v", err) }
		c := newTestClient(t, f.newCache(), cfg)
		if _, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); !isUnauthorized(err) {
			t.Errorf("with the token %q: %v", text, err)
		}
	}
	good := "good"
	token.Store(&good)
	c := newTestClient(t, f.newCache(), withToken(f, &token))
	if s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); err != nil || s.Held != 3 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestTokenIsRenewedLate: what renews the token is later than the server's change, and the
// tail goes on without loss or repeat.
func TestTokenIsRenewedLate(t *testing.T) {
	f := newFixture(t)
	gate := newGatekeeper(f, "first")
	first, second := "first", "second"
	var token atomic.Pointer[string]
	token.Store(&first)
	cfg := withToken(f, &token)
	var refused atomic.Int64
	cfg.OnRetry = func(err error, _ time.Duration) {
		if !isUnauthorized(err) {
			return // the cut itself
		}
		if refused.Add(1) == 5 {
			f.put("alice/a", 10) // while nobody may read
			token.Store(&second)
		}
	}
	c := newTestClient(t, f.newCache(), cfg)
	f.put("alice/a", 10)
	var lines []string
	var cutting sync.WaitGroup
	defer cutting.Wait()
	for ev, err := range c.Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
		if err != nil {
			t.Fatalf("%v after %d refusals and %d lines", err, refused.Load(), len(lines))
		}
		lines = append(lines, string(ev.Line()))
		if len(lines) == 10 {
			gate.accept("second")
			cutting.Go(func() { cutUntil(t, f, func() bool { return refused.Load() > 0 }) })
		}
		if len(lines) == 20 {
			break
		}
	}
	if refused.Load() < 5 {
		t.Errorf("the token was refused %d times", refused.Load())
	}
	f.through(nil)
	sameEvents(t, "the tail", lines, f.truth("alice", "", ""))
}

// TestTokenIsNotRenewed: after some minutes the refusal is final.
func TestTokenIsNotRenewed(t *testing.T) {
	f := newFixture(t)
	gate := newGatekeeper(f, "first")
	first := "first"
	var token atomic.Pointer[string]
	token.Store(&first)
	cfg := withToken(f, &token)
	var c *Client
	retries := 0
	cfg.OnRetry = func(err error, _ time.Duration) {
		if retries++; retries == 3 {
			c.refused.Store(time.Now().Add(-tokenPatience).UnixNano())
		}
	}
	c = newTestClient(t, f.newCache(), cfg)
	if _, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	f.put("alice/a", 1)
	gate.accept("second")
	if _, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); !isUnauthorized(err) || retries != 3 {
		t.Errorf("%v after %d retries", err, retries)
	}
}

// cutUntil cuts all connections to the server until a condition holds. The stream of a tail may
// open only after its history was read.
func cutUntil(t *testing.T, f *fixture, holds func() bool) {
	for tick := time.NewTicker(10 * time.Millisecond); !holds(); {
		f.http.CloseClientConnections()
		select {
		case <-tick.C:
		case <-t.Context().Done():
			return
		}
	}
}

// TestTokenIsMissingForAWhile: what makes the token fails for some time in the middle of a tail,
// which goes on without loss or repeat.
func TestTokenIsMissingForAWhile(t *testing.T) {
	t.Run("one server", func(t *testing.T) { checkTokenMissing(t, newFixture(t)) })
	t.Run("two servers", func(t *testing.T) {
		f := newFixture(t)
		other := httptest.NewServer(f.srv)
		defer other.Close()
		checkTokenMissing(t, f, other)
	})
}

func checkTokenMissing(t *testing.T, f *fixture, others ...*httptest.Server) {
	cfg := hasty(f.http.URL)
	for _, s := range others {
		cfg.Servers = append(cfg.Servers, s.URL)
	}
	var failing atomic.Bool
	var failed, asked atomic.Int64
	missing := errors.New("no such file")
	repair := sync.OnceFunc(func() {
		f.put("alice/a", 10)
		failing.Store(false)
	})
	cfg.Token = func(context.Context, string) (string, error) {
		if !failing.Load() {
			return "token", nil
		}
		if asked.Add(1) > 1000 {
			repair()
		}
		return "", missing
	}
	cfg.OnRetry = func(err error, _ time.Duration) {
		if errors.Is(err, missing) && failed.Add(1) == 5 {
			repair()
		}
	}
	c := newTestClient(t, f.newCache(), cfg)
	f.put("alice/a", 10)
	var lines []string
	var cutting sync.WaitGroup
	defer cutting.Wait()
	for ev, err := range c.Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
		if err != nil {
			t.Fatalf("%v after %d lines", err, len(lines))
		}
		if lines = append(lines, string(ev.Line())); len(lines) == 10 {
			failing.Store(true)
			cutting.Go(func() {
				cutUntil(t, f, func() bool {
					for _, s := range others {
						s.CloseClientConnections()
					}
					return failed.Load() > 0 || asked.Load() > 100
				})
			})
		}
		if len(lines) == 20 {
			break
		}
	}
	// Two goroutines may ask, each for every server.
	if n := asked.Load(); n > 5*2*int64(len(cfg.Servers)) {
		t.Errorf("a token was asked for %d times, with %d pauses", n, failed.Load())
	}
	sameEvents(t, "the tail", lines, f.truth("alice", "", ""))
	failing.Store(true)
	c = newTestClient(t, nil, cfg)
	if _, err := c.Put(t.Context(), drafts("alice/a", "k")); !errors.Is(err, missing) || errors.As(err, new(*UnknownOutcomeError)) {
		t.Errorf("put without a token: %v", err)
	}
}

// TestSecretsStayWithTheirHost: a redirect to another host, or to another port of it, does not
// carry the token or the headers of Config, in pages and in streams, also if the caller's own
// HTTP client makes the requests.
func TestSecretsStayWithTheirHost(t *testing.T) {
	f := newFixture(t)
	f.put("alice/a", 1)
	var leaked, asked, streams atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if strings.Contains(fmt.Sprint(r.Header), "secret") {
			leaked.Add(1)
		}
		if r.Header.Get("Last-Event-ID") != "" {
			streams.Add(1)
		}
		f.srv.ServeHTTP(w, r)
	}))
	defer other.Close()
	f.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("X-Door") != "secret" || r.Header.Get("Accept") == "secret" {
				t.Errorf("the server itself got %v", r.Header)
			}
			http.Redirect(w, r, other.URL+r.RequestURI, http.StatusTemporaryRedirect)
		})
	})
	secret := "secret"
	var token atomic.Pointer[string]
	token.Store(&secret)
	for _, own := range []*http.Client{nil, {}} {
		streams.Store(0)
		cfg := withToken(f, &token)
		cfg.HTTP = own
		cfg.Header = func(string) http.Header { return http.Header{"X-Door": {"secret"}, "accept": {"secret"}} }
		c := newTestClient(t, f.newCache(), cfg)
		for range c.Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
			if streams.Load() > 0 {
				break
			}
			f.put("alice/a", 1)
		}
	}
	if asked.Load() == 0 || leaked.Load() > 0 {
		t.Errorf("%d of %d requests to another host had a secret", leaked.Load(), asked.Load())
	}
	f.through(nil)
}

// TestTokenThatCannotBeRead: an error of Token is the caller's, and is not retried.
func TestTokenThatCannotBeRead(t *testing.T) {
	f := newFixture(t)
	cfg := hasty(f.http.URL)
	missing := errors.New("no such file")
	cfg.Token = func(context.Context, string) (string, error) { return "", missing }
	cfg.OnRetry = func(err error, _ time.Duration) { t.Errorf("retried after %v", err) }
	c := newTestClient(t, f.newCache(), cfg)
	if _, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); !errors.Is(err, missing) {
		t.Error(err)
	}
}
