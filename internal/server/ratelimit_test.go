package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
)

// limitedBubble runs a test against a server with keys and rates, in synctest's time.
func limitedBubble(t *testing.T, rates wire.Rates, test func(t *testing.T, s *served, log *memLog, token func(subject string) string)) {
	ring := newKeyring(t, auth.Config{})
	synctest.Test(t, func(t *testing.T) {
		guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: ring.dir + "/keys"})
		if err != nil {
			t.Fatal(err)
		}
		log := newLog()
		s, stop := serve(t, log, Config{Guard: guard, Rates: &rates})
		defer stop()
		test(t, s, log, func(subject string) string {
			return bearer(ring.grant([]string{"*"}, []string{"*"}, func(c *auth.Claims) { c.Subject, c.Rights.Board = subject, auth.BoardRead }))
		})
	})
}

// wantLimited checks that a response refuses a request beyond a limit, and returns how
// long it asks to wait.
func wantLimited(t *testing.T, resp *http.Response, text, kind string) time.Duration {
	t.Helper()
	var seconds int
	if _, err := fmt.Sscan(resp.Header.Get("Retry-After"), &seconds); err != nil || resp.StatusCode != http.StatusTooManyRequests || !strings.Contains(text, "too many "+kind) {
		t.Fatalf("%s, %v, %s; want too many %s", resp.Status, resp.Header, text, kind)
	}
	return time.Duration(seconds) * time.Second
}

func TestRequestRate(t *testing.T) {
	limitedBubble(t, wire.Rates{Requests: 2}, func(t *testing.T, s *served, _ *memLog, token func(string) string) {
		alice, bob := token("alice"), token("bob")
		ask := func(auth string) (*http.Response, string) {
			resp := s.get("/", "Authorization", auth)
			return resp, body(t, resp)
		}
		for i := range 2 * burst {
			if resp, text := ask(alice); resp.StatusCode != http.StatusOK {
				t.Fatalf("request %d: %s %s", i, resp.Status, text)
			}
		}
		resp, text := ask(alice)
		wait := wantLimited(t, resp, text, "requests")
		if resp, text := ask(bob); resp.StatusCode != http.StatusOK {
			t.Errorf("another subject: %s %s", resp.Status, text)
		}
		// Another token of the same subject shares its rate.
		resp, text = ask(token("alice"))
		wantLimited(t, resp, text, "requests")
		if resp := s.get("/healthz"); resp.StatusCode != http.StatusOK {
			t.Errorf("health checks are limited: %s", resp.Status)
		}
		time.Sleep(wait)
		if resp, text := ask(alice); resp.StatusCode != http.StatusOK {
			t.Errorf("after %s: %s %s", wait, resp.Status, text)
		}
	})
}

// TestRequestRateWithoutKeys: a limit that is set holds without keys, too, except for health checks.
func TestRequestRateWithoutKeys(t *testing.T) {
	bubble(t, Config{Rates: &wire.Rates{Requests: 2}}, func(t *testing.T, s *served, _ *memLog) {
		for i := range 2 * burst {
			if resp := s.get("/"); resp.StatusCode != http.StatusOK {
				t.Fatalf("request %d: %s", i, resp.Status)
			}
		}
		resp := s.get("/")
		wantLimited(t, resp, body(t, resp), "requests")
		if resp := s.get("/healthz"); resp.StatusCode != http.StatusOK {
			t.Errorf("health checks are limited: %s", resp.Status)
		}
	})
}

