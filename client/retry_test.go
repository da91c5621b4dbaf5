package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

const stubLog = "0123456789ABCDEF"

// A stub answers requests without a network.
type stub func(r *http.Request) (*http.Response, error)

func (s stub) RoundTrip(r *http.Request) (*http.Response, error) { return s(r) }

// answer makes a response of the stub's log.
func answer(r *http.Request, status int, mediaType string, body io.ReadCloser, headers ...string) *http.Response {
	h := http.Header{wire.HeaderLog: {stubLog}, "Content-Type": {mediaType}}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: body, Request: r, ProtoMajor: 1, ContentLength: -1, TransferEncoding: []string{"chunked"}}
}

func text(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }

// A pauses records the pauses of a client.
type pauses struct {
	took []time.Duration
	errs []error
}

func (p *pauses) note(err error, d time.Duration) {
	p.took, p.errs = append(p.took, d), append(p.errs, err)
}

func TestBackoff(t *testing.T) {
	cfg := Config{RetryMin: time.Second, RetryMax: 30 * time.Second}
	for range 200 {
		b := backoff{cfg: &cfg}
		for i, least := range []time.Duration{1, 2, 4, 8, 16, 20, 20, 20} {
			if d := b.nextPause(0); d < least*time.Second || d > least*time.Second*3/2 {
				t.Fatalf("pause %d is %v, want %v to half as much again", i, d, least*time.Second)
			}
		}
		b.resetPauses()
		b.base = 4 * time.Second
		if d := b.nextPause(0); d < 4*time.Second || d > 6*time.Second {
			t.Fatalf("after retry: 4000 the pause is %v", d)
		}
		if d := b.nextPause(5 * time.Minute); d < 5*time.Minute || d > 5*time.Minute+4*time.Second {
			t.Fatalf("after Retry-After: 300 the pause is %v", d)
		}
		b = backoff{cfg: &cfg, base: time.Minute}
		for range 5 {
			if d := b.nextPause(0); d < time.Minute || d > 90*time.Second {
				t.Fatalf("after retry: 60000, longer than RetryMax, the pause is %v", d)
			}
		}
		for base, least := range map[time.Duration]time.Duration{1<<62 + 1: maxRetryDelay, 1<<63 - 1: maxRetryDelay, -5: time.Second} {
			b = backoff{cfg: &cfg, base: base}
			for range 70 {
				if d := b.nextPause(0); d < least || d > max(least*3/2, cfg.RetryMax) {
					t.Fatalf("after retry: %v the pause is %v", base, d)
				}
			}
		}
	}
}

// Without Wait each server is tried once at first; with it they are tried forever.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := map[string]int{}
		up := time.Now().Add(time.Hour)
		var one sync.Mutex // both are asked at once when one has answered
		cfg := Config{Servers: []string{"http://a", "http://b"}, HTTP: &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
			one.Lock()
			defer one.Unlock()
			asked[r.URL.Host]++
			if time.Now().Before(up) {
				return nil, syscall.ECONNREFUSED
			}
			return answer(r, 200, wire.JSON, text(`{"log":"`+stubLog+`"}`)), nil
		})}}
		var p pauses
		cfg.OnRetry = p.note
		var unreachable *UnreachableError
		if _, err := Probe(t.Context(), cfg); !errors.As(err, &unreachable) || asked["a"] != 1 || asked["b"] != 1 || len(p.took) != 0 {
			t.Errorf("probe = %v after %v and the pauses %v", err, asked, p.took)
		}
		cfg.Wait = true
		if _, err := Probe(t.Context(), cfg); err != nil || time.Since(up) < 0 || time.Since(up) > 30*time.Second {
			t.Errorf("probe = %v, %v after the server was up", err, time.Since(up))
		}
		if n := len(p.took); n < 120 || n > 400 {
			t.Errorf("%d attempts in an hour", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		up = up.Add(time.Hour)
		if _, err := Probe(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("probe = %v", err)
		}
	})
}

// A server's Retry-After is respected, and does not delay the next server, which is asked again
// meanwhile.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		var times []time.Duration
		start := time.Now()
		var one sync.Mutex // both are asked at once when one has answered
		cfg := Config{Servers: []string{"http://a", "http://b"}, HTTP: &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
			one.Lock()
			defer one.Unlock()
			asked, times = append(asked, r.URL.Host), append(times, time.Since(start))
			switch {
			case r.URL.Host == "a" && time.Since(start) < 100*time.Second:
				return answer(r, 503, wire.Problem, text(`{}`), "Retry-After", "100"), nil
			case r.URL.Host == "b":
				return nil, syscall.ECONNRESET
			}
			return answer(r, 200, wire.JSON, text(`{"log":"`+stubLog+`"}`)), nil
		})}}
		if _, err := Probe(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		again := 1 + slices.Index(asked[1:], "a")
		if asked[0] != "a" || asked[1] != "b" || again < 4 || times[1] > time.Second || times[again] < 100*time.Second || times[again] > 130*time.Second {
			t.Errorf("asked %v at %v", asked, times)
		}
	})
}

