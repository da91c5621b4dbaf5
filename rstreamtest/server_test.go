package rstreamtest_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/rstreamtest"
)

// copyOf opens a copy of the server's log and a client that fills it.
func copyOf(t *testing.T, s *rstreamtest.Server) *client.Client {
	t.Helper()
	db, err := cache.Open(t.Context(), filepath.Join(t.TempDir(), "copy.db"), cache.Config{Role: cache.Client, Log: s.Log()})
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(db, client.Config{Servers: []string{s.URL}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestServer(t *testing.T) {
	s := rstreamtest.NewServer(t)
	if s.Head() != event.Beginning || !event.ValidLogID(s.Log()) {
		t.Errorf("log %q at %s, want an empty one", s.Log(), s.Head())
	}
	first := s.Put("alice/a", map[string]int{"n": 1})
	again := s.Put("alice/a", map[string]int{"n": 1})
	gone := s.Delete("alice/a")
	receipts := s.PutDrafts(event.Draft{User: "bob", Path: "b", Type: event.Put, Key: "k", Value: []byte("2")})
	if first.ID != 1 || again.ID != 2 || gone.ID != 3 || gone.Type != event.Del || receipts[0].ID != 4 || s.Head() != 4 {
		t.Errorf("ids %s, %s, %s, %s, head %s", first.ID, again.ID, gone.ID, receipts[0].ID, s.Head())
	}
	n := 0
	for ev, err := range copyOf(t, s).Tail(t.Context(), event.All, client.TailOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		switch n++; n {
		case 4:
			s.CloseClientConnections() // the tail comes back
			s.Put("carol/c", "after the cut")
		case 5:
			if string(ev.Value) != `"after the cut"` || ev.User != "carol" {
				t.Errorf("event after the cut = %s", ev.Line())
			}
			return
		}
	}
}

// A failure ends the test that it belongs to.
func TestServerFails(t *testing.T) {
	for name, do := range map[string]func(*rstreamtest.Server){
		"no storage": func(s *rstreamtest.Server) { s.Put("alice", 1) },
		"no value":   func(s *rstreamtest.Server) { s.Put("alice/a", func() {}) },
		"bad draft":  func(s *rstreamtest.Server) { s.PutDrafts(event.Draft{User: "a", Path: "b"}) },
	} {
		s := rstreamtest.NewServer(nil)
		func() {
			defer func() {
				if err := fmt.Sprint(recover()); !strings.HasPrefix(err, "rstreamtest: ") {
					t.Errorf("%s: panics with %q", name, err)
				}
			}()
			do(s)
		}()
		s.Close()
		s.Close()
	}
}

// After Close the server no longer answers, and an open stream does not delay Close.
func TestServerCloses(t *testing.T) {
	s := rstreamtest.NewServer(nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/events?topic=*", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	s.Close()
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("answers %s after Close", resp.Status)
	}
}

func ExampleNewServer() {
	s := rstreamtest.NewServer(nil) // in a test: rstreamtest.NewServer(t)
	defer s.Close()
	s.Put("alice/posts/1", map[string]string{"text": "hello"})

	info, err := client.Probe(context.Background(), client.Config{Servers: []string{s.URL}})
	fmt.Println(info.Head.ID, err)
	// Output:
	// 0000000000001 <nil>
}
