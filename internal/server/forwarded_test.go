package server

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
)

var proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("127.0.0.1/32")}

// TestForwardedAddress: proxies are believed about the hop before them, and nobody else.
func TestForwardedAddress(t *testing.T) {
	s := New(newLog(), Config{Behind: proxies})
	defer s.Stop()
	for _, test := range []struct{ peer, headers, want string }{
		// Only proxies are believed.
		{"192.0.2.1:5", "", "192.0.2.1"},
		{"192.0.2.1:5", "X-Forwarded-For: 203.0.113.9", "192.0.2.1"},
		{"192.0.2.1:5", "Forwarded: for=203.0.113.9", "192.0.2.1"},
		{"[2001:db8::1]:5", "X-Forwarded-For: 203.0.113.9", "2001:db8::1"},
		{"10.1.1.1:5", "", "10.1.1.1"},
		{"10.1.1.1:5", "X-Forwarded-For: 203.0.113.9", "203.0.113.9"},
		{"[fd00::1]:5", "X-Forwarded-For: 2001:db8::7", "2001:db8::7"},
		// An address of IPv4 within one of IPv6 is the same address.
		{"[::ffff:10.1.1.1]:5", "X-Forwarded-For: ::ffff:203.0.113.9", "203.0.113.9"},
		{"[::ffff:192.0.2.1]:5", "X-Forwarded-For: 203.0.113.9", "192.0.2.1"},
		// Several hops: the last one that is not a proxy. What is left of it is made up.
		{"10.1.1.1:5", "X-Forwarded-For: 198.51.100.1, 203.0.113.9", "203.0.113.9"},
		{"10.1.1.1:5", "X-Forwarded-For: 198.51.100.1, 203.0.113.9, 10.2.2.2", "203.0.113.9"},
		{"10.1.1.1:5", "X-Forwarded-For: 198.51.100.1\nX-Forwarded-For: 203.0.113.9\nX-Forwarded-For: 10.2.2.2", "203.0.113.9"},
		{"10.1.1.1:5", "X-Forwarded-For: 10.9.9.9, 203.0.113.9, fd00::5, 127.0.0.1", "203.0.113.9"},
		{"10.1.1.1:5", "X-Forwarded-For: 10.3.3.3, 10.2.2.2", "10.3.3.3"},
		// Ports, brackets and zones are no part of an address.
		{"10.1.1.1:5", "X-Forwarded-For: 203.0.113.9:4711", "203.0.113.9"},
		{"10.1.1.1:5", "X-Forwarded-For: [2001:db8::7]:4711", "2001:db8::7"},
		{"10.1.1.1:5", "X-Forwarded-For: [2001:db8::7]", "2001:db8::7"},
		{"10.1.1.1:5", "X-Forwarded-For: fe80::7%eth0", "fe80::7"},
		{"10.1.1.1:5", `Forwarded: for="[2001:db8::7]:4711";proto=https`, "2001:db8::7"},
		{"10.1.1.1:5", "Forwarded: for=198.51.100.1, For = 203.0.113.9 ; by=10.1.1.1", "203.0.113.9"},
		{"10.1.1.1:5", "Forwarded: proto=https;for=203.0.113.9, for=10.2.2.2", "203.0.113.9"},
		// Garbage ends the walk at the last proxy that is known.
		{"10.1.1.1:5", "X-Forwarded-For: ", "10.1.1.1"},
		{"10.1.1.1:5", "X-Forwarded-For: unknown", "10.1.1.1"},
		{"10.1.1.1:5", "X-Forwarded-For: 203.0.113.9, unknown, 10.2.2.2", "10.2.2.2"},
		{"10.1.1.1:5", "X-Forwarded-For: 203.0.113.9,", "10.1.1.1"},
		{"10.1.1.1:5", "X-Forwarded-For: 203.0.113.9 198.51.100.1", "10.1.1.1"},
		{"10.1.1.1:5", "X-Forwarded-For: 1.2.3", "10.1.1.1"},
		{"10.1.1.1:5", "X-Forwarded-For: localhost", "10.1.1.1"},
		{"10.1.1.1:5", "Forwarded: for=_hidden", "10.1.1.1"},
		{"10.1.1.1:5", "Forwarded: proto=https", "10.1.1.1"},
		{"10.1.1.1:5", "Forwarded: ;;=,=;for", "10.1.1.1"},
		// A quote that the client left open does not swallow what the proxy has added.
		{"10.1.1.1:5", `Forwarded: for="198.51.100.1, for=203.0.113.9`, "203.0.113.9"},
		// A proxy sets one header and passes on the other: which one is not known.
		{"10.1.1.1:5", "X-Forwarded-For: 203.0.113.9\nForwarded: for=198.51.100.1", "10.1.1.1"},
		{"10.1.1.1:5", "X-Forwarded-For: 203.0.113.9\nForwarded: for=203.0.113.9", "203.0.113.9"},
		{"pipe", "X-Forwarded-For: 203.0.113.9", "invalid IP"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.RemoteAddr = test.peer
		setHeaders(r, test.headers)
		if got := s.clientAddr(r).String(); got != test.want {
			t.Errorf("%s, %q: %s, want %s", test.peer, test.headers, got, test.want)
		}
	}
	alone := New(newLog(), Config{})
	defer alone.Stop()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.RemoteAddr = "127.0.0.1:5"
	setHeaders(r, "X-Forwarded-For: 203.0.113.9\nX-Forwarded-Proto: https")
	if got := alone.clientAddr(r).String(); got != "127.0.0.1" || alone.isSecure(r) {
		t.Errorf("without a proxy: %s, secure: %t", got, alone.isSecure(r))
	}
}

func setHeaders(r *http.Request, lines string) {
	for line := range strings.Lines(lines) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		r.Header.Add(name, strings.TrimSpace(value))
	}
}

