package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
)

// TestRoomAway: a reader that has the room of another server gets no empty room while that is away,
// as long as it may return.
func TestRoomAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "a", "p", 1)
		s, stop := serve(t, log, Config{Heartbeat: time.Hour})
		defer stop()
		const elsewhere = "0000000000001.ZZZZZ"
		ends := func(topic, id string, want bool) {
			t.Helper()
			fs, closer := s.stream(wire.PathRoom+topic, "Last-Event-ID", id)
			defer closer.Close()
			f, err := fs.nextBefore(time.Now().Add(time.Minute))
			if want && !strings.Contains(f.data, ownerAway) {
				t.Errorf("the room %s after %s: %q", topic, id, f)
			}
			if got := f.event == awayEvent; err != nil || got != want || !got && f.event != wire.StateEvent {
				t.Errorf("the room %s after %s: %q, %v; want an end: %t", topic, id, f, err, want)
			}
			if _, err := fs.nextBefore(time.Now().Add(time.Minute)); want && err != io.EOF {
				t.Errorf("the room %s after %s goes on: %v", topic, id, err)
			}
		}
		ends("b", elsewhere, true)
		ends("a", elsewhere, false)
		ends("b", "letmein", false)
		// After a while, a server without nodes knows that the cursor is of an older log.
		time.Sleep(nodesReturn + time.Second)
		ends("b", elsewhere, false)
		_, looks := s.stream(wire.PathLooks + "?node=n")
		ends("b", elsewhere, true)
		looks.Close()
		ends("b", elsewhere, true)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestRoomHung: the room of a server that is stopped ends, so that its reader asks again.
func TestRoomHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := roundTripper(func(r *http.Request) (*http.Response, error) {
			body, stopped := io.Pipe()
			go func() {
				for range 10 {
					_, _ = stopped.Write(wire.AppendPreamble(nil, time.Second))
					time.Sleep(15 * time.Second)
				}
			}()
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {wire.SSE}, wire.HeaderLog: {logName}}, Body: body, Request: r}, nil
		})
		s, stop := serve(t, newLog(), Config{Peers: []Peer{{URL: "http://peer", HTTP: &http.Client{Transport: transport}}}})
		defer stop()
		began := time.Now()
		fs, closer := s.stream(wire.PathRoom + "a")
		defer closer.Close()
		for err := error(nil); err == nil; {
			_, err = fs.next()
		}
		if got := time.Since(began); got != 9*15*time.Second+relaySilence {
			t.Errorf("the room ended after %s", got)
		}
	})
}

// answer returns a response of another server.
func answer(status int, kind string, body io.Reader, header ...string) *http.Response {
	h := http.Header{wire.HeaderLog: {logName}}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	if h.Get(wire.HeaderLog) == "" {
		h.Del(wire.HeaderLog)
	}
	if kind != "" {
		h.Set("Content-Type", kind)
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(body)}
}

// withPeer returns a server that asks another one, which answers with f.
func withPeer(t *testing.T, cfg Config, url string, f roundTripper) (*served, func()) {
	t.Helper()
	cfg.Peers = []Peer{{URL: url, HTTP: &http.Client{Transport: f}, Header: http.Header{"X-Way": {"through"}}}}
	return serve(t, newLog(), cfg)
}

