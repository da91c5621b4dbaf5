package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
)

// TestStreamsEndWithTheirTokens: streams end at exp, or soon after a file has a revocation
// or lacks a key, at once if the server is asked to read it; others go on.
func TestStreamsEndWithTheirTokens(t *testing.T) {
	revoke := func(ring *keyring, jti string, _ auth.Key) { ring.replace("revoked", jti+"\n") }
	remove := func(ring *keyring, _ string, other auth.Key) { ring.setKeys(other) }
	for name, test := range map[string]struct {
		end      func(ring *keyring, jti string, other auth.Key)
		reload   bool
		from, to time.Duration // how long it may take
	}{
		"exp":                       {func(*keyring, string, auth.Key) {}, false, time.Minute, time.Minute},
		"revoked, at SIGHUP":        {revoke, true, 0, 0},
		"revoked, by the clock":     {revoke, false, 0, 15 * time.Second},
		"key removed, at SIGHUP":    {remove, true, 0, 0},
		"key removed, by the clock": {remove, false, 0, 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			ring := newKeyring(t, auth.Config{})
			other := ring.newKey()
			ring.setKeys(ring.key, other)
			synctest.Test(t, func(t *testing.T) {
				guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: filepath.Join(ring.dir, "keys"), Revoked: filepath.Join(ring.dir, "revoked"), Public: topicsOf(t, "news")})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var reading sync.WaitGroup
				reading.Go(func() { guard.Run(ctx) })
				defer reading.Wait()
				defer cancel()
				log := newLog()
				s, stop := serve(t, log, Config{Guard: guard, Heartbeat: time.Hour})
				defer stop()
				log.put(t, "a", "p", 1)
				var jti string
				token := ring.grant([]string{"a"}, nil, func(c *auth.Claims) {
					jti = c.ID
					c.Rights.Board = auth.BoardRead
					if name == "exp" {
						c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(time.Minute))
					}
				})
				fs, body := s.stream("/events?topic=a", "Authorization", bearer(token))
				defer body.Close()
				fs.want(t, "PUT", 1)
				fs.want(t, "live", 1)
				kept, keptBody := s.stream("/events?topic=a&since=now", "Authorization", bearer(ring.grantWith(&other, []string{"a"}, nil, nil)))
				defer keptBody.Close()
				kept.want(t, "live", 1)
				public, publicBody := s.stream("/events?topic=news&since=now")
				defer publicBody.Close()
				public.want(t, "live", 1)
				viewer, viewing := s.board("Authorization", bearer(token))
				defer viewing.Close()
				viewer.until("live")
				began := time.Now()
				test.end(ring, jti, other)
				if test.reload {
					if err := guard.Reload(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				for _, fs := range []*frames{fs, viewer.frames} {
					for {
						f, err := fs.nextBefore(began.Add(test.to + time.Minute))
						if err == io.EOF {
							break
						}
						if err != nil || f.event != "" && f.event != closedEvent && f.event != topicsEvent {
							t.Fatalf("%q, %v", f, err)
						}
					}
				}
				if took := time.Since(began); took < test.from || took > test.to {
					t.Errorf("the stream ended after %s", took)
				}
				log.put(t, "a", "p", 1)
				kept.want(t, "PUT", 2)
				log.put(t, "news", "p", 1)
				public.want(t, "PUT", 3)
				resp := s.get("/events?topic=a", "Authorization", bearer(token), "Last-Event-ID", "0000000000001")
				if resp.Body.Close(); resp.StatusCode != http.StatusUnauthorized {
					t.Errorf("the next connection: %s", resp.Status)
				}
			})
		})
	}
}

// TestNothingAfterExp: an event that comes right after exp is not sent.
func TestNothingAfterExp(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	synctest.Test(t, func(t *testing.T) {
		guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: filepath.Join(ring.dir, "keys")})
		if err != nil {
			t.Fatal(err)
		}
		log := newLog()
		s, stop := serve(t, log, Config{Guard: guard})
		defer stop()
		exp := time.Now().Add(time.Minute)
		fs, body := s.stream("/events?topic=a", "Authorization", bearer(ring.grant([]string{"a"}, nil, func(c *auth.Claims) { c.ExpiresAt = jwt.NewNumericDate(exp) })))
		defer body.Close()
		fs.want(t, "live", 0)
		time.AfterFunc(time.Until(exp), func() { log.put(t, "a", "late", 1) })
		for {
			f, err := fs.nextBefore(exp.Add(time.Minute))
			if err == io.EOF {
				return
			}
			if err != nil || f.data != "" {
				t.Fatalf("%q, %v", f, err)
			}
		}
	})
}

