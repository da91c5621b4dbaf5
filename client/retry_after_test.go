package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/testfile"
	"github.com/rstream-dev/rstream/internal/wire"
)

// inProcess is a transport that calls a handler: time passes in a bubble although the client waits
// for an answer.
type inProcess struct{ h http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	in := r.Clone(ctx)
	in.RequestURI, in.RemoteAddr = r.URL.RequestURI(), "127.0.0.1:1"
	if in.Body == nil {
		in.Body = http.NoBody
	}
	body, to := io.Pipe()
	w := &pipeWriter{header: http.Header{}, to: to, begun: make(chan struct{})}
	go func() {
		defer to.Close()
		defer w.WriteHeader(http.StatusOK)
		p.h.ServeHTTP(w, in)
	}()
	<-w.begun
	return &http.Response{StatusCode: w.status, Header: w.sent, Body: &pipeBody{body, cancel}, Request: r, ProtoMajor: 1, ContentLength: -1}, nil
}

type pipeWriter struct {
	header, sent http.Header
	to           *io.PipeWriter
	status       int
	once         sync.Once
	begun        chan struct{}
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) FlushError() error   { w.WriteHeader(http.StatusOK); return nil }

func (w *pipeWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.begun)
	})
}

func (w *pipeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.to.Write(b)
}

type pipeBody struct {
	*io.PipeReader
	cancel func()
}

func (b *pipeBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// A limiter refuses the first request of each kind, and asks to wait.
type limiter struct {
	t      *testing.T
	next   http.Handler
	status int

	mu     sync.Mutex
	until  map[string]time.Time // when a kind may be asked again
	ends   context.CancelFunc   // of the last stream
	waited int
}

const limiterWait = 20 * time.Second

func (l *limiter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := r.Method + " " + r.URL.Path + " " + r.Header.Get("Accept")
	l.mu.Lock()
	until, asked := l.until[kind]
	if !asked {
		l.until[kind] = time.Now().Add(limiterWait)
	}
	if time.Now().Before(until) {
		l.t.Errorf("%s is asked again %s too early", kind, time.Until(until))
	}
	ctx, ends := context.WithCancel(r.Context())
	defer ends()
	if asked && strings.Contains(kind, wire.SSE) {
		l.ends = ends
	}
	if !asked {
		l.waited++
	}
	l.mu.Unlock()
	if asked {
		l.next.ServeHTTP(w, r.WithContext(ctx))
		return
	}
	w.Header().Set(wire.HeaderLog, stubLog)
	problem := wire.Errorf(l.status, "too many requests")
	problem.RetryAfter = limiterWait
	problem.Write(w)
}

// cutStream ends the stream that is open, and refuses the next one.
func (l *limiter) cutStream() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for kind := range l.until {
		if strings.Contains(kind, wire.SSE) {
			delete(l.until, kind)
		}
	}
	l.ends()
}

// A world is a log, its server and a client, without a network.
type world struct {
	c         *Client
	copy, log *cache.DB
	gate      *limiter
}