// TestForwardedScheme: the proxy nearest to the server says whether TLS was used.
func TestForwardedScheme(t *testing.T) {
	s := New(newLog(), Config{Behind: proxies})
	defer s.Stop()
	for _, test := range []struct {
		peer, headers string
		want          bool
	}{
		{"10.1.1.1:5", "X-Forwarded-Proto: https", true},
		{"10.1.1.1:5", "X-Forwarded-Proto: HTTPS", true},
		{"10.1.1.1:5", "X-Forwarded-Proto: http", false},
		{"10.1.1.1:5", "X-Forwarded-Proto: https, http", false},
		{"10.1.1.1:5", "X-Forwarded-Proto: http\nX-Forwarded-Proto: https", true},
		{"10.1.1.1:5", "X-Forwarded-Proto: httpsx", false},
		{"10.1.1.1:5", "X-Forwarded-Proto: http\nForwarded: proto=https", false},
		{"10.1.1.1:5", "Forwarded: for=203.0.113.9;proto=https", true},
		{"10.1.1.1:5", `Forwarded: proto="https"`, true},
		{"10.1.1.1:5", "Forwarded: proto=https, proto=http", false},
		{"10.1.1.1:5", "Forwarded: for=203.0.113.9", false},
		{"10.1.1.1:5", "", false},
		{"192.0.2.1:5", "X-Forwarded-Proto: https", false},
		{"192.0.2.1:5", "Forwarded: proto=https", false},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.RemoteAddr = test.peer
		setHeaders(r, test.headers)
		if got := s.isSecure(r); got != test.want {
			t.Errorf("%s, %q: %t, want %t", test.peer, test.headers, got, test.want)
		}
	}
}

// TestForwardedLimits: clients of a proxy have limits of their own, and the log names them.
func TestForwardedLimits(t *testing.T) {
	var said bytes.Buffer
	ring := newKeyring(t, auth.Config{Public: topicsOf(t, "news")})
	s := New(newLog(), Config{Guard: ring.guard, Rates: &wire.Rates{Requests: .1}, Behind: proxies,
		Logger: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	defer s.Stop()
	get := func(peer, client string) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/events?topic=news&limit=1", nil)
		r.RemoteAddr = peer
		r.Header.Set("X-Forwarded-For", client)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code
	}
	var got []int
	for _, from := range []string{"10.1.1.1:1 203.0.113.9", "10.1.1.1:2 203.0.113.9", "10.1.1.1:3 203.0.113.10", "10.2.2.2:4 203.0.113.9",
		"10.1.1.1:5 2001:db8::1", "10.1.1.1:6 2001:db8::2", "192.0.2.1:7 203.0.113.11", "192.0.2.1:8 203.0.113.12"} {
		peer, client, _ := strings.Cut(from, " ")
		got = append(got, get(peer, client))
	}
	if want := "[200 429 200 429 200 429 200 429]"; fmt.Sprint(got) != want {
		t.Errorf("statuses %v, want %s", got, want)
	}
	for _, want := range []string{"status=429 bytes=", "address=203.0.113.9", "address=2001:db8::2", "address=192.0.2.1"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the log lacks %q: %s", want, &said)
		}
	}
}
