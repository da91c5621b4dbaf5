package source

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/sourcetest"
	"github.com/rstream-dev/rstream/internal/sse"
)

// serveFunc serves an event stream written by fn and returns its URL.
func serveFunc(t testing.TB, fn http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fn(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func serveText(t *testing.T, text string) string {
	return serveFunc(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
}

func tryAll(t *testing.T, cfg Config) (trials []Trial, err error) {
	t.Helper()
	m, err := NewMapper("src", Mapping{})
	if err != nil {
		t.Fatal(err)
	}
	err = Try(t.Context(), cfg, m, 10, func(tr Trial) error {
		trials = append(trials, tr)
		return nil
	})
	return trials, err
}

func TestTry(t *testing.T) {
	var text strings.Builder
	text.WriteString(": ok\n\nid: 0\n\n")
	for i := range 20 {
		fmt.Fprintf(&text, "id: %d\ndata: {\"n\":%d}\n\n", i+1, i+1)
	}
	trials, err := tryAll(t, Config{URL: serveText(t, text.String())})
	if err != nil || len(trials) != 10 {
		t.Fatalf("%d frames, %v", len(trials), err)
	}
	if tr := trials[0]; tr.Event || tr.Taken || tr.Cursor != "0" {
		t.Errorf("first frame %+v", tr)
	}
	if tr := trials[9]; !tr.Taken || tr.Draft.Key != "0/9/0" || string(tr.Draft.Value) != `{"n":9}` {
		t.Errorf("last frame %+v", tr)
	}
}

// A hostile source gets one request, one clear error and bounded memory.
func TestTryHostile(t *testing.T) {
	t.Run("an endless line", func(t *testing.T) {
		address := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) { sourcetest.WriteEndless(w, "data: ", "xxxx") })
		_, err := tryAll(t, Config{URL: address})
		if large := (*sse.TooLargeError)(nil); !errors.As(err, &large) {
			t.Error(err)
		}
	})
	t.Run("an event of endless lines", func(t *testing.T) {
		address := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) { sourcetest.WriteEndless(w, "", "data: x\n") })
		_, err := tryAll(t, Config{URL: address})
		if large := (*sse.TooLargeError)(nil); !errors.As(err, &large) {
			t.Error(err)
		}
	})
	t.Run("an endless answer that is no stream", func(t *testing.T) {
		address := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			sourcetest.WriteEndless(w, "", "x")
		})
		_, err := tryAll(t, Config{URL: address})
		if stream := (*StreamError)(nil); !errors.As(err, &stream) || !strings.Contains(err.Error(), "text/html") {
			t.Error(err)
		}
	})
	t.Run("an endless refusal", func(t *testing.T) {
		address := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			sourcetest.WriteEndless(w, "", "x")
		})
		_, err := tryAll(t, Config{URL: address})
		if status := (*StatusError)(nil); !errors.As(err, &status) || status.Status != 403 || !status.IsFinal() {
			t.Error(err)
		}
	})
	t.Run("a redirect loop", func(t *testing.T) {
		asked := 0
		address := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
			asked++
			http.Redirect(w, r, "/"+fmt.Sprint(asked), http.StatusFound)
		})
		_, err := tryAll(t, Config{URL: address})
		if err == nil || !strings.Contains(err.Error(), "10 redirects") || asked > 11 {
			t.Errorf("%d requests, %v", asked, err)
		}
	})
	t.Run("a bomb", func(t *testing.T) {
		address := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header.Get("Accept-Encoding"); got != "" && got != "identity" {
				t.Errorf("asked for %q", got)
			}
			w.Header().Set("Content-Encoding", "gzip")
			zip := gzip.NewWriter(w)
			io.WriteString(zip, "data: "+strings.Repeat("x", 1<<20)+"\n\n")
			zip.Close()
		})
		_, err := tryAll(t, Config{URL: address})
		if err == nil || !strings.Contains(err.Error(), `compressed with "gzip"`) {
			t.Error(err)
		}
	})
	t.Run("an rstream server", func(t *testing.T) {
		address := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Rstream-Log", "AAAAA") })
		_, err := tryAll(t, Config{URL: address})
		if stream := (*StreamError)(nil); !errors.As(err, &stream) || !stream.IsRstream {
			t.Error(err)
		}
	})
}