// TestRequestRateOfStrangers: requests that are refused for want of a token count against a rate of
// their address, not that of a subject, of logins or of pages, and fill no log.
func TestRequestRateOfStrangers(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	synctest.Test(t, func(t *testing.T) {
		var said lines
		guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: ring.dir + "/keys"})
		if err != nil {
			t.Fatal(err)
		}
		s, stop := serve(t, newLog(), Config{Guard: guard, Rates: &wire.Rates{Requests: 2}, Logger: slog.New(slog.NewTextHandler(&said, nil))})
		defer stop()
		path := "/" + strings.Repeat("x", 10_000)
		for i := range 2 * burst {
			if resp := s.get(path); resp.StatusCode != http.StatusUnauthorized {
				t.Fatalf("request %d: %s", i, resp.Status)
			}
		}
		resp := s.get(path)
		wantLimited(t, resp, body(t, resp), "requests")
		if resp := s.get("/", "Authorization", bearer(ring.grant(nil, nil, nil))); resp.StatusCode != http.StatusOK {
			t.Errorf("with a token: %s", resp.Status)
		}
		for range burst {
			s.get(path)
		}
		time.Sleep(time.Second) // which has 2 requests
		for range 3 {
			resp = s.get(path)
		}
		wantLimited(t, resp, body(t, resp), "requests")
		if n := said.count("status=429"); n != 2 || said.count(fmt.Sprintf("others=%d", burst)) != 1 {
			t.Errorf("%d lines about requests beyond the limit: %q", n, said.text)
		}
		resp = s.get("/", "Accept", "text/html")
		if text := body(t, resp); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(text, "<form") {
			t.Errorf("the page: %s %s", resp.Status, text)
		}
		login, err := s.http.Post("http://localhost/login", "application/x-www-form-urlencoded", strings.NewReader("token=letmein"))
		if err != nil {
			t.Fatal(err)
		}
		if text := body(t, login); login.StatusCode != http.StatusUnauthorized {
			t.Errorf("a login: %s %s", login.Status, text)
		}
		for _, line := range said.text {
			if len(line) > 3*maxLogged {
				t.Errorf("a line of %d bytes: %.200s", len(line), line)
			}
		}
	})
}

// TestRefusedForBytes: a batch that is refused for its bytes uses nothing of the rate of events.
func TestRefusedForBytes(t *testing.T) {
	limitedBubble(t, wire.Rates{Events: 10, Bytes: 100}, func(t *testing.T, s *served, _ *memLog, token func(string) string) {
		alice, now := token("alice"), time.Now()
		c := s.limits.of("subject alice")
		bytes, events := s.limits.bytesOf(c), s.limits.eventsOf(c)
		if !bytes.AllowN(now, bytes.Burst()) {
			t.Fatal("there were no bytes to use")
		}
		b := strings.Repeat(`{"user":"a","path":"p","value":123456789}`+"\n", 20)
		resp, text := s.raw(fmt.Sprintf("POST /set HTTP/1.1\nHost: localhost\nAuthorization: %s\nContent-Length: %d\n\n%s", alice, len(b), b))
		wantLimited(t, resp, text, "bytes")
		if left := events.TokensAt(now); left != float64(events.Burst()) {
			t.Errorf("%g of %d events are left", left, events.Burst())
		}
	})
}

// TestAppendRates: what is beyond a rate is not appended.
func TestAppendRates(t *testing.T) {
	for kind, rates := range map[string]wire.Rates{"events": {Events: 10}, "bytes": {Bytes: 100}} {
		limitedBubble(t, rates, func(t *testing.T, s *served, log *memLog, token func(string) string) {
			alice := token("alice")
			set := func() (*http.Response, string) {
				b := strings.Repeat(`{"user":"a","path":"p","value":123456789}`+"\n", 20)
				return s.raw(fmt.Sprintf("POST /set HTTP/1.1\nHost: localhost\nAuthorization: %s\nContent-Length: %d\n\n%s", alice, len(b), b))
			}
			if resp, text := set(); resp.StatusCode != http.StatusOK {
				t.Fatalf("the first batch: %s %s", resp.Status, text)
			}
			c := s.limits.of("subject alice")
			lim := c.events.Load()
			if kind == "bytes" {
				lim = c.bytes.Load()
			}
			for lim.Tokens() >= 1 { // use the rest of the rate
				if !lim.AllowN(time.Now(), int(lim.Tokens())) {
					t.Fatal("the rest of a rate is refused")
				}
			}
			head := log.Head()
			resp, text := set()
			wait := wantLimited(t, resp, text, kind)
			if log.Head() != head {
				t.Errorf("%d events were appended", log.Head()-head)
			}
			time.Sleep(wait)
			if resp, text := set(); resp.StatusCode != http.StatusOK {
				t.Errorf("after %s: %s %s", wait, resp.Status, text)
			}
		})
	}
}

