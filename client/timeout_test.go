package client

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A stalled body brings some bytes and then nothing, until it is closed.
type stalledBody struct {
	io.Reader
	closed chan struct{}
}

func (b *stalledBody) Read(p []byte) (int, error) {
	if n, _ := b.Reader.Read(p); n > 0 {
		return n, nil
	}
	<-b.closed
	return 0, errors.New("closed")
}

func (b *stalledBody) Close() error {
	select {
	case <-b.closed:
	default:
		close(b.closed)
	}
	return nil
}

// A call that does not end is given up after the Timeout, and not before.
func TestTimeout(t *testing.T) {
	refuse := func(r *http.Request) (*http.Response, error) {
		return answer(r, 503, wire.Problem, text(`{"status":503,"title":"busy"}`), "Retry-After", "7"), nil
	}
	for name, serve := range map[string]stub{
		"503 for ever": refuse,
		"torn for ever": func(r *http.Request) (*http.Response, error) {
			return answer(r, 200, wire.JSON, &errorBody{io.ErrUnexpectedEOF}), nil
		},
		"silent in the body": func(r *http.Request) (*http.Response, error) {
			return answer(r, 200, wire.JSON, &stalledBody{text(`{"log":`), make(chan struct{})}), nil
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			cfg := Config{Servers: []string{"http://a"}, HTTP: &http.Client{Transport: serve}, Wait: true, Timeout: 20 * time.Second}
			var timeout *TimeoutError
			_, err := Probe(t.Context(), cfg)
			if !errors.As(err, &timeout) || timeout.After != cfg.Timeout {
				t.Errorf("%s: Probe = %v", name, err)
			}
			if d := time.Since(start); d != cfg.Timeout {
				t.Errorf("%s: given up after %v", name, d)
			}
		})
	}
}

type errorBody struct{ err error }

func (b *errorBody) Read([]byte) (int, error) { return 0, b.err }
func (b *errorBody) Close() error             { return nil }

// Progress restarts the Timeout: appends that each take four attempts and nine seconds
// never exceed a Timeout of ten.
func TestTimeoutStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		cfg := Config{Servers: []string{"http://a"}, RetryMin: 2 * time.Second, RetryMax: 2 * time.Second, Wait: true, Timeout: 10 * time.Second,
			HTTP: &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
				if asked++; asked%4 != 0 {
					return answer(r, 503, wire.Problem, text(`{}`)), nil
				}
				return answer(r, 200, wire.JSON, text(`{"log":"`+stubLog+`"}`)), nil
			})}}
		cfg, err := cfg.checked()
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(nil, cfg)
		for range 20 {
			if _, err := c.Info(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// An open stream makes progress, however quiet it is. Its Timeout begins once it is cut
// and cannot be opened again.
func TestTimeoutOfTail(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 1)
	quiet := server.New(f.db, server.Config{Heartbeat: time.Minute, Retry: time.Millisecond})
	defer quiet.Stop()
	f.through(func(http.Handler) http.Handler { return quiet })
	cfg := hasty(f.http.URL)
	cfg.Timeout = 150 * time.Millisecond
	c := newTestClient(t, f.newCache(), cfg)
	cut := make(chan time.Time, 1)
	n := 0
	err := func() error {
		for _, err := range c.Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
			if err != nil {
				return err
			}
			switch n++; n {
			case 1:
				late := time.AfterFunc(3*cfg.Timeout, func() { f.put("alice/x", 1) })
				defer late.Stop()
			case 2:
				late := time.AfterFunc(3*cfg.Timeout, func() {
					f.through(func(http.Handler) http.Handler {
						return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
					})
					cut <- time.Now()
					f.http.CloseClientConnections()
				})
				defer late.Stop()
			}
		}
		return nil
	}()
	var timeout *TimeoutError
	if !errors.As(err, &timeout) || n != 2 {
		t.Fatalf("the tail had %d events and ended with %v", n, err)
	}
	if d := time.Since(<-cut); d < cfg.Timeout {
		t.Errorf("given up %v after the cut", d)
	}
}
