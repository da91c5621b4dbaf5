//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/client"
)

// narrowProxy returns the URL of a proxy that lets only small requests through, and none of a topic.
func narrowProxy(t *testing.T, server string) string {
	t.Helper()
	to, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	next := httputil.NewSingleHostReverseProxy(to)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > 2000 {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		if strings.Contains(r.URL.String(), "broken") {
			http.Error(w, "broken", http.StatusBadRequest)
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		proxy.CloseClientConnections()
		proxy.Close()
	})
	return proxy.URL
}

// An append that only a proxy refuses waits with those after it. It keeps neither sync nor sync
// --follow from fetching, and each command that it stops names it.
func TestHeldUpByProxy(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", dir)
	copied := filepath.Join(dir, "copy.db")
	proxy := narrowProxy(t, serveEvents(t, filepath.Join(dir, "log.db"), 3))
	flags := []string{"--cache", copied, "-s", proxy}
	command := func(args ...string) ran { t.Helper(); return runCommand(t, append(args, flags...)...) }
	if r := command("sync"); r.status != exitDone {
		t.Fatal(r)
	}
	for _, value := range []string{`"small"`, `"` + strings.Repeat("v", 4000) + `"`, `"after"`} {
		if r := command("put", "--offline", "alice/box", value); r.status != exitDone {
			t.Fatal(r)
		}
	}
	const says, hint = "append 2, to alice/box: put: too large (413)", `hint: "rstream outbox drop 2" gives it up`
	r := command("sync")
	if r.status != exitFailed || !strings.Contains(r.out, `"fetched":1,"held":4`) || !strings.Contains(r.out, `{"type":"sent","sent":1,`) ||
		strings.Count(r.err, says) != 1 || !strings.Contains(r.err, hint) {
		t.Errorf("sync: %+v", r)
	}
	if r := command("sync", "broken"); r.status != exitFailed || strings.Count(r.err, says) != 1 || !strings.Contains(r.err, "400") {
		t.Errorf("sync that cannot fetch: %+v", r)
	}
	if r := command("put", "alice/more", "1"); r.status != exitFailed || !strings.Contains(r.err, says) || !strings.Contains(r.err, hint) {
		t.Errorf("put: %+v", r)
	}
	noteHeldUp(t, copied, proxy, says)
	if r := command("outbox", "drop", "2"); r.status != exitDone {
		t.Errorf("outbox drop: %+v", r)
	}
	if r := command("sync", "*"); r.status != exitDone || !strings.Contains(r.out, `"held":5`) {
		t.Errorf("sync after that: %+v", r)
	}
}

// noteHeldUp checks that a sync --follow goes on, and says once what is held up.
func noteHeldUp(t *testing.T, copied, proxy, says string) {
	t.Helper()
	db := openCopy(t, copied)
	var mu sync.Mutex
	said, heard := "", make(chan struct{}, 10)
	a := &app{err: &strings.Builder{}, servers: []string{proxy}, settings: &settings{}}
	a.say = func(text string) {
		mu.Lock()
		defer mu.Unlock()
		said += text + "\n"
		heard <- struct{}{}
	}
	c, err := client.New(db, client.Config{Servers: []string{proxy}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := &session{Client: c, db: db, app: a}
	first, err := a.startSending(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer first.stop()
	err = a.whileSending(t.Context(), s, first, func(ctx context.Context) error {
		for {
			select {
			case <-heard:
				mu.Lock()
				done := strings.Contains(said, says)
				mu.Unlock()
				if done {
					return nil
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	if err != nil {
		t.Errorf("sync --follow: %v", err)
	}
}

// What is held up is said once, as long as it is the same, and sent again after pauses. Any other
// error ends the command.
func TestHeldUpIsSaidOnce(t *testing.T) {
	var said strings.Builder
	a, h, other := &app{err: &said}, heldOutbox{}, errors.New("other")
	for range 3 {
		if err := h.take(a, fmt.Errorf("send: %w", &client.HeldUpError{Number: 2, Err: other})); err != nil || h.until.IsZero() {
			t.Errorf("held up: %v", err)
		}
	}
	if n := strings.Count(said.String(), "append 2"); n != 1 {
		t.Errorf("it is said %d times: %s", n, said.String())
	}
	if err := h.take(a, other); !errors.Is(err, other) {
		t.Errorf("another error: %v", err)
	}
	if err := h.take(a, nil); err != nil || !h.until.IsZero() {
		t.Errorf("when all is sent: %v", err)
	}
}
