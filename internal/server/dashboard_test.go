package server

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/internal/auth"
)

// TestDashboardPages: each page runs its own script and style, and nothing else.
func TestDashboardPages(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	log, _ := guardedLog(t)
	open, stop := serve(t, log, Config{})
	defer stop()
	closed, stop := serve(t, log, Config{Guard: ring.guard})
	defer stop()
	for name, s := range map[string]*served{"board": open, "login": closed} {
		resp := s.get("/dashboard", "Accept", browser)
		page := body(t, resp)
		want := []string{
			"default-src 'none'", "script-src " + digestOf(page, "script"), "style-src " + digestOf(page, "style"), "img-src data:", "connect-src 'self'",
			"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
		}
		if got := strings.Split(resp.Header.Get("Content-Security-Policy"), "; "); !slices.Equal(got, want) {
			t.Errorf("%s: the policy is %q, want %q", name, got, want)
		}
		if n := strings.Count(page, "<script") + strings.Count(page, "<style"); n != 2 {
			t.Errorf("%s: %d scripts and styles, want one of each", name, n)
		}
		forbidden := regexp.MustCompile(`(src|href|action)="[^"]*"|url\(|@import|\sstyle=|\son[a-z]+=|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://`)
		if got := forbidden.FindAllString(page, -1); !slices.Equal(got, []string{`href="data:,"`}) {
			t.Errorf("%s: the page has %q", name, got)
		}
		if kind := resp.Header.Get("Content-Type"); kind != "text/html; charset=utf-8" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: headers %v", name, resp.Header)
		}
	}
}

// TestDashboardLogin: a browser gets the board's page only with the right to see the board,
// and else the login, with the status of other requests. A program gets the error.
func TestDashboardLogin(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	log, evs := guardedLog(t)
	s, stop := serve(t, log, Config{Guard: ring.guard})
	defer stop()
	seer := ring.grant([]string{"alice"}, nil, func(c *auth.Claims) { c.Subject, c.Rights.Board = "<b>ops", auth.BoardRead })
	blind := ring.grant([]string{"*"}, []string{"*"}, nil)
	for _, c := range []struct {
		token  string
		status int
		has    string
	}{
		{"", http.StatusUnauthorized, `<p id="problem" role="alert"></p>`},
		{"letmein", http.StatusUnauthorized, `<p id="problem" role="alert">Token is malformed.</p>`},
		{blind, http.StatusForbidden, `<p id="problem" role="alert">The token does not allow to see the board.</p>`},
		{seer, http.StatusOK, `&lt;b&gt;ops <button id="logout"`},
	} {
		header := []string{"Accept", browser}
		if c.token != "" {
			header = append(header, "Cookie", plainCookie+"="+c.token)
		}
		resp := s.get("/dashboard", header...)
		text := body(t, resp)
		if resp.StatusCode != c.status || !strings.Contains(text, c.has) || strings.Contains(text, "<table") != (c.status == http.StatusOK) {
			t.Errorf("%q: %s, want %d and %s\n%s", c.token, resp.Status, c.status, c.has, text)
		}
		checkSecrets(t, c.token, resp, text, secretsOf(evs, "nobody"))
		header[1] = "*/*"
		resp = s.get("/dashboard", header...)
		text = body(t, resp)
		if resp.StatusCode != c.status || strings.HasPrefix(text, "{") != (c.status != http.StatusOK) {
			t.Errorf("%q: %s %s", c.token, resp.Status, text)
		}
	}
}

// TestNoDashboard: a server without the page has no trace of it.
func TestNoDashboard(t *testing.T) {
	s, stop := serve(t, newLog(), Config{NoDashboard: true})
	defer stop()
	resp := s.get("/dashboard", "Accept", browser)
	if text := body(t, resp); resp.StatusCode != http.StatusNotFound || !strings.HasPrefix(text, "{") {
		t.Errorf("%s: %s", resp.Status, text)
	}
	if text := body(t, s.get("/", "Accept", browser)); strings.Contains(text, `href="dashboard"`) {
		t.Errorf("the page links to a dashboard: %s", text)
	}
}
