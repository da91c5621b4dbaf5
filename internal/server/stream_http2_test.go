package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// serveHTTP2 serves l over TLS until the test ends, and returns a client that speaks
// HTTP/2 and whose streams have room for room bytes. change may change the server of net/http.
func serveHTTP2(t *testing.T, l Log, cfg Config, room int, change ...func(*http.Server)) (*served, func()) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(parsed)
	srv := New(l, cfg)
	pipes := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	s := &served{Server: srv, t: t, l: pipes}
	transport := &http.Transport{
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return s.dial(), nil },
		DisableCompression: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool},
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: room},
	}
	s.http = &http.Client{Transport: transport}
	hs := &http.Server{Handler: srv, ErrorLog: quiet, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1000},
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.conns.Add(1)
			case http.StateClosed:
				s.conns.Add(-1)
			}
		}}
	for _, f := range change {
		f(hs)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = hs.ServeTLS(srv.Patient(pipes), "", "") })
	return s, sync.OnceFunc(func() {
		transport.CloseIdleConnections()
		srv.Stop()
		_ = hs.Close()
		serving.Wait()
	})
}

// streamTLS opens a stream over HTTP/2 and reads its preamble.
func (s *served) streamTLS(target string) (*frames, func() error) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "https://localhost"+target, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Accept", wire.SSE)
	resp, err := s.http.Do(r)
	if err != nil || resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK {
		s.t.Fatal(resp, err)
	}
	fs := newFrames(resp.Body)
	if f, err := fs.next(); err != nil || f.event != "" {
		s.t.Fatalf("a stream begins with %q, %v", f, err)
	}
	return fs, resp.Body.Close
}

// TestManyStreamsOnOneConnection: browsers and proxies share one HTTP/2 connection among all
// streams.
func TestManyStreamsOnOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		s, stop := serveHTTP2(t, log, Config{}, 64<<10)
		defer stop()
		streams := make([]*frames, 400)
		for i := range streams {
			fs, end := s.streamTLS(fmt.Sprintf("/events?topic=a/%d$", i))
			defer end()
			fs.want(t, "live", 0)
			streams[i] = fs
		}
		for i := range streams {
			log.put(t, "a", fmt.Sprint(i), 1)
		}
		for _, fs := range streams {
			if f, err := fs.next(); err != nil || f.event != "PUT" {
				t.Fatalf("%q, %v", f, err)
			}
		}
		if n := s.conns.Load(); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestStalledHTTP2Reader: a stream whose reader takes nothing ends after the write timeout,
// and the others on its connection go on.
func TestStalledHTTP2Reader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		s, stop := serveHTTP2(t, log, Config{}, 64<<10)
		defer stop()
		log.put(t, "b", "p", 2000)
		stalled, end := s.streamTLS("/events?topic=b")
		defer end()
		other, endOther := s.streamTLS("/events?topic=a")
		defer endOther()
		other.want(t, "live", 2000)
		synctest.Wait()
		before := inBubble()
		time.Sleep(29 * time.Second)
		log.put(t, "a", "p", 1)
		other.want(t, "", 2000)
		other.want(t, "PUT", 2001)
		if n := inBubble(); n < before {
			t.Errorf("the stalled stream ended early: %d goroutines, %d before", n, before)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := inBubble(); n >= before {
			t.Errorf("the stalled stream goes on: %d goroutines, %d before", n, before)
		}
		log.put(t, "a", "p", 1)
		other.want(t, "PUT", 2002)
		for deadline := time.Now().Add(time.Minute); ; {
			if _, err := stalled.nextBefore(deadline); err != nil {
				break // after what had arrived
			}
		}
	})
}

// TestQuietHTTP2Stream: a stream on which nothing waits to be sent does not end by the write timeout,
// however rare its heartbeats are. A revocation still ends it.
func TestQuietHTTP2Stream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		s, stop := serveHTTP2(t, log, Config{Heartbeat: 5 * time.Minute}, 64<<10)
		defer stop()
		fs, end := s.streamTLS("/events?topic=a")
		defer end()
		fs.want(t, "live", 0)
		for i := range 3 {
			time.Sleep(2 * time.Minute)
			log.put(t, "a", "p", 1)
			fs.want(t, "PUT", event.ID(i+1))
		}
	})
}