// TestLargestRequest: no request that the server accepts is larger than what a client may
// have at once, or it would be refused for ever.
func TestLargestRequest(t *testing.T) {
	l, now := newLimits(wire.Rates{Requests: .1, Events: 1, Bytes: 1}), time.Now()
	c := l.of("x")
	if !l.requestsOf(c).AllowN(now, 1) || !l.eventsOf(c).AllowN(now, wire.MaxBatchLen) || !l.bytesOf(c).AllowN(now, wire.MaxBatch) {
		t.Error("the largest batch is refused for ever")
	}
}

func TestStreamLimit(t *testing.T) {
	limitedBubble(t, wire.Rates{Streams: 2}, func(t *testing.T, s *served, _ *memLog, token func(string) string) {
		alice := token("alice")
		_, first := s.stream("/events?topic=a", "Authorization", alice)
		_, second := s.stream("/events?topic=a", "Authorization", alice)
		defer second.Close()
		resp := s.get("/events?topic=a", "Accept", wire.SSE, "Authorization", alice)
		wantLimited(t, resp, body(t, resp), "streams")
		if resp.Header.Get(wire.HeaderFrom) != "" {
			t.Errorf("headers %v", resp.Header)
		}
		_, other := s.stream("/events?topic=a", "Authorization", token("bob"))
		defer other.Close()
		first.Close()
		synctest.Wait()
		_, third := s.stream("/events?topic=a", "Authorization", alice)
		defer third.Close()
	})
}

// TestDownloadLimit: readers that take nothing of pages, lines, states or events by hash cannot make the
// server keep any number of them. Streams have places of their own, and each place is free again when
// its response has ended.
func TestDownloadLimit(t *testing.T) {
	limitedBubble(t, wire.Rates{Streams: 1}, func(t *testing.T, s *served, log *memLog, token func(string) string) {
		for i := range 100 { // more than is buffered
			log.put(t, "a", fmt.Sprint("p", i), 1)
		}
		alice := token("alice")
		var open []net.Conn
		for i := range minDownloads {
			target, kind := "/events?topic=a", wire.NDJSON
			switch i % 3 {
			case 1:
				kind = wire.JSON
			case 2:
				target = "/snapshot?topic=a"
			}
			conn := s.dial()
			if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\nAuthorization: %s\r\n\r\n", target, kind, alice); err != nil {
				t.Fatal(err)
			}
			open = append(open, conn)
		}
		synctest.Wait() // nobody reads these responses
		for _, target := range []string{"/events?topic=a", "/snapshot?topic=a", "/get?id=a/p1"} {
			resp := s.get(target, "Accept", wire.NDJSON, "Authorization", alice)
			wantLimited(t, resp, body(t, resp), "streams")
		}
		hashes := `{"hashes":["` + strings.Repeat("0", 64) + `"]}`
		resp, text := s.raw(fmt.Sprintf("POST /get HTTP/1.1\nHost: localhost\nAuthorization: %s\nContent-Length: %d\n\n%s", alice, len(hashes), hashes))
		wantLimited(t, resp, text, "streams")
		for _, target := range []string{"/bloom?topic=a", "/windows?topic=a", "/storages?topic=a", wire.PathConnections} {
			resp = s.get(target, "Authorization", alice)
			wantLimited(t, resp, body(t, resp), "streams")
		}
		head := log.Head()
		set := func(n int) (*http.Response, string) {
			b := strings.Repeat(`{"user":"a","path":"p","value":1}`+"\n", n)
			return s.raw(fmt.Sprintf("POST /set HTTP/1.1\nHost: localhost\nAuthorization: %s\nContent-Length: %d\n\n%s", alice, len(b), b))
		}
		resp, text = set(longBatch + 1)
		wantLimited(t, resp, text, "streams")
		if resp, text := set(longBatch); resp.StatusCode != http.StatusOK || log.Head() != head+longBatch {
			t.Errorf("a short batch: %s %s", resp.Status, text)
		}
		_, stream := s.stream("/events?topic=a", "Authorization", alice)
		defer stream.Close()
		for _, conn := range open {
			_ = conn.Close()
		}
		synctest.Wait()
		for range 2 * minDownloads {
			if resp := s.get("/events?topic=a", "Accept", wire.NDJSON, "Authorization", alice); resp.StatusCode != http.StatusOK || body(t, resp) == "" {
				t.Fatalf("after they have ended: %s", resp.Status)
			}
		}
	})
}