// TestPeerAnswers: only a room is passed on, a refusal means that there is none, and whatever says
// nothing about the room is no empty room. It is logged once.
func TestPeerAnswers(t *testing.T) {
	const elsewhere = `{"topic":"a","connections":[],"at":"","events":[]}`
	for _, c := range []struct {
		name string
		resp func() (*http.Response, error)
		want int
		says string // in the body
	}{
		{"a room", func() (*http.Response, error) { return answer(200, wire.JSON, strings.NewReader(elsewhere)), nil }, 200, `"at":""`},
		{"a page", func() (*http.Response, error) { return answer(200, "text/html", strings.NewReader("<script>")), nil }, 503, "away"},
		{"a compressed room", func() (*http.Response, error) {
			return answer(200, wire.JSON, strings.NewReader(elsewhere), "Content-Encoding", "gzip"), nil
		}, 503, "away"},
		{"another server", func() (*http.Response, error) {
			return answer(200, wire.JSON, strings.NewReader(elsewhere), wire.HeaderLog, ""), nil
		}, 503, "away"},
		{"no such topic", func() (*http.Response, error) {
			return answer(421, wire.Problem, strings.NewReader("{}")), nil
		}, 200, `"events":[]`},
		{"not for the bearer", func() (*http.Response, error) {
			return answer(403, wire.Problem, strings.NewReader("{}")), nil
		}, 200, `"events":[]`},
		{"too busy", func() (*http.Response, error) { return answer(429, wire.Problem, strings.NewReader("{}")), nil }, 503, "away"},
		{"a redirect", func() (*http.Response, error) {
			return answer(302, "text/html", http.NoBody), nil
		}, 503, "away"},
		{"a refusal of a proxy", func() (*http.Response, error) {
			return answer(404, "text/html", strings.NewReader("<p>"), wire.HeaderLog, ""), nil
		}, 503, "away"},
		{"too late", func() (*http.Response, error) { return answer(408, wire.Problem, strings.NewReader("{}")), nil }, 503, "away"},
		{"too early", func() (*http.Response, error) { return answer(425, wire.Problem, strings.NewReader("{}")), nil }, 503, "away"},
		{"broken", func() (*http.Response, error) { return answer(502, "text/html", strings.NewReader("{}")), nil }, 503, "away"},
		{"away", func() (*http.Response, error) { return nil, errors.New("refused http://u:letmein@peer") }, 503, "away"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var said bytes.Buffer
			var header http.Header
			s, stop := withPeer(t, Config{Logger: slog.New(slog.NewTextHandler(&said, nil))}, "http://u:letmein@peer", func(r *http.Request) (*http.Response, error) {
				header = r.Header
				return c.resp()
			})
			for range 2 {
				resp := s.get(wire.PathRoom + "a")
				text := body(t, resp)
				kind := resp.Header.Get("Content-Type")
				if resp.StatusCode != c.want || !strings.Contains(text, c.says) || kind != wire.JSON && kind != wire.Problem {
					t.Errorf("%s, %s: %s; want %d with %s", resp.Status, kind, text, c.want, c.says)
				}
				if policy := resp.Header.Get("Content-Security-Policy"); c.name == "a room" && policy != "default-src 'none'" {
					t.Errorf("the policy of a room is %q", policy)
				}
			}
			if c.want == http.StatusServiceUnavailable {
				fs, closer := s.stream(wire.PathRoom + "a")
				if f, err := fs.next(); err != nil || f.event != awayEvent || !strings.Contains(f.data, mayBeAway) {
					t.Errorf("the stream begins with %q, %v", f, err)
				}
				if _, err := fs.next(); err != io.EOF {
					t.Errorf("after %s: %v", awayEvent, err)
				}
				closer.Close()
			}
			stop()
			if want := map[bool]int{true: 1}[c.want == 503]; strings.Count(said.String(), "no answer about a room") != want || strings.Contains(said.String(), "letmein") {
				t.Errorf("the log is %s", said.String())
			}
			if header.Get("X-Way") != "through" || header.Get(wire.HeaderAsk) != wire.AskNodes {
				t.Errorf("the request has %v", header)
			}
		})
	}
}

