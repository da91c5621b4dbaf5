package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
)

// A blindLog takes everything and keeps nothing.
type blindLog struct{ *cache.DB }

func (blindLog) AppendFrom(context.Context, *cache.SourceMove, []event.Draft) ([]event.Receipt, error) {
	return nil, nil
}

func (blindLog) Taken(context.Context, []event.Hash) (map[event.Hash]event.ID, error) {
	return nil, nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (fn roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return fn(r) }

// readSlowly makes f read a connection that brings one block every half second, the n-th from 0 as
// block says, until that is "" or after 200. It returns how long that takes.
func readSlowly(t *testing.T, f *follower, block func(n int) string) time.Duration {
	t.Helper()
	body, w := io.Pipe()
	answer := func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body, Request: r}, nil
	}
	session, err := sse.Open(t.Context(), sse.Config{URL: "http://x.example", HTTP: &http.Client{Transport: roundTripper(answer)}, Idle: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	conn := &connection{Session: session, reader: newFrameReader(&f.cfg.Knobs, f.state.Cursor, nil), release: func() {}}
	written := make(chan struct{})
	go func() {
		defer close(written)
		for n := 0; ; n++ {
			text := block(n)
			if text == "" || n == 200 {
				return
			}
			if _, err := io.WriteString(w, text); err != nil {
				return
			}
			time.Sleep(time.Second / 2)
		}
	}()
	begun := time.Now()
	if guessed, err := f.readConnection(t.Context(), conn); err != nil || !guessed {
		t.Fatalf("after %s: guessed %v, %v", time.Since(begun), guessed, err)
	}
	took := time.Since(begun)
	body.Close()
	<-written
	return took
}

// The history is taken to be over when nothing new has come for some time, whatever else comes.
func TestFollowIdleBusy(t *testing.T) {
	const idle = 3 * time.Second
	event := func(n int) string { return fmt.Sprintf("id: %d\ndata: %d\n\n", n, n) }
	history := func(until int) func(int) string {
		return func(n int) string {
			if n == until {
				return ""
			}
			return event(n)
		}
	}
	for _, tt := range []struct {
		name   string
		before func(n int) string // of an earlier connection, if set
		block  func(n int) string
		least  time.Duration // until the end
	}{
		{"nothing", nil, history(1), idle},
		{"comments", nil, func(int) string { return ": x\n\n" }, idle},
		{"ids", nil, func(n int) string { return fmt.Sprintf("id: %d\n\n", n) }, idle},
		{"one id", nil, func(int) string { return "id: 1\n\n" }, idle},
		{"a type", nil, func(int) string { return "event: ping\n\n" }, idle},
		{"two events again and again", nil, func(n int) string { return event(n % 2) }, idle},
		{"new events", nil, history(20), 9500*time.Millisecond + idle},
		{"events that were there before, then new ones", history(20), history(40), 19500*time.Millisecond + idle},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, err := NewMapper("src", Mapping{})
				if err != nil {
					t.Fatal(err)
				}
				cfg := FollowConfig{Config: Config{URL: "http://x.example"}, Name: "src", Log: blindLog{}, Mapper: m, UntilEnd: true, EndIdle: idle, Now: time.Now, repeats: 100}
				f := &follower{cfg: cfg, repeats: newRepeats(cfg.repeats, nil)}
				if tt.before != nil {
					readSlowly(t, f, tt.before)
				}
				if took := readSlowly(t, f, tt.block); took < tt.least || took > tt.least+2*time.Second {
					t.Errorf("the end comes after %s, want %s", took, tt.least)
				}
			})
		})
	}
}