// A deadlineWriter has the deadlines that were set.
type deadlineWriter struct {
	http.ResponseWriter
	set []time.Time
}

func (w *deadlineWriter) SetWriteDeadline(t time.Time) error { w.set = append(w.set, t); return nil }

// TestHTTP2DeadlineStays: a deadline of a response is never removed, as net/http might take the next one
// only after the response has ended. One without a body gets none.
func TestHTTP2DeadlineStays(t *testing.T) {
	w := &deadlineWriter{ResponseWriter: httptest.NewRecorder()}
	p := &patientStream{ResponseWriter: w, rc: http.NewResponseController(w), patience: time.Minute}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if p.end(r); len(w.set) > 0 {
		t.Errorf("without a body: %v", w.set)
	}
	if _, err := p.Write(make([]byte, 3*streamPiece)); err != nil {
		t.Fatal(err)
	}
	if err := p.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	p.end(r)
	if n := len(w.set); n != 6 || slices.ContainsFunc(w.set, time.Time.IsZero) || time.Until(w.set[4]) < 100*p.patience || time.Until(w.set[5]) > p.patience {
		t.Errorf("deadlines %v", w.set)
	}
}

// TestResetHTTP2Request: a request that its client resets before the first byte of the response leaves
// nothing that keeps its connection in memory.
func TestResetHTTP2Request(t *testing.T) {
	type key struct{}
	for name, path := range map[string]string{"whole": "/", "unknown": "/unknown", "aborted": "/aborted"} {
		synctest.Test(t, func(t *testing.T) {
			var conn weak.Pointer[[64]byte]
			s, stop := serveHTTP2(t, newLog(), Config{}, 64<<10, func(hs *http.Server) {
				hs.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
					mark := new([64]byte)
					conn = weak.Make(mark)
					return context.WithValue(ctx, key{}, mark)
				}
				next := hs.Handler
				hs.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					<-r.Context().Done()
					next.ServeHTTP(w, r)
				})
			})
			defer stop()
			s.paths["/aborted"] = methods{http.MethodGet: func(w http.ResponseWriter, _ *http.Request) *wire.Error {
				_, _ = w.Write([]byte("x"))
				panic(http.ErrAbortHandler)
			}}
			ctx, reset := context.WithTimeout(t.Context(), time.Second)
			defer reset()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://localhost"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp, err := s.http.Do(r); err == nil {
				t.Fatal(resp.Status)
			}
			synctest.Wait()
			s.http.CloseIdleConnections()
			synctest.Wait()
			for range 3 { // pools keep what they have for two collections
				runtime.GC()
			}
			if s.conns.Load() != 0 || conn.Value() != nil {
				t.Errorf("%s: the connection is still in memory; %d are open", name, s.conns.Load())
			}
		})
	}
}

// TestStalledHTTP2Response: a response ends although its reader takes nothing of it, also if its handler
// has returned, and the rest of it is with net/http.
func TestStalledHTTP2Response(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room = 64 << 10
		log := newLog()
		s, stop := serveHTTP2(t, log, Config{}, room)
		defer stop()
		log.put(t, "b", "p", 400)
		get := func(limit int) *http.Response {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://localhost/events?topic=b&limit=%d", limit), nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Accept", wire.NDJSON)
			resp, err := s.http.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			return resp
		}
		resp := get(400)
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		before, line := inBubble(), len(b)/400
		for limit := room/line - 5; limit < room/line+40; limit++ {
			defer get(limit).Body.Close()
		}
		synctest.Wait()
		if n := inBubble(); n < before+20 {
			t.Fatalf("%d goroutines, %d before: the responses do not wait for their readers", n, before)
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if n := inBubble(); n > before+2 {
			t.Errorf("%d goroutines, %d before", n, before)
		}
	})
}
