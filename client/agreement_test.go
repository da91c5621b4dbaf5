package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Servers of different logs are detected before any request for events or append, no
// matter which of them is down at first.
func TestServersAgree(t *testing.T) {
	const otherLog = "5ZC8Y0M7Q2KJ4T1R"
	for _, c := range []struct {
		name string
		logs map[string]string // by host: a log, or another kind of server
		want string            // in the error, or "" if there is none
	}{
		{"one log", map[string]string{"a": stubLog, "b": stubLog, "c": stubLog}, ""},
		{"the last is another", map[string]string{"a": stubLog, "b": stubLog, "c": otherLog}, "http://a serves the log " + stubLog + ", and http://c serves the log " + otherLog},
		{"the first is another", map[string]string{"a": otherLog, "b": stubLog, "c": stubLog}, "http://a serves the log " + otherLog},
		{"the first is down", map[string]string{"a": "down", "b": stubLog, "c": stubLog}, ""},
		{"the last is down", map[string]string{"a": stubLog, "b": stubLog, "c": "down"}, ""},
		{"one is silent", map[string]string{"a": stubLog, "b": "silent", "c": stubLog}, ""},
		{"down, and two logs", map[string]string{"a": "down", "b": stubLog, "c": otherLog}, "http://b serves the log"},
		{"silent, and two logs", map[string]string{"a": stubLog, "b": "silent", "c": otherLog}, "http://c serves the log"},
		{"one is a web page", map[string]string{"a": stubLog, "b": "page", "c": stubLog}, ""},
		{"the first is a web page", map[string]string{"a": "page", "b": stubLog, "c": stubLog}, ""},
		{"web pages, and two logs", map[string]string{"a": "page", "b": stubLog, "c": otherLog}, "http://b serves the log"},
		{"all are web pages", map[string]string{"a": "page", "b": "page", "c": "page"}, "http://b: is not an rstream server"},
		{"web pages and silence", map[string]string{"a": "page", "b": "silent", "c": "down"}, "http://a: is not an rstream server"},
		{"all are down", map[string]string{"a": "down", "b": "down", "c": "down"}, "connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				checkAgreement(t, c.logs, c.want)
			})
		})
	}
}

func checkAgreement(t *testing.T, logs map[string]string, want string) {
	var mu sync.Mutex
	var appended []string
	httpClient := &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
		switch log := logs[r.URL.Host]; {
		case log == "down":
			return nil, syscall.ECONNREFUSED
		case log == "silent":
			<-r.Context().Done()
			return nil, r.Context().Err()
		case log == "page":
			return answer(r, 200, "text/html", text("<html>"), wire.HeaderLog, ""), nil
		case r.Method == http.MethodGet:
			return answer(r, 200, wire.JSON, text(`{"log":"`+log+`"}`), wire.HeaderLog, log), nil
		}
		mu.Lock()
		defer mu.Unlock()
		appended = append(appended, r.URL.Host)
		return answer(r, 507, wire.Problem, text(`{}`), wire.HeaderLog, stubLog), nil
	})}
	start := time.Now()
	c, err := New(nil, Config{Servers: []string{"http://a", "http://b", "http://c"}, HTTP: httpClient})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = c.Put(ctx, []event.Draft{{User: "a", Path: "p", Type: event.Put, Key: "k", Value: []byte("1")}})
	if took := time.Since(start); took > agreeTime {
		t.Errorf("took %v", took)
	}
	var full *StatusError
	switch isFull := errors.As(err, &full) && full.Status == 507; {
	case want == "" && !isFull:
		t.Errorf("put = %v, want it sent to a server", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("put = %v, want %q", err, want)
	case want != "" && len(appended) > 0, want == "" && (len(appended) != 1 || logs[appended[0]] != stubLog):
		t.Errorf("appended to %v", appended)
	}
}

// A first response that does not come is reported once. Later ones are reported by the
// retries.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var said []string
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(said)
		}
		delay := 10 * time.Second
		note := func(server string) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, server)
		}
		cfg := Config{Servers: []string{"http://user:secret@a/x"}, OnSilence: note,
			HTTP: &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
				time.Sleep(delay)
				return answer(r, 200, wire.JSON, text(`{"log":"`+stubLog+`"}`)), nil
			})}}
		c, err := New(nil, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 2 {
			if _, err := c.Info(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if count() != 1 || strings.Contains(said[0], "secret") {
			t.Errorf("said %q, want one server without its password", said)
		}
		delay = time.Second
		if _, err := Probe(t.Context(), cfg); err != nil || count() != 1 {
			t.Errorf("probe = %v, said %q", err, said)
		}
	})
}

// A server that is certainly not an rstream server ends the first attempt.
func TestStrangers(t *testing.T) {
	for _, c := range []struct{ name, answer, want string }{
		{"SSH", "SSH-2.0-OpenSSH_9.6\r\n", `it answers "SSH-2.0-OpenSSH_9.6", which is not HTTP`},
		{"SMTP", "220 mail ESMTP\r\n", "it does not speak HTTP"},
		{"Redis", "-ERR unknown command\r\n", "it does not speak HTTP"},
		{"MySQL", "J\x00\x00\x00\x0a8.0.36\x00\n", "which is not HTTP"},
		{"an alert of TLS", "\x15\x03\x01\x00\x02\x02\x16\n", "it speaks TLS; use https://"},
		{"HTTP on a port of TLS", "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n", "Client sent an HTTP request to an HTTPS server. (400)"},
		{"a page", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>", "does not name its log"},
		{"a page that never ends", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 600\r\n\r\n<html>", "does not name its log"},
		{"JSON", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", "does not name its log"},
		{"no such page", "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope", "it answers with nope (404)"},
		{"no such method", "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n", "405 method not allowed"},
		{"another version", "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", "426 upgrade required"},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := "http://" + answering(t, c.answer)
			start := time.Now()
			_, err := Probe(t.Context(), Config{Servers: []string{base}, Wait: true})
			var protocol *ProtocolError
			if !errors.As(err, &protocol) || !strings.Contains(err.Error(), "is not an rstream server: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("probe = %v, want that it is not an rstream server: %s", err, c.want)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	_, err := Probe(t.Context(), Config{Servers: []string{"https://" + answering(t, "HTTP/1.1 400 Bad Request\r\n\r\n")}})
	if err == nil || !strings.Contains(err.Error(), "use http:// in place of https://") {
		t.Errorf("probe of HTTP by TLS = %v", err)
	}
}

// answering returns the address of a listener that answers each connection with a text,
// once it has received something, and leaves the connection open.
func answering(t *testing.T, text string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			all.Go(func() {
				if n, _ := conn.Read(make([]byte, 4096)); n > 0 {
					_, _ = conn.Write([]byte(text))
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return l.Addr().String()
}
