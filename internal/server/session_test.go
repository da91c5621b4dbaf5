package server

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
)

// loginRequest is a login with a body of one type.
func loginRequest(mediaType, body string, headers ...string) string {
	head := strings.Join(append(headers, ""), "\n")
	return fmt.Sprintf("POST /login HTTP/1.1\nHost: localhost\n%sContent-Type: %s\nContent-Length: %d\n\n%s", head, mediaType, len(body), body)
}

// TestLogin: a browser that has sent a token once reads with the cookie, and no longer after
// it has logged out.
func TestLogin(t *testing.T) {
	ring := newKeyring(t, auth.Config{Public: topicsOf(t, "news")})
	s, stop := serve(t, newLog(), Config{Guard: ring.guard})
	defer stop()
	var exp time.Time
	token := ring.grant([]string{"alice"}, []string{"alice/inbox"}, func(c *auth.Claims) { exp = c.ExpiresAt.Time })
	want := fmt.Sprintf(`{"sub":"tester","expires":%q,"read":["alice","news"],"write":["alice/inbox"]}`+"\n", exp.UTC().Format(time.RFC3339))
	for name, request := range map[string]string{
		"header": "POST /login HTTP/1.1\nHost: localhost\nAuthorization: " + bearer(token) + "\n\n",
		"form":   loginRequest(wire.FormData, "token="+token),
		"JSON":   loginRequest(wire.JSON, `{"token":"`+token+`"}`),
		"origin": loginRequest(wire.JSON, `{"token":"`+token+`"}`, "Origin: http://localhost", "Sec-Fetch-Site: same-origin"),
	} {
		resp, text := s.raw(request)
		if resp.StatusCode != http.StatusOK || text != want || resp.Header.Get(wire.HeaderHead) != "" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s, %v, %s", name, resp.Status, resp.Header, text)
		}
		c := resp.Cookies()
		if len(c) != 1 || c[0].Name != "rstream" || c[0].Value != token || c[0].Path != "/" || c[0].Domain != "" || !c[0].HttpOnly ||
			c[0].Secure || c[0].SameSite != http.SameSiteStrictMode || c[0].MaxAge < 3590 || c[0].MaxAge > 3600 {
			t.Errorf("%s: cookies %v", name, c)
		}
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Transport: s.http.Transport, Jar: jar}
	send := func(method, target, mediaType, body string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+target, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", mediaType)
		r.Header.Set("Origin", "http://localhost")
		resp, err := browser.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp
	}
	statuses := func() (all []int) {
		for _, target := range []string{"/events?topic=alice&limit=1", "/events?topic=bob&limit=1", "/events?topic=news&limit=1"} {
			all = append(all, send(http.MethodGet, target, "", "").StatusCode)
		}
		return append(all, send(http.MethodPost, "/set/alice/inbox/1", wire.JSON, `{"value":1}`).StatusCode)
	}
	for _, step := range []struct{ target, want string }{
		{"", "[401 401 200 401]"}, {"/login", "[200 403 200 201]"}, {"/logout", "[401 401 200 401]"},
	} {
		if step.target != "" {
			send(http.MethodPost, step.target, wire.FormData, "token="+token)
		}
		if got := fmt.Sprint(statuses()); got != step.want {
			t.Errorf("after %s: statuses %s, want %s", step.target, got, step.want)
		}
	}
	// A cookie whose token has ended is deleted, so that public topics stay open.
	send(http.MethodPost, "/login", wire.FormData, "token="+token)
	ring.setKeys(ring.newKey())
	if err := ring.guard.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if first, then := send(http.MethodGet, "/events?topic=news&limit=1", "", ""), fmt.Sprint(statuses()); first.StatusCode != http.StatusUnauthorized || then != "[401 401 200 401]" {
		t.Errorf("without its key: %s, then %s", first.Status, then)
	}
}