// An append to a busy server is sent again unchanged, after the pause that the server asked
// for.
func TestPutTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := event.Draft{User: "a", Path: "p", Type: event.Put, Key: "k", Value: []byte("1")}
		start := time.Now()
		var bodies []string
		var times []time.Duration
		c := stubClient(t, func(r *http.Request) (*http.Response, error) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			bodies, times = append(bodies, string(b)), append(times, time.Since(start))
			switch len(bodies) {
			case 1:
				return answer(r, 429, wire.Problem, text(`{}`), "Retry-After", "20"), nil
			case 2:
				at := time.Now().Add(40 * time.Second).UTC().Format(http.TimeFormat)
				return answer(r, 429, wire.Problem, text(`{}`), "Retry-After", at), nil
			}
			receipts := []event.Receipt{{Event: event.New(9, 1, d, d.Hash())}}
			return answer(r, 200, wire.NDJSON, text(string(wire.AppendResults(nil, receipts)))), nil
		})
		receipts, err := c.Put(t.Context(), []event.Draft{d})
		if err != nil || len(receipts) != 1 || receipts[0].ID != 9 {
			t.Fatalf("Put = %v, %v", receipts, err)
		}
		if len(bodies) != 3 || bodies[1] != bodies[0] || bodies[2] != bodies[0] {
			t.Errorf("sent %q", bodies)
		}
		if times[1] < 20*time.Second || times[1] > 22*time.Second || times[2]-times[1] < 39*time.Second || times[2]-times[1] > 44*time.Second {
			t.Errorf("asked at %v", times)
		}
	})
}

// runFollow runs the live cursor against a stub until its context ends.
func runFollow(t *testing.T, cfg Config, until time.Duration) {
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := newCopy.WriteNew(path, stubLog); err != nil {
		t.Fatal(err)
	}
	db, err := cache.Open(t.Context(), path, cache.Config{Role: cache.Client, Log: stubLog})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	cfg.Servers = []string{"http://a"}
	c, err := New(db, cfg)
	if err != nil {
		t.Fatal(err)
	}
	topics := []event.Topic{event.All}
	lease, err := db.Leases().Follow(t.Context(), topics, 7)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), until)
	defer cancel()
	if err := c.live.keepFollowing(ctx, lease, topics); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("follow = %v", err)
	}
}

// stream responds with a stream that sends body, lasts for a time and ends with end.
func stream(r *http.Request, body string, lasts time.Duration, end error) *http.Response {
	from, to := io.Pipe()
	stop := context.AfterFunc(r.Context(), func() { to.CloseWithError(r.Context().Err()) })
	go func() {
		defer stop()
		_, _ = io.WriteString(to, body)
		select {
		case <-time.After(lasts):
		case <-r.Context().Done():
		}
		to.CloseWithError(end)
	}()
	return answer(r, 200, wire.SSE, from, wire.HeaderFrom, event.ID(7).String(), wire.HeaderHead, event.ID(7).String())
}

// Each failure doubles the pause. A healthy connection, even a quiet one, resets it; one
// that ends at once does not. The first pause is the delay of the retry field.
func TestFollowPauses(t *testing.T) {
	for name, tc := range map[string]struct {
		body  string
		lasts time.Duration
		end   error
		least []time.Duration
	}{
		"ends at once":      {"", 0, io.EOF, []time.Duration{1, 2, 4, 8, 16, 20, 20}},
		"is reset":          {": hi\n\n", time.Second, syscall.ECONNRESET, []time.Duration{1, 2, 4, 8}},
		"lasts":             {"", 31 * time.Second, io.EOF, []time.Duration{1, 1, 1, 1}},
		"asks for 5 s":      {"retry: 5000\n\n", 0, io.EOF, []time.Duration{5, 10, 20, 20, 20}},
		"asks for too much": {"retry: 99999999999999999999\n\n", 0, io.EOF, []time.Duration{300}},
		"asks for nothing":  {"retry: 0\n\n", 0, io.EOF, []time.Duration{1, 2, 4}},
		"stalls":            {"id: 0000000000007\n\nid: 00000", time.Hour, io.EOF, []time.Duration{1, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p pauses
				runFollow(t, Config{RetryMin: time.Second, OnRetry: p.note, HTTP: &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
					if r.Header.Get("Accept") == wire.NDJSON { // whether anything was missed
						at := event.ID(7).String()
						return answer(r, 200, wire.NDJSON, text(""), wire.HeaderFrom, at, wire.HeaderTo, at), nil
					}
					if got := r.Header.Get("Last-Event-ID"); got != "0000000000007.01234" {
						t.Errorf("asks from %q", got)
					}
					return stream(r, tc.body, tc.lasts, tc.end), nil
				})}}, 3*time.Minute)
				synctest.Wait()
				if len(p.took) < len(tc.least) {
					t.Fatalf("only the pauses %v (%v)", p.took, p.errs)
				}
				for i, least := range tc.least {
					if least *= time.Second; p.took[i] < least || p.took[i] > least*3/2 {
						t.Errorf("pause %d is %v after %v, want %v to half as much again", i, p.took[i], p.errs[i], least)
					}
				}
				if name == "stalls" && !errors.Is(p.errs[0], ErrIdle) {
					t.Errorf("ends with %v, want %v", p.errs[0], ErrIdle)
				}
				if text := p.errs[0].Error(); !strings.HasPrefix(text, "read a: ") {
					t.Errorf("the drop is called %q", text)
				}
			})
		})
	}
}

// An answer has nothing of an answer that was refused before it.
func TestAttemptsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lies := func(_ *mesh, h http.Handler) http.Handler {
			return lyingAbout("/windows", `"from":"0000000000000`, `"start":"2026-01-01T00:00:00.000000Z","from":"0000000000001`)(h)
		}
		m := newMesh(t, 3, lies, good)
		m.use(nil, func(c *Client, _ *cache.DB) {
			w, base, err := c.requestSumBy(t.Context(), event.All, Range{Since: event.FromBeginning})
			if err != nil || base != "http://b" || w.Start != nil {
				t.Errorf("the sum is %s from %v, of %s, %v, want one without a start, of b", w.Span(), w.Start, base, err)
			}
		})
	})
}