// newWorld makes a world in a bubble. The caller closes it.
func newWorld(t *testing.T, dir string, gate func(http.Handler) http.Handler, cfg Config) *world {
	open := func(file string, role cache.Role) *cache.DB {
		path := filepath.Join(dir, file)
		if err := map[cache.Role]*testfile.Template{cache.Server: newLog, cache.Client: newCopy}[role].WriteNew(path, stubLog); err != nil {
			t.Fatal(err)
		}
		db, err := cache.Open(t.Context(), path, cache.Config{Role: role, Log: stubLog})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	w := &world{log: open("log.db", cache.Server), copy: open("copy.db", cache.Client)}
	srv := server.New(w.log, server.Config{})
	cfg.Servers, cfg.HTTP = []string{"http://log"}, &http.Client{Transport: inProcess{gate(srv)}}
	var err error
	if w.c, err = New(w.copy, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.c.Close()
		srv.Stop()
		if err := errors.Join(w.copy.Close(), w.log.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// worldEvents is how many events more appends.
const worldEvents = 20

// more appends events, the first of which has the key first.
func (w *world) more(t *testing.T, first int) (evs []event.Event) {
	var keys []string
	for i := range worldEvents {
		keys = append(keys, fmt.Sprint(first+i))
	}
	receipts, err := w.log.Append(t.Context(), drafts("alice/x", keys...))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range receipts {
		evs = append(evs, r.Event)
	}
	return evs
}

// Each call waits as long as a server asks, says why, and then completes.
func TestRetryAfterOfEachCall(t *testing.T) {
	const events = worldEvents
	topic := mustTopic(t, "alice")
	calls := map[string]func(t *testing.T, w *world, evs []event.Event) (held int, err error){ // held is events if all went well
		"sync": func(t *testing.T, w *world, _ []event.Event) (int, error) {
			s, err := w.c.Sync(t.Context(), topic, SyncOptions{})
			return int(s.Held), err
		},
		"import": func(t *testing.T, w *world, evs []event.Event) (int, error) {
			importAll(t, w.copy, evs[:events*3/4])
			s, err := w.c.Sync(t.Context(), topic, SyncOptions{})
			return int(s.Held), err
		},
		"state": func(t *testing.T, w *world, _ []event.Event) (n int, err error) {
			for _, err := range w.c.State(t.Context(), topic, event.Now) {
				if err != nil {
					return n, err
				}
				n += events // its storage has one value
			}
			return n, nil
		},
		"put": func(t *testing.T, w *world, _ []event.Event) (int, error) {
			_, err := w.c.Put(t.Context(), drafts("alice/y", "k"))
			return int(w.log.Head()) - 1, err
		},
		"tail": func(t *testing.T, w *world, evs []event.Event) (n int, err error) {
			for ev, err := range w.c.Tail(t.Context(), topic, TailOptions{}) {
				if err != nil {
					return n, err
				}
				if n++; int(ev.ID) != n {
					return n, fmt.Errorf("event %d is %s", n, ev.ID)
				}
				switch n {
				case events:
					time.AfterFunc(time.Minute, func() { w.more(t, n) })
				case 2 * events: // by the stream, which is open by then
					w.gate.cutStream()
					w.more(t, n)
				case 3 * events:
					return events, nil
				}
			}
			return n, errors.New("the tail ended")
		},
	}
	for name, call := range calls {
		statuses := []int{http.StatusTooManyRequests}
		if longtest.Enabled() {
			statuses = append(statuses, http.StatusServiceUnavailable)
		}
		for _, status := range statuses {
			t.Run(fmt.Sprint(name, " ", status), func(t *testing.T) {
				dir := t.TempDir()
				synctest.Test(t, func(t *testing.T) {
					gate := &limiter{t: t, status: status, until: map[string]time.Time{}}
					retries := 0
					w := newWorld(t, dir, func(next http.Handler) http.Handler { gate.next = next; return gate }, Config{OnRetry: func(err error, pause time.Duration) {
						var refused *StatusError
						if errors.As(err, &refused) && refused.Status == status {
							retries++
							if pause < limiterWait || pause > 2*limiterWait || !strings.Contains(err.Error(), "too many requests") {
								t.Errorf("%v, and a pause of %s", err, pause)
							}
						}
					}})
					w.gate = gate
					held, err := call(t, w, w.more(t, 0))
					if err != nil || held != events {
						t.Errorf("%d of %d, %v", held, events, err)
					}
					// A tail may end before it has said why it connects again.
					if retries == 0 || retries != gate.waited && (name != "tail" || retries != gate.waited-1) {
						t.Errorf("%d pauses after %d refusals", retries, gate.waited)
					}
				})
			})
		}
	}
}

// A token is renewed a minute after the server has ended it, and then the tail continues.
func TestTokenIsAMinuteLate(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ends := time.Now().Add(10 * time.Minute)
		renewed := ends.Add(time.Minute)
		refused, sent := 0, ""
		w := newWorld(t, dir, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "Bearer old" || time.Now().Before(ends) {
					ctx, cancel := context.WithDeadline(r.Context(), ends)
					defer cancel()
					if time.Now().After(ends) {
						ctx = r.Context()
					}
					next.ServeHTTP(w, r.WithContext(ctx))
					return
				}
				refused++
				w.Header().Set(wire.HeaderLog, stubLog)
				wire.Errorf(http.StatusUnauthorized, "token has expired").Write(w)
			})
		}, Config{Token: func(context.Context, string) (string, error) {
			if sent = "old"; !time.Now().Before(renewed) {
				sent = "new"
			}
			return sent, nil
		}})
		w.more(t, 0)
		n := 0
		time.AfterFunc(time.Until(ends)+time.Second, func() { w.more(t, worldEvents) })
		for ev, err := range w.c.Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
			if n++; err != nil || int(ev.ID) != n {
				t.Fatalf("event %d is %v, %v, after %d refusals", n, ev, err, refused)
			}
			if n == 2*worldEvents {
				break
			}
		}
		if late := time.Since(renewed); refused < 2 || sent != "new" || late < 0 || late > 30*time.Second {
			t.Errorf("%d refusals; the events came %s after the %s token", refused, late, sent)
		}
	})
}