// TestSecureCookie: over TLS the cookie has a name that only this host can set, and no other
// is read.
func TestSecureCookie(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	s := New(newLog(), Config{Guard: ring.guard, Behind: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	defer s.Stop()
	token := ring.grant([]string{"alice"}, nil, nil)
	for _, test := range []struct {
		name   string
		secure bool
		change func(r *http.Request)
	}{
		{"http", false, func(*http.Request) {}},
		{"https", true, func(r *http.Request) { r.TLS = &tls.ConnectionState{} }},
		{"proxy", true, func(r *http.Request) { r.RemoteAddr = "10.1.1.1:1"; r.Header.Set("X-Forwarded-Proto", "https") }},
		{"no proxy", false, func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") }},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/login", nil)
		r.Header.Set("Authorization", bearer(token))
		test.change(r)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		c := w.Result().Cookies()
		if len(c) != 1 || c[0].Secure != test.secure || (c[0].Name == "__Host-rstream") != test.secure {
			t.Errorf("%s: %v", test.name, c)
		}
		for _, name := range []string{"rstream", "__Host-rstream"} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/events?topic=alice&limit=1", nil)
			r.Header.Set("Cookie", name+"="+token)
			test.change(r)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if want := c[0].Name == name; (w.Code == http.StatusOK) != want {
				t.Errorf("%s, cookie %s: %d %s", test.name, name, w.Code, w.Body)
			}
		}
	}
}

// TestCookieOfOtherOrigins: a cookie opens nothing to pages of other origins, except reads to
// those that are allowed by name, and never appends.
func TestCookieOfOtherOrigins(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	token := ring.grant([]string{"*"}, []string{"*"}, nil)
	for _, origins := range [][]string{nil, {"http://app.localhost"}, {"*"}} {
		log := newLog()
		s, stop := serve(t, log, Config{Guard: ring.guard, Origins: origins})
		for _, test := range []struct {
			headers           string
			read, write, into int
		}{
			{"Origin: http://localhost\n", 200, 201, 200},
			{"", 200, 403, 200},
			{"Sec-Fetch-Site: none\n", 200, 403, 200},
			{"Sec-Fetch-Site: same-site\n", 401, 401, 403},
			{"Sec-Fetch-Site: cross-site\n", 401, 401, 403},
			{"Origin: http://app.localhost\n", 200, 403, 200},
			{"Origin: https://localhost\n", 401, 401, 403},
			{"Origin: null\n", 403, 403, 403},
			{"Origin: http://localhost.evil.example\n", 403, 403, 403},
		} {
			foreign := !strings.Contains(test.headers, "://localhost\n") && strings.Contains(test.headers, "Origin:")
			switch named := test.headers == "Origin: http://app.localhost\n"; {
			case !foreign || named && len(origins) > 0 && origins[0] != "*":
			case len(origins) > 0 && origins[0] == "*": // pages may use the server, but not with the cookie
				test.read, test.write, test.into = 401, 401, 403
			default:
				test.read, test.write, test.into = 403, 403, 403
			}
			request := func(line, body string) string {
				return fmt.Sprintf("%s HTTP/1.1\nHost: localhost\n%sContent-Length: %d\n\n%s", line, test.headers, len(body), body)
			}
			cookie := "Cookie: rstream=" + token + "\n"
			for _, ask := range []struct {
				request string
				want    int
			}{
				{strings.Replace(request("GET /events?topic=a&limit=1", ""), "Content-Length: 0\n", cookie, 1), test.read},
				{strings.Replace(request("POST /set/a/p", `{"value":1}`), "Host: localhost\n", "Host: localhost\n"+cookie, 1), test.write},
				{strings.Replace(request("POST /set", `{"user":"a","path":"p","value":1}`), "Host: localhost\n", "Host: localhost\n"+cookie, 1), test.write},
				{strings.Replace(request("POST /login", ""), "Host: localhost\n", "Host: localhost\nAuthorization: "+bearer(token)+"\n", 1), test.into},
			} {
				head := log.Head()
				resp, text := s.raw(ask.request)
				appends := log.Head() != head
				if resp.StatusCode != ask.want && !(ask.want == 201 && resp.StatusCode == 200) || appends != (ask.want == 201) {
					t.Errorf("origins %q: %s: %s, want %d; appended: %t: %s", origins, ask.request, resp.Status, ask.want, appends, text)
				}
				credentials := len(origins) > 0 && origins[0] != "*" && test.headers == "Origin: http://app.localhost\n"
				if got := resp.Header.Get("Access-Control-Allow-Credentials"); (got == "true") != credentials || strings.Contains(text, token) {
					t.Errorf("origins %q: %s: %v, %s", origins, ask.request, resp.Header, text)
				}
			}
		}
		stop()
	}
}

// TestLoginRefused: what is wrong is said, and the token is not repeated.
func TestLoginRefused(t *testing.T) {
	var said bytes.Buffer
	ring := newKeyring(t, auth.Config{})
	s, stop := serve(t, newLog(), Config{Guard: ring.guard, Logger: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	token := ring.grant([]string{"alice"}, nil, nil)
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprint("u", i)
	}
	long := ring.grant(many[:600], nil, nil)
	for request, want := range map[string]int{
		"POST /login HTTP/1.1\nHost: localhost\n\n":                                                 401,
		loginRequest(wire.FormData, ""):                                                             401,
		loginRequest(wire.FormData, "token="):                                                       400,
		loginRequest(wire.FormData, "token="+token+"&token="+token):                                 400,
		loginRequest(wire.FormData, "secret="+token):                                                400,
		loginRequest(wire.FormData, "token=%zz"+token):                                              400,
		loginRequest(wire.JSON, `{"token":"`+token):                                                 400,
		loginRequest(wire.JSON, `"`+token+`"`):                                                      400,
		loginRequest("text/plain", token):                                                           415,
		loginRequest(wire.FormData, "token="+token, "Authorization: "+bearer(token)):                400,
		loginRequest(wire.FormData, "token="+token+"x"):                                             401,
		loginRequest(wire.FormData, "token="+long):                                                  413,
		loginRequest(wire.FormData, "token="+strings.Repeat("x", 1<<20)):                            413,
		"POST /login?next=x HTTP/1.1\nHost: localhost\nAuthorization: " + bearer(token) + "\n\n":    400,
		"GET /login HTTP/1.1\nHost: localhost\nAuthorization: " + bearer(token) + "\n\n":            405,
		"GET / HTTP/1.1\nHost: localhost\nCookie: rstream=" + token + "; rstream=" + token + "\n\n": 400,
	} {
		resp, text := s.raw(request)
		if resp.StatusCode != want || strings.Contains(text+fmt.Sprint(resp.Header), token[:40]) {
			t.Errorf("%.300s\n%s, want %d: %s", request, resp.Status, want, text)
		}
		if len(resp.Cookies()) > 0 {
			t.Errorf("%.300s\nsets %v", request, resp.Cookies())
		}
	}
	stop()
	if text := said.String(); strings.Contains(text, token[:40]) || strings.Contains(text, long[:40]) || !strings.Contains(text, "path=/login status=401") {
		t.Errorf("the log has a token, or not the request: %s", text)
	}
	open, stop := serve(t, newLog(), Config{})
	defer stop()
	for _, path := range []string{"/login", "/logout"} {
		if resp, text := open.raw("POST " + path + " HTTP/1.1\nHost: localhost\n\n"); resp.StatusCode != http.StatusNotFound || !strings.Contains(text, "asks for no tokens") {
			t.Errorf("%s without keys: %s %s", path, resp.Status, text)
		}
	}
}

// TestLoginRate: a login is no way around the rate of guesses.
func TestLoginRate(t *testing.T) {
	limitedBubble(t, wire.Rates{}, func(t *testing.T, s *served, _ *memLog, _ func(string) string) {
		counts := map[int]int{}
		for i := range 3 * badTokenRate * burst {
			resp, _ := s.raw(loginRequest(wire.FormData, fmt.Sprint("token=guess", i)))
			counts[resp.StatusCode]++
		}
		if counts[401] != badTokenRate*burst || counts[429] != 2*badTokenRate*burst {
			t.Errorf("statuses %v", counts)
		}
	})
	limitedBubble(t, wire.Rates{Requests: 1}, func(t *testing.T, s *served, _ *memLog, token func(string) string) {
		counts := map[int]int{}
		for range 2 * burst {
			resp, _ := s.raw("POST /login HTTP/1.1\nHost: localhost\nAuthorization: " + token("alice") + "\n\n")
			counts[resp.StatusCode]++
		}
		if counts[200] != burst || counts[429] != burst {
			t.Errorf("statuses %v", counts)
		}
	})
}

// TestCookieStreamEnds: the stream of an EventSource ends with the token of its cookie, and
// the next one begins with the cookie of a new login.
func TestCookieStreamEnds(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	synctest.Test(t, func(t *testing.T) {
		guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: ring.dir + "/keys"})
		if err != nil {
			t.Fatal(err)
		}
		log := newLog()
		s, stop := serve(t, log, Config{Guard: guard, Heartbeat: time.Hour})
		defer stop()
		log.put(t, "a", "p", 1)
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		base := &url.URL{Scheme: "http", Host: "localhost", Path: "/"}
		login := func() {
			token := ring.grant([]string{"a"}, nil, func(c *auth.Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(time.Minute)) })
			resp, text := s.raw(loginRequest(wire.FormData, "token="+token))
			if resp.StatusCode != http.StatusOK {
				t.Fatal(resp.Status, text)
			}
			jar.SetCookies(base, resp.Cookies())
		}
		follow := func(last string) (*frames, io.Closer) {
			cookies := jar.Cookies(base)
			if len(cookies) != 1 {
				t.Fatalf("cookies %v", cookies)
			}
			return s.stream("/events?topic=a", "Cookie", cookies[0].String(), "Last-Event-ID", last)
		}
		login()
		fs, body := follow("")
		defer body.Close()
		fs.want(t, "PUT", 1)
		fs.want(t, "live", 1)
		time.Sleep(50 * time.Second)
		login() // renewed before exp, for the next connection
		began := time.Now()
		for {
			if _, err := fs.nextBefore(began.Add(time.Minute)); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("the stream ended after %s", took)
		}
		log.put(t, "a", "p", 1)
		again, body := follow("0000000000001")
		defer body.Close()
		again.want(t, "PUT", 2)
		again.want(t, "live", 2)
		time.Sleep(time.Hour)
		if left := jar.Cookies(base); len(left) != 0 {
			t.Errorf("after exp the browser still has %v", left)
		}
	})
}