// TestStalledReaderWithoutRights: a reader that takes nothing cannot keep its stream.
func TestStalledReaderWithoutRights(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	synctest.Test(t, func(t *testing.T) {
		guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: filepath.Join(ring.dir, "keys"), Revoked: filepath.Join(ring.dir, "revoked")})
		if err != nil {
			t.Fatal(err)
		}
		log := newLog()
		s, stop := serve(t, log, Config{Guard: guard, WriteTimeout: time.Hour})
		defer stop()
		log.put(t, "a", "p", 500)
		var jti string
		token := ring.grant([]string{"a"}, nil, func(c *auth.Claims) { jti = c.ID })
		conn := s.stall("/events?topic=a", wire.SSE+"\r\nAuthorization: "+bearer(token))
		defer conn.Close()
		readTo(t, conn, "event: PUT\n")
		began := time.Now()
		ring.replace("revoked", jti)
		if err := guard.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		for time.Since(began) < time.Minute { // takes 100 bytes a second
			if _, err := conn.Read(b); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("the stream ended after %s", took)
		}
		s.wantConns(t, 0)
	})
}

// TestDownloadsEndWithTheirTokens: a download whose token is revoked is cut off, and never
// looks complete.
func TestDownloadsEndWithTheirTokens(t *testing.T) {
	const events = 5000
	ring := newKeyring(t, auth.Config{})
	for target, accept := range map[string]string{
		"/events?topic=a": wire.NDJSON, "/snapshot?topic=a": wire.NDJSON, "/snapshot?topic=a&at=now": wire.JSON,
	} {
		for name, end := range map[string]func(jti string){
			"revoked": func(jti string) { ring.replace("revoked", jti) },
			"key":     func(string) { ring.setKeys(ring.newKey()) },
			"another": func(string) { ring.replace("revoked", "another") },
		} {
			t.Run(target+" "+accept+" "+name, func(t *testing.T) {
				ring.setKeys(ring.key)
				ring.replace("revoked", "")
				synctest.Test(t, func(t *testing.T) {
					guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: filepath.Join(ring.dir, "keys"), Revoked: filepath.Join(ring.dir, "revoked")})
					if err != nil {
						t.Fatal(err)
					}
					log := newLog()
					s, stop := serve(t, log, Config{Guard: guard})
					defer stop()
					for i := range events {
						log.put(t, "a", fmt.Sprint(i), 1)
					}
					var jti string
					token := ring.grant([]string{"a"}, nil, func(c *auth.Claims) { jti = c.ID })
					conn := s.stall(target, accept+"\r\nConnection: close\r\nAuthorization: "+bearer(token))
					defer conn.Close()
					readTo(t, conn, `"hash"`)
					end(jti)
					if err := guard.Reload(t.Context()); err != nil {
						t.Fatal(err)
					}
					rest, err := io.ReadAll(conn)
					if err != nil {
						t.Fatal(err)
					}
					whole := strings.HasSuffix(string(rest), "\r\n0\r\n\r\n")
					if n := strings.Count(string(rest), `"hash"`) + 1; whole != (name == "another") || whole != (n == events) {
						t.Errorf("%d events; complete: %t", n, whole)
					}
				})
			})
		}
	}
}

// TestFarExpiry: a token that expires in the year 9999 ends nothing.
func TestFarExpiry(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	for _, year := range []int{2261, 2263, 2300, 9999} {
		synctest.Test(t, func(t *testing.T) {
			log := newLog()
			s, stop := serve(t, log, Config{Guard: ring.guard})
			defer stop()
			token := ring.grant([]string{"a"}, nil, func(c *auth.Claims) {
				c.ExpiresAt = jwt.NewNumericDate(time.Date(year, 12, 31, 0, 0, 0, 0, time.UTC))
			})
			fs, body := s.stream("/events?topic=a", "Authorization", bearer(token))
			defer body.Close()
			fs.want(t, "live", 0)
			time.Sleep(time.Second)
			log.put(t, "a", "p", 1)
			fs.want(t, "PUT", 1)
		})
	}
}

// TestConnectionAfterAToken: a connection is used again after a stream has ended, and after
// the token of that stream has expired.
func TestConnectionAfterAToken(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		s, stop := serve(t, log, Config{Guard: ring.guard})
		defer stop()
		log.put(t, "a", "p", 3)
		token := ring.grant([]string{"a"}, nil, func(c *auth.Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(time.Minute)) })
		conn := s.stall("/events?topic=a&until=now", wire.SSE+"\r\nAuthorization: "+bearer(token))
		defer conn.Close()
		readTo(t, conn, "\r\n0\r\n\r\n")
		time.Sleep(2 * time.Minute)
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		readTo(t, conn, `{"status":"ok"}`)
	})
}