// A token goes to the source's host and to no other one, and neither it nor a password is in
// an error.
func TestTryKeepsSecrets(t *testing.T) {
	var seen []string
	other := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusTeapot)
	})
	address := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		http.Redirect(w, r, other, http.StatusTemporaryRedirect)
	})
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User, u.RawQuery = url.UserPassword("me", "passw0rd"), "auth=s3cret"
	token := func(context.Context) (string, error) { return "t0ken", nil }
	_, err = tryAll(t, Config{URL: u.String(), Token: token})
	if len(seen) != 2 || seen[0] != "Bearer t0ken" || seen[1] != "" {
		t.Errorf("Authorization was %q", seen)
	}
	for _, secret := range []string{"passw0rd", "s3cret", "t0ken"} {
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("error %v", err)
		}
	}
	u.Host = "127.0.0.1:1"
	if _, err := tryAll(t, Config{URL: u.String()}); err == nil || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "passw0rd") {
		t.Errorf("error %v", err)
	}
}

// What is asked for says the cursor as the kind does.
func TestRequests(t *testing.T) {
	for _, tt := range []struct {
		kind, url, cursor string
		batch             bool
		want, header      string // the parameters and Last-Event-ID
	}{
		{"wikimedia@", "/e", "", false, "since=1234500", ""},
		{"wikimedia@", "/e", `[{"timestamp":5,"topic":"t"}]`, false, "", `[{"timestamp":4,"topic":"t"}]`},
		{"ntfy@", "/e?since=all", "", true, "poll=1&since=1234", ""},
		{"ntfy@", "/e", "m1", false, "since=m1", ""},
		{"sse", "/e?x=1", "", false, "x=1", ""},
		{"sse", "/e?x=1&y=%2F", "7", false, "x=1&y=%2F", "7"},
		{"wikimedia", "/e", `[{"timestamp":5,"topic":"t"}]`, false, "", `[{"timestamp":4,"topic":"t"}]`},
		{"mercure", "/e?match=a", "", false, "match=a", "earliest"},
		{"mercure", "/e?match=a", "urn:1", false, "match=a", "urn:1"},
		{"ntfy", "/e", "", false, "since=all", ""},
		{"ntfy", "/e?since=10m", "", false, "since=10m", ""},
		{"ntfy", "/e?since=10m", "m1", true, "poll=1&since=m1", ""},
		{"pubky", "/e?user=a&user=b:3&live=true", "a:7 b:5 c:9", false, "live=true&user=a%3A7&user=b%3A5", ""},
	} {
		var query, header string
		address := serveFunc(t, func(_ http.ResponseWriter, r *http.Request) {
			query, header = r.URL.RawQuery, r.Header.Get("Last-Event-ID")
		})
		name, since := strings.CutSuffix(tt.kind, "@")
		k, err := KindNamed(name)
		if err == nil && since {
			k, err = k.BeginAt(time.UnixMilli(1234500))
		}
		if err != nil {
			t.Fatal(err)
		}
		cfg := Config{URL: address + tt.url, Knobs: k.Knobs}
		conn, err := cfg.connect(t.Context(), tt.cursor, tt.batch)
		if err != nil {
			t.Fatal(err)
		}
		conn.close()
		if query != tt.want || header != tt.header {
			t.Errorf("%s %s from %q asks for %q with %q", tt.kind, tt.url, tt.cursor, query, header)
		}
	}
}

// A server asks for a pause in seconds or until a date, and gets at most five minutes.
func TestRetryAfter(t *testing.T) {
	const date = "Fri, 20 Nov 2026 10:00:00 GMT"
	for asked, want := range map[string]time.Duration{
		"20": 20 * time.Second, "86400": maxAskedPause, "99999999999999999999": maxAskedPause, "-5": 0, "10.5": 0,
		"Fri, 20 Nov 2026 10:00:20 GMT": 20 * time.Second, "Sat, 21 Nov 2026 10:00:00 GMT": maxAskedPause, "Thu, 19 Nov 2026 10:00:00 GMT": 0,
	} {
		address := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", date)
			w.Header().Set("Retry-After", asked)
			w.WriteHeader(http.StatusTooManyRequests)
		})
		_, err := (&Config{URL: address}).connect(t.Context(), "", false)
		var status *StatusError
		if !errors.As(err, &status) || status.RetryAfter != want {
			t.Errorf("Retry-After %s: %#v, want %s", asked, status, want)
		}
		f := &follower{cfg: FollowConfig{RetryMin: time.Second, RetryMax: time.Second}}
		if got := f.pause(0, 0, err); got < want || got > max(want, time.Second)*3/2+1 {
			t.Errorf("Retry-After %s: the pause is %s", asked, got)
		}
	}
}