// TestPeerWithoutTLS: a token is sent to no server beyond this machine without TLS, which is logged
// once and without a password.
func TestPeerWithoutTLS(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	token := ring.grant([]string{"*"}, nil, func(c *auth.Claims) { c.Rights.Board = auth.BoardRead })
	var said bytes.Buffer
	s, stop := withPeer(t, Config{Guard: ring.guard, Logger: slog.New(slog.NewTextHandler(&said, nil))}, "http://u:letmein@192.0.2.1", func(*http.Request) (*http.Response, error) {
		t.Error("the server was asked")
		return nil, io.EOF
	})
	for range 2 {
		resp := s.get(wire.PathRoom+"a", "Authorization", bearer(token))
		if text := body(t, resp); resp.StatusCode != http.StatusOK {
			t.Errorf("%s %s", resp.Status, text)
		}
	}
	stop()
	if strings.Count(said.String(), "a room is not asked for without TLS") != 1 || strings.Contains(said.String(), "letmein") {
		t.Errorf("the log is %s", said.String())
	}
}

// TestRoomCut: a room of another server that cannot be read to its end does not end properly.
func TestRoomCut(t *testing.T) {
	for name, end := range map[string]func(*io.PipeWriter){
		"cut":     func(w *io.PipeWriter) { _ = w.CloseWithError(io.ErrUnexpectedEOF) },
		"stopped": func(*io.PipeWriter) {},
		"slow": func(w *io.PipeWriter) {
			time.Sleep(relaySilence - time.Second)
			_, _ = w.Write([]byte(`"a"}`))
			_ = w.Close()
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, stop := withPeer(t, Config{MaxStreamAge: time.Second, Rates: &wire.Rates{Streams: 1}}, "http://peer", func(*http.Request) (*http.Response, error) {
				r, w := io.Pipe()
				go func() {
					_, _ = w.Write([]byte(`{"topic":`))
					end(w)
				}()
				resp := answer(http.StatusOK, wire.JSON, nil)
				resp.Body = r
				return resp, nil
			})
			defer stop()
			resp, err := s.tryGet(t.Context(), wire.PathRoom+"a")
			var b []byte
			if err == nil { // else nothing of it was sent yet
				b, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if name == "slow" && (err != nil || string(b) != `{"topic":"a"}`) || name != "slow" && err == nil {
				t.Errorf("%s: %q, %v", name, b, err)
			}
		})
	}
}

// TestNothingRelayedAfterExp: what another server sends after the token has ended is not passed on.
func TestNothingRelayedAfterExp(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	for _, kind := range []string{wire.JSON, wire.SSE} {
		synctest.Test(t, func(t *testing.T) {
			guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: ring.dir + "/keys"})
			if err != nil {
				t.Fatal(err)
			}
			s, stop := withPeer(t, Config{Guard: guard, Heartbeat: time.Hour}, "https://peer", func(*http.Request) (*http.Response, error) {
				r, w := io.Pipe()
				go func() {
					defer w.Close()
					_, _ = w.Write([]byte("before"))
					time.Sleep(time.Minute)
					_, _ = w.Write(bytes.Repeat([]byte("after"), 2000)) // more than is buffered
				}()
				resp := answer(http.StatusOK, kind, nil)
				resp.Body = r
				return resp, nil
			})
			defer stop()
			token := ring.grant([]string{"*"}, nil, func(c *auth.Claims) {
				c.Rights.Board = auth.BoardRead
				c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(time.Minute))
			})
			var b []byte
			resp, err := s.tryGet(t.Context(), wire.PathRoom+"a", "Authorization", bearer(token), "Accept", kind)
			if err == nil { // else nothing of it was sent yet
				b, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if strings.Contains(string(b), "after") || kind == wire.JSON && err == nil {
				t.Errorf("%s: %q, %v", kind, b, err)
			}
		})
	}
}

// TestNodeTLS: nodes are asked with the certificates of the program.
func TestNodeTLS(t *testing.T) {
	node := httptest.NewTLSServer(http.NotFoundHandler())
	defer node.Close()
	roots := x509.NewCertPool()
	roots.AddCert(node.Certificate())
	s := New(newLog(), Config{NodeTLS: &tls.Config{RootCAs: roots}})
	defer s.Stop()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, node.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.nodeHTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.nodeHTTP.CloseIdleConnections()
}
