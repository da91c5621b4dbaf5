package server

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
)

const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"

// TestFront: a browser gets a page with the server information, everyone else JSON.
func TestFront(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "a", "p", 3)
		s, stop := serve(t, log, Config{})
		defer stop()
		_, stream := s.stream("/events?topic=a")
		defer stream.Close()
		synctest.Wait() // its reader is counted

		plain := body(t, s.get("/"))
		for _, accept := range []string{"*/*", wire.JSON, "text/*", wire.JSON + ", text/html;q=0.9", "text/html;q=0"} {
			resp := s.get("/", "Accept", accept)
			if text := body(t, resp); text != plain || resp.Header.Get("Content-Type") != wire.JSON {
				t.Errorf("Accept: %s: %v, %s, want %s", accept, resp.Header, text, plain)
			}
		}
		resp := s.get("/", "Accept", browser)
		page := body(t, resp)
		if kind := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || kind != "text/html; charset=utf-8" {
			t.Fatalf("%s, %s", resp.Status, kind)
		}
		for _, want := range []string{log.Log(), `id="head">0000000000003<`, `id="horizon">0000000000000<`, `id="readers">1<`, ">http://localhost<"} {
			if !strings.Contains(page, want) {
				t.Errorf("the page has no %s", want)
			}
		}
		if !slices.Contains(resp.Header.Values("Vary"), "Accept") || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v", resp.Header)
		}
	})
}

// TestFrontPolicy: the policy allows the script and the style that are sent, and nothing of
// another host; the page asks for nothing else.
func TestFrontPolicy(t *testing.T) {
	log := newLog()
	s, stop := serve(t, log, Config{})
	defer stop()
	resp, page := s.raw("GET / HTTP/1.1\nHost: a'&amp;b\nAccept: text/html\nConnection: close\n\n")
	if strings.Contains(page, "a'&amp;b") || !strings.Contains(page, "http://a&#39;&amp;amp;b<") {
		t.Errorf("the host is not escaped: %s", page)
	}
	want := []string{
		"default-src 'none'", "script-src " + digestOf(page, "script"), "style-src " + digestOf(page, "style"), "img-src data:",
		"connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	}
	if got := strings.Split(resp.Header.Get("Content-Security-Policy"), "; "); !slices.Equal(got, want) {
		t.Errorf("the policy is %q, want %q", got, want)
	}
	if n := strings.Count(page, "<script") + strings.Count(page, "<style"); n != 2 {
		t.Errorf("%d scripts and styles, want one of each", n)
	}
	// With all URLs relative to the page, it works under any path.
	foreign := regexp.MustCompile(`(src|href|action)="[^"]*"|url\(|@import|\son[a-z]+=|fetch\((?:[^b]|b[^a])|EventSource\((?:[^b']|b[^a])`)
	if got := foreign.FindAllString(page, -1); !slices.Equal(got, []string{`href="data:,"`, `href="dashboard"`}) {
		t.Errorf("the page loads or leads to %q", got)
	}
}

// TestFrontOfGuardedServer: where the metrics have an address of their own, the page does not
// show how many readers there are. It follows a topic that the token covers.
func TestFrontOfGuardedServer(t *testing.T) {
	log, _ := guardedLog(t)
	ring := newKeyring(t, auth.Config{})
	s, stop := serve(t, log, Config{Guard: ring.guard})
	defer stop()
	token := ring.grant([]string{"alice"}, nil, nil)
	for name, header := range map[string][]string{"by header": {"Authorization", bearer(token)}, "by cookie": {"Cookie", plainCookie + "=" + token}} {
		resp := s.get("/", append(header, "Accept", browser)...)
		page := body(t, resp)
		if resp.StatusCode != http.StatusOK || strings.Contains(page, `id="readers"`) || strings.Contains(page, `id="login"`) ||
			!strings.Contains(page, log.Head().String()) || !strings.Contains(page, `value="alice"`) || !strings.Contains(page, "--token-file") {
			t.Errorf("%s: %s: %s", name, resp.Status, page)
		}
		if strings.Contains(page, ">tester <button id=\"logout\"") != (name == "by cookie") || strings.Contains(page, token) {
			t.Errorf("%s: %s", name, page)
		}
	}
}

// TestFrontOfStranger: a browser without a valid token gets a form to log in, and learns no more
// than a program does. Where topics are public, it gets the form in the page.
func TestFrontOfStranger(t *testing.T) {
	log, _ := guardedLog(t)
	ring := newKeyring(t, auth.Config{})
	s, stop := serve(t, log, Config{Guard: ring.guard})
	defer stop()
	for _, header := range [][]string{nil, {"Cookie", plainCookie + "=letmein"}, {"Authorization", "Bearer letmein"}} {
		plain := s.get("/", header...)
		if text := body(t, plain); plain.Header.Get("Content-Type") != wire.Problem || !slices.Contains(plain.Header.Values("Vary"), "Accept") {
			t.Errorf("%v: %v, %s", header, plain.Header, text)
		}
		resp := s.get("/", append(header, "Accept", browser)...)
		page := body(t, resp)
		if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" || !slices.Contains(resp.Header.Values("Vary"), "Accept") {
			t.Errorf("%v: %s, %v", header, resp.Status, resp.Header)
		}
		for _, name := range []string{"WWW-Authenticate", "Set-Cookie", "Cache-Control"} {
			if got, want := resp.Header.Values(name), plain.Header.Values(name); !slices.Equal(got, want) {
				t.Errorf("%v: %s is %q, and %q for programs", header, name, got, want)
			}
		}
		if !strings.Contains(resp.Header.Get("Content-Security-Policy"), "script-src "+digestOf(page, "script")) {
			t.Errorf("the policy is %s", resp.Header.Get("Content-Security-Policy"))
		}
		if !strings.Contains(page, `<form id="login" method="post">`) || strings.Contains(page, `id="head"`) || strings.Contains(page, `id="follow"`) ||
			strings.Contains(page, "alice") || strings.Contains(page, "letmein") {
			t.Errorf("%v: %s", header, page)
		}
	}
	if resp := s.get("/events?topic=alice", "Accept", browser); resp.Header.Get("Content-Type") != wire.Problem {
		t.Errorf("other paths answer with %s", resp.Header.Get("Content-Type"))
	}
	ring = newKeyring(t, auth.Config{Public: topicsOf(t, "bob")})
	s, stop = serve(t, log, Config{Guard: ring.guard})
	defer stop()
	resp := s.get("/", "Accept", browser)
	if page := body(t, resp); resp.StatusCode != http.StatusOK || !strings.Contains(page, `id="login"`) || !strings.Contains(page, `value="bob"`) {
		t.Errorf("with a public topic: %s: %s", resp.Status, page)
	}
}