// TestBadTokenRate: who guesses tokens is stopped before they are verified, and others at
// the same address are not.
func TestBadTokenRate(t *testing.T) {
	limitedBubble(t, wire.Rates{}, func(t *testing.T, s *served, _ *memLog, token func(string) string) {
		alice := token("alice")
		get := func(auth string) int {
			resp := s.get("/", "Authorization", auth)
			body(t, resp)
			return resp.StatusCode
		}
		if status := get(alice); status != http.StatusOK {
			t.Fatal(status)
		}
		counts := map[int]int{}
		for i := range 3 * badTokenRate * burst {
			counts[get(bearer(fmt.Sprint("guess", i)))]++
		}
		if counts[401] != badTokenRate*burst || counts[429] != 2*badTokenRate*burst {
			t.Errorf("statuses %v", counts)
		}
		if status := get(alice); status != http.StatusOK {
			t.Errorf("a known token gets %d", status)
		}
		time.Sleep(time.Second)
		if status := get(token("bob")); status != http.StatusOK {
			t.Errorf("a new token, a second later, gets %d", status)
		}
	})
}

// TestTokensWithoutKeys: a token that cannot be verified, because the keys are not there yet, is no
// guess.
func TestTokensWithoutKeys(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	alice := bearer(ring.grant([]string{"*"}, nil, nil))
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		guard, err := auth.NewGuard(ctx, auth.Config{JWKS: "https://provider.example/jwks", HTTP: &http.Client{Transport: noProvider{}}})
		if err != nil {
			t.Fatal(err)
		}
		s, stop := serve(t, newLog(), Config{Guard: guard, Rates: &wire.Rates{}})
		defer stop()
		for i := range 2 * badTokenRate * burst {
			if resp := s.get("/", "Authorization", alice); resp.StatusCode != http.StatusServiceUnavailable {
				t.Fatalf("request %d: %s", i, resp.Status)
			}
		}
	})
}

// noProvider is a provider of keys that does not answer.
type noProvider struct{}

func (noProvider) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no connection")
}

// TestIdleClientsAreForgotten: strangers cannot fill the memory.
func TestIdleClientsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits(wire.Rates{Requests: 1, Streams: 1})
		busy := l.of("busy")
		busy.streams = 1
		for i := range 5 * maxClients {
			l.requestsOf(l.of(fmt.Sprint(i))).Allow()
			if i%maxClients == 0 {
				time.Sleep(time.Hour)
			}
		}
		if n := len(l.clients); n > maxClients+1 {
			t.Errorf("%d clients are remembered", n)
		}
		if l.of("busy") != busy {
			t.Error("a client with a stream was forgotten")
		}
	})
}

func TestRatesInInfo(t *testing.T) {
	limitedBubble(t, wire.Rates{Requests: 5, Streams: 7}, func(t *testing.T, s *served, _ *memLog, token func(string) string) {
		if text := body(t, s.get("/", "Authorization", token("alice"))); !strings.Contains(text, `"rates":{"requests":5,"streams":7}`) {
			t.Error(text)
		}
	})
}
